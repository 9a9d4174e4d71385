"""Register an operating point in MLflow's model registry, and promote it through a gate.

    python -m pipelines.register runs/first/trials/trial-00003 --name shop
    python -m pipelines.register 'runs/base+rerank.method=mmr+rerank.diversity=0.2' --name shop
    python -m pipelines.register --name shop --promote
    python -m pipelines.register --name shop --promote --keep coverage=1.0 --keep ndcg.tail=0.9

RUN (as of pipelines.compare) becomes the next version of NAME, alias `candidate`. --promote gives
it the alias `champion` if its figures on test keep the asked shares of the champion's, each with
the lower end of its 95 % interval: by default 0.98 of NDCG and of coverage, and 0.95 of the NDCG
of the users whose held-out item is of the head, the middle and the tail. What
`mlflow.pyfunc.load_model` loads of `models:/NAME@champion` takes `history` (item_ids, oldest first)
and returns slates.
Prints {"name", "version", "alias", "model_uri"}; with --promote also "champion" (the version
before), "promoted" and "gate"; a candidate that does not pass is exit status 1.
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
    parser.add_argument("--name", required=True, help="of the registered model")
    parser.add_argument("--promote", action="store_true", help="the candidate, through the gate")
    parser.add_argument("--keep", action="append", default=[], metavar="NAME=SHARE")
    parser.add_argument("--split", default="test", choices=("val", "test"))


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Register a run, promote the candidate, or both."""
    if len(args.runs) > 1 or not (args.runs or args.promote):
        raise UserError(f"got {len(args.runs)} RUN: give one to register, or --promote, or both")
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
