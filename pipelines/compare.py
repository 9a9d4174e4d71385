"""Compare trained runs on the same users: differences, 95 % intervals, claims corrected by Holm.

    python -m pipelines.compare runs/plain runs/diverse
    python -m pipelines.compare a-s0,a-s1,a-s2 b-s0,b-s1,b-s2 --claims ndcg,coverage
    python -m pipelines.compare --front mmr=A,A+rerank.method=mmr+rerank.diversity=0.4 --front w=A,B

A RUN is the directory of a training run, a checkpoint, or the id of an MLflow run; `RUN,RUN,...`
are the seeds of one model; the first is the reference. `RUN+key=value` has a re-ranker or a dial of
its own; `key=value` alone holds for all. What the intervals cover: docs/compare.md.
Prints {"split", "k", "num_users", "resamples", "claims", "figures", "comparisons", "fronts"}.
"""

from __future__ import annotations

import argparse
import sys

from pipelines import run_pipeline
from recdiv_core.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="default 10000")
    parser.add_argument(
        "--claims",
        default="ndcg,coverage,ild",
        metavar="NAMES",
        help="metrics that are claimed, named beforehand (default ndcg,coverage,ild)",
    )
    parser.add_argument("--front", action="append", default=[], metavar="NAME=RUN,RUN,...")


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
