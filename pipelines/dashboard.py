"""Serve the MLflow page of your runs on http://127.0.0.1 until Ctrl-C.

    recdiv dashboard [--port 5000] [tracking.uri=URI] [data.name=NAME]

The printed link opens the trials of the newest sweep, with their metrics.
Prints {"dashboard"} at the end, or at once if the runs are on an MLflow server.
"""

from __future__ import annotations

import argparse

from pipelines import run_pipeline
from recdiv_core.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument(
        "--port", type=int, default=5000, help="TCP port on 127.0.0.1 (default 5000)"
    )


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Serve the page."""
    from recdiv_core.report.dashboard import serve

    return serve(config, args.port)


if __name__ == "__main__":
    run_pipeline(main, options=options)
