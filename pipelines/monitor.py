"""Monitor a shop: raise alarms if the newest day of the log or new slates are not as before.

    recdiv monitor data.prepared=runs/prepared/shop
    recdiv monitor slates-today --before slates-yesterday data.prepared=DIR --limit coverage=0.2

Judges the number of events, the most active user, the mix of categories, categories and items that
are gone, prices, and the texts of new items of the last whole day against the 28 days before. Of
slates: how many are narrower than the user's own choice, shared slates, coverage, the share of the
most shown items, and the mix of categories. docs/monitoring.md explains each signal. Exit status 1
= a signal fired.
Prints {"prepared", "day", "days_before", "fired", "signals", "not_judged"}.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipelines import run_pipeline
from recdiv_core.config import Config
from recdiv_core.errors import UserError


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument("--before", type=Path, metavar="DIR", help="slates to compare with")
    parser.add_argument("--day", default="", help="date in UTC (default: the last whole day)")
    parser.add_argument("--days", type=int, default=28, help="days before it (default: 28)")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="SIGNAL=X", help="another limit; repeatable"
    )


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Judge a day and, where given, slates."""
    if len(args.slates) > 1:
        raise UserError(f"got {len(args.slates)} directories of slates; give one or none")
    if not config.data.prepared:
        raise UserError("data.prepared is not set; give a prepared data set")
    if args.days < 1:
        raise UserError(f"--days {args.days}: allowed are whole numbers from 1")
    from recdiv_core.report.monitoring import monitor

    return monitor(
        config,
        slates=Path(args.slates[0]) if args.slates else None,
        before=args.before,
        day=args.day,
        num_days=args.days,
        limits=dict(_limit(text) for text in args.limit),
    )


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise UserError(f"--limit {text}: allowed is SIGNAL=NUMBER") from None


if __name__ == "__main__":
    if run_pipeline(main, options=options, words="slates")["fired"]:
        sys.exit(1)
