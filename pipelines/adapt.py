"""Adapt a text encoder to a shop before the clicks, or distil it into a smaller one.

    recdiv adapt --out runs/encoders/shop data.prepared=runs/prepared/shop
    recdiv adapt --out runs/encoders/small data.prepared=runs/prepared/shop adapt.layers=2
    recdiv prepare ... model.text.encoder=runs/encoders/shop

Learns from the texts of all items, and from queries and events of the train split alone, in one
process. --out appears in one step; model.text.encoder takes it, after another `prepare`.
docs/encoders.md has the losses and what they add.
Prints {"out", "encoder", "num_texts", "pairs", "num_pairs", "losses", "took_s"}.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines import run_pipeline
from recdiv_core.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="new directory")
    parser.add_argument(
        "--encoder", default="", metavar="NAME", help="start from it, not from that of the data set"
    )


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Adapt one encoder."""
    from recdiv_core.adaptation.adapt import adapt

    return adapt(config, args.out, args.encoder)


if __name__ == "__main__":
    run_pipeline(main, options=options)
