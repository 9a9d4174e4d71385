"""Make a prepared data set from a click log and a catalogue.

    recdiv prepare data.source=demo
    recdiv prepare data.clicks=clicks.csv data.items=items.csv data.out=runs/prepared/shop
    recdiv prepare --config shop.yaml
    recdiv prepare data.base=runs/prepared/shop data.clicks=today.csv data.items=items.csv

With data.base, new files are appended to a prepared data set (docs/updating.md).
Prints {"prepared", "num_users", "num_items", "num_events", "quarantined", ...}.
"""

from __future__ import annotations

import argparse

from pipelines import run_pipeline
from recdiv_core.config import Config


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Prepare the data set of the config."""
    del args
    if config.data.base:
        from recdiv_core.data.append import append

        return append(config)
    from recdiv_core.data.clicklog import prepare

    return prepare(config)


if __name__ == "__main__":
    run_pipeline(main)
