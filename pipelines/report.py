"""Report on a sweep: front, tables, plots and slates in one HTML page.

    recdiv report
    recdiv report data.name=NAME --run ID --out DIR --keep 0.99 --no-slates

Reads the newest sweep (or --run) from MLflow, writes `report.html` and `front.png`, and logs both
to the sweep's parent run. Recommends the trial that gains on every kind of diversity and keeps at
least --keep of the accuracy of w = 0 (default 0.97). Evaluates the operating points again for their
slates and intervals, except on large data sets; --no-slates and --slates override that. Users are
numbered unless --show-ids is given.
Prints {"experiment", "tracking_uri", "front", "hypervolume", "knee", "recommended",
"operating_points", "report", "dashboard"}.
"""

import argparse
from pathlib import Path

from pipelines import run_pipeline
from recdiv_core.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this script."""
    parser.add_argument(
        "--run", default="", metavar="ID", help="parent run of the sweep (default: the newest)"
    )
    parser.add_argument(
        "--out", type=Path, default=None, metavar="DIR", help="directory of the files"
    )
    parser.add_argument(
        "--keep", type=float, default=0.97, metavar="SHARE", help="share of the accuracy to keep"
    )
    parser.add_argument(
        "--slates",
        action=argparse.BooleanOptionalAction,
        help="evaluate the operating points and show slates",
    )
    parser.add_argument(
        "--show-ids", action="store_true", help="show the user_id of example slates"
    )


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Report on a sweep."""
    from recdiv_core.report.report import report

    return report(
        config,
        parent_run_id=args.run,
        out=args.out,
        slates=args.slates,
        show_ids=args.show_ids,
        keep=args.keep,
    )


if __name__ == "__main__":
    run_pipeline(main, options=options)
