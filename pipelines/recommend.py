"""Make slates for all users, as Parquet.

    recdiv recommend --checkpoint DIR --out slates
    recdiv recommend --checkpoint DIR --out slates rerank.method=dpp rerank.diversity=0.2
    recdiv recommend --checkpoint DIR --out grid --dial 0,0.1,0.2,0.4 rerank.method=mmr
    recdiv recommend --checkpoint DIR --out held_out --users test
    recdiv recommend --checkpoint DIR --out found --queries queries.csv
    recdiv recommend --checkpoint DIR --out why --explain rerank.method=mmr

Settings come from the checkpoint; key=value overrides them. Run the same command again to continue
after a crash. Columns: user_id, item_ids, scores; with `rerank.rules` also gave_way; with --explain
also relevance, novelty and rule of each place (and raised, what a lift or logit adjustment added to
its score). --dial writes one directory diversity=D/ per dial.
--queries answers each row of a file (CSV, JSON Lines, Parquet, xlsx): column query, optionally
user_id or history (item ids, a list or joined by |), and where (conditions such as region=eu|world;
min_age=0); the slates then have the column query.
Prints {"slates", "num_users", "num_parts", "dials", "num_short_slates", "num_empty_slates",
"users_per_s"}.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines import run_pipeline
from recdiv_core.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="training run (runs/NAME) or checkpoint"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="PATH", help="directory to write"
    )
    parser.add_argument(
        "--users",
        default="all",
        choices=("all", "val", "test"),
        help="all users with complete histories (default), or the users of a split",
    )
    parser.add_argument("--queries", default="", metavar="FILE", help="answer a file of queries")
    parser.add_argument("--explain", action="store_true", help="add the reason for each place")
    parser.add_argument("--dial", default="", metavar="D,D,...", help="dials to write in one pass")


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Make the slates of one checkpoint."""
    from recdiv_core.slates.checkpoint_copies import given_checkpoint
    from recdiv_core.slates.inputs import checkpoint_config
    from recdiv_core.slates.recommend import dials_of, recommend

    checkpoint = given_checkpoint(args.checkpoint, "--checkpoint")
    own = checkpoint_config(checkpoint, args.given.own)
    return recommend(
        own,
        checkpoint,
        args.out,
        users=args.users,
        dials=dials_of(args.dial),
        explained=args.explain,
        queries=args.queries,
    )


if __name__ == "__main__":
    run_pipeline(main, options=options)
