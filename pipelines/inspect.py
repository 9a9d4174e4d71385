"""Inspect slates: is everybody shown the same few things, and which categories are left out.

    python -m pipelines.inspect slates data.prepared=runs/prepared/shop
    python -m pipelines.inspect slates --before slates-of-may data.prepared=DIR --out page.html

Looks for near-identical items inside a slate, users with one and the same slate, slates narrower
than what the user chose before, categories with less exposure than demand. Any directory of
part-*.parquet with user_id and item_ids will do. Writes a page beside the slates.
Prints {"slates", "num_users", "k", "verdict", "figures", "segments", "near_identical",
"same_slates", "starved", "before", "page"}.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines import run_pipeline
from recdiv_core.config import Config
from recdiv_core.errors import UserError


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument("--before", type=Path, metavar="DIR", help="older slates of the same shop")
    parser.add_argument("--out", type=Path, metavar="PATH", help="the page (SLATES/_inspect.html)")


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Inspect one directory of slates."""
    if len(args.slates) != 1:
        raise UserError(f"got {len(args.slates)} SLATES: give one directory")
    if not config.data.prepared:
        raise UserError("data.prepared is not set: give the directory that the slates are of")
    from recdiv_core.report.inspection import inspect

    return inspect(config, Path(args.slates[0]), before=args.before, out=args.out)


if __name__ == "__main__":
    run_pipeline(main, options=options, words="slates")
