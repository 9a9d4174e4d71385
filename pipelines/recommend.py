"""Make slates for every user, as Parquet.

    python -m pipelines.recommend --checkpoint DIR --out slates
    python -m pipelines.recommend --checkpoint DIR --out slates rerank.method=dpp
    python -m pipelines.recommend --checkpoint DIR --out grid --dial 0,0.1,0.2,0.4 rerank.method=mmr
    python -m pipelines.recommend --checkpoint DIR --out held_out --users test

The checkpoint's own config is used, with the overrides of this call. The same command again goes
on where a killed one stopped. Rows: user_id, item_ids, scores; --dial writes diversity=D/ for each.
Prints {"slates", "num_users", "num_parts", "dials", "users_per_s"}.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines import run_pipeline
from recdiv_core.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="DIR")
    parser.add_argument("--out", required=True, type=Path, metavar="PATH")
    parser.add_argument(
        "--users",
        default="all",
        choices=("all", "val", "test"),
        help="all with their complete histories (default), or as a split is evaluated",
    )
    parser.add_argument("--dial", default="", metavar="D,D,...", help="several, in one pass")


def dials_of(text: str) -> list[float]:
    """Parse `--dial`.

    Raises:
        ValueError: not numbers with commas between them.
    """
    try:
        return [float(dial) for dial in text.split(",")] if text else []
    except ValueError:
        raise ValueError(f"--dial {text}: allowed are numbers in [0, 1], as in 0,0.1,1") from None


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Make the slates of one checkpoint."""
    dials = dials_of(args.dial)
    from recdiv_core.evaluate import checkpoint_config
    from recdiv_core.recommend import recommend

    own = checkpoint_config(args.checkpoint, args.overrides)
    return recommend(own, args.checkpoint, args.out, users=args.users, dials=dials)


if __name__ == "__main__":
    run_pipeline(main, options=options)
