"""Draw the front of a sweep: tables, plots, an HTML page, logged to its run in MLflow.

    python -m pipelines.report
    python -m pipelines.report data.name=NAME --run ID --out DIR --no-slates

The sweep is the newest unless `--run` names its parent run. Writes `report.html` and `front.png`,
logs both to the parent run, prints the front as one JSON line. Up to three runs are judged again,
in this process, to show what their slates are like (`--no-slates`: none; `--slates`: on a large
data set too); the users shown are numbered, `--show-ids` names them.
"""

import argparse
from pathlib import Path

from pipelines import run_pipeline
from recdiv_core.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this script."""
    parser.add_argument("--run", default="", metavar="ID", help="parent run of the sweep")
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="where to write")
    parser.add_argument(
        "--slates", action=argparse.BooleanOptionalAction, help="judge a few runs and show slates"
    )
    parser.add_argument(
        "--show-ids", action="store_true", help="name the users of example slates by user_id"
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
    )


if __name__ == "__main__":
    run_pipeline(main, options=options)
