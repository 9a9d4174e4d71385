"""Inspect slates: do all users see the same few items, and which categories are missing.

    recdiv inspect slates data.prepared=runs/prepared/shop
    recdiv inspect slates --before slates-of-may data.prepared=DIR --out page.html

Finds near-identical items in a slate, users with identical slates, slates narrower than the user's
history, and categories with less exposure than demand. Reads any directory of part-*.parquet with
`user_id` and `item_ids`, and writes an HTML page beside the slates. With a column `query`, as of
`recommend --queries`, each row is a request.
Prints {"slates", "of", "num_users", "k", "verdict", "figures", "segments", "near_identical",
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
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="older slates of the same shop, to compare with"
    )
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="HTML page (default SLATES/_inspect.html)"
    )


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Inspect one directory of slates."""
    if len(args.slates) != 1:
        raise UserError(f"got {len(args.slates)} directories of slates; give exactly one")
    if not config.data.prepared:
        raise UserError("data.prepared is not set; give the prepared data set of the slates")
    from recdiv_core.report.inspection import inspect

    return inspect(config, Path(args.slates[0]), before=args.before, out=args.out)


if __name__ == "__main__":
    run_pipeline(main, options=options, words="slates")
