"""Make slates for every user, as Parquet.

    python -m pipelines.recommend --checkpoint DIR --out slates
    python -m pipelines.recommend --checkpoint DIR --out slates rerank.method=dpp
    python -m pipelines.recommend --checkpoint DIR --out grid --dial 0,0.1,0.2,0.4 rerank.method=mmr
    python -m pipelines.recommend --checkpoint DIR --out held_out --users test
    python -m pipelines.recommend --checkpoint DIR --out why --explain rerank.method=mmr

The checkpoint's own config is used, with the overrides of this call. The same command again goes
on where a killed one stopped. Rows: user_id, item_ids, scores; --dial writes diversity=D/ for each.
With rerank.rules also gave_way; with --explain relevance, novelty and rule of each place.
Prints {"slates", "num_users", "num_parts", "dials", "users_per_s"}.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines import run_pipeline
from recdiv_core.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="path or URI")
    parser.add_argument("--out", required=True, type=Path, metavar="PATH")
    parser.add_argument(
        "--users",
        default="all",
        choices=("all", "val", "test"),
        help="all with their complete histories (default), or as a split is evaluated",
    )
    parser.add_argument("--explain", action="store_true", help="say of each place why")
    parser.add_argument("--dial", default="", metavar="D,D,...", help="several, in one pass")


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Make the slates of one checkpoint."""
    from recdiv_core.slates.inputs import checkpoint_config
    from recdiv_core.slates.recommend import dials_of, recommend

    own = checkpoint_config(args.checkpoint, args.given.own)
    return recommend(
        own,
        args.checkpoint,
        args.out,
        users=args.users,
        dials=dials_of(args.dial),
        explained=args.explain,
    )


if __name__ == "__main__":
    run_pipeline(main, options=options)
