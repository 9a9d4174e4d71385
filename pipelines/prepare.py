"""Click log + catalogue -> a prepared data set: what train, tune and evaluate read.

    python -m pipelines.prepare data.source=demo
    python -m pipelines.prepare data.clicks=clicks.csv data.items=items.csv data.out=runs/shop
    python -m pipelines.prepare data.clicks=log/ data.items=items.jsonl data.columns.timestamp=time

Prints {"prepared", "num_users", "num_items", "num_events", "quarantined", ...}.
"""

from __future__ import annotations

import argparse

from pipelines import run_pipeline
from recdiv_core.config import Config


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Prepare the data set of the config."""
    del args
    from recdiv_core.data.clicklog import prepare

    return prepare(config)


if __name__ == "__main__":
    run_pipeline(main)
