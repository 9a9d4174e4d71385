"""Register a run in MLflow's model registry, and promote it through a gate.

    recdiv register runs/first/trials/trial-00003 --name shop
    recdiv register SWEEP_ID --name shop
    recdiv register 'runs/base+rerank.method=mmr+rerank.diversity=0.2' --name shop
    recdiv register --name shop --promote
    recdiv register --name shop --promote --keep coverage=1.0 --keep ndcg.tail=0.9

RUN (as for `recdiv compare`) becomes the next version of NAME with the alias `candidate`. The
MLflow id of a sweep is its recommended point, with the re-ranking that was chosen.
--promote makes it `champion` if its test metrics keep the required shares of the champion's. The
lower end of each 95 % interval must reach the share. Defaults: 0.98 of NDCG and of coverage, 0.95
of the NDCG on head, middle and tail items, and 0.95 of the users who are not narrowed. The
registered pyfunc model takes `history` (item_ids, oldest first) and returns slates.
Prints {"name", "version", "alias", "model_uri"}; with --promote also "champion" (the previous
version), "promoted" and "gate". Exit status 1 if the candidate does not pass.
"""

from __future__ import annotations

import argparse
import os
import sys

from pipelines import run_pipeline
from recdiv_core.config import Config
from recdiv_core.errors import UserError


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument("--name", required=True, help="name of the registered model")
    parser.add_argument(
        "--promote", action="store_true", help="promote the candidate if it passes the gate"
    )
    parser.add_argument(
        "--keep", action="append", default=[], metavar="NAME=SHARE", help="share to keep"
    )
    parser.add_argument("--split", default="test", choices=("val", "test"), help="of the gate")


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Register a run, promote the candidate, or both."""
    if len(args.runs) > 1 or not (args.runs or args.promote):
        raise UserError(f"got {len(args.runs)} runs; give one RUN to register, --promote, or both")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from recdiv_core.release.gate import parse_floors

    floors = parse_floors(args.keep)
    from recdiv_core.release.registry import promote, register

    registered = register(config, args.runs[0], args.given.own, args.name) if args.runs else {}
    if not args.promote:
        return registered
    return registered | promote(config, args.name, floors, split=args.split)


if __name__ == "__main__":
    result = run_pipeline(main, options=options, words="runs")
    if result.get("promoted") is False:
        sys.exit(1)
