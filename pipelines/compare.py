"""Compare systems on the same users: differences with 95 % intervals, Holm-corrected claims.

    recdiv compare runs/plain runs/diverse
    recdiv compare a-s0,a-s1,a-s2 b-s0,b-s1,b-s2 --claims ndcg,coverage
    recdiv compare slates:production runs/diverse
    recdiv compare --front mmr=A,A+rerank.method=mmr+rerank.diversity=0.4 --front w=A,B

A RUN is a run directory, a checkpoint or an MLflow run id. `RUN,RUN,...` are several seeds of one
model. The first RUN is the reference. `RUN+key=value` overrides a setting for that run,
`key=value` alone for all. `slates:PATH` names slates of another system (as of `recdiv evaluate
--slates`). docs/compare.md explains the intervals.
Prints {"split", "k", "num_users", "resamples", "claims", "figures", "comparisons", "fronts"}.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final

from pipelines import run_pipeline
from recdiv_core.config import Config

RESAMPLES: Final = "bootstrap resamples of the users (default 10000)"
FRONT: Final = "a named front to compare with the others; repeat the option for each front"


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument(
        "--split", default="test", choices=("val", "test"), help="split to evaluate (default test)"
    )
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help=RESAMPLES)
    parser.add_argument(
        "--claims",
        default="ndcg,coverage,ild",
        metavar="NAMES",
        help="metrics of the claims, corrected together (default ndcg,coverage,ild)",
    )
    parser.add_argument(
        "--front", action="append", default=[], metavar="NAME=RUN,RUN,...", help=FRONT
    )


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Compare runs and fronts."""
    from recdiv_core.evaluation.compare import compare
    from recdiv_core.evaluation.compare_text import table

    result = compare(
        config,
        args.runs,
        args.front,
        args.given.own,
        split=args.split,
        num_resamples=args.resamples,
        claims=args.claims.split(","),
    )
    print(table(result), file=sys.stderr)
    return result


if __name__ == "__main__":
    run_pipeline(main, options=options, words="runs")
