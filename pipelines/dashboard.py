"""Serve MLflow's page of the runs on http://127.0.0.1 until Ctrl-C; log the newest sweep's link.

    python -m pipelines.dashboard [--port 5000] [tracking.uri=URI] [data.name=NAME]

The link opens the trials of the newest sweep (of that data set) with their figures.
Prints {"dashboard"} at the end; where the runs are on an MLflow server, at once.
"""

from __future__ import annotations

import argparse

from pipelines import run_pipeline
from recdiv_core.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument("--port", type=int, default=5000, help="5000 unless given")


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Serve the page."""
    from recdiv_core.report.dashboard import serve

    return serve(config, args.port)


if __name__ == "__main__":
    run_pipeline(main, options=options)
