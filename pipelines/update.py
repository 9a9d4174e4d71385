"""Update a model with new clicks: append, judge, train on, register, gate. One command a day.

    recdiv update --name shop data.base=runs/prepared/shop data.clicks='log/*.csv' data.items=i.csv
    recdiv update --name shop --retrain --config shop.yaml data.base=runs/prepared/shop

The champion of NAME is judged on the newest test window before the training. The candidate starts
from the champion's weights (--epochs over old and new events), or from scratch with --retrain. It
becomes the champion if it passes the gate of `recdiv register`. After a kill the same command goes
on. It is served with the most accurate entry of `eval.dials` that holds the diversity of the first
update's candidate. A page shows the champions over time, beside --yardstick models. Prints
{"prepared", "generation", "day", "champion", "before", "run", "served", "held", "after",
"yardstick", "version", "promoted", "gate", "alarms", "page"}. Exit status 1 if there is an alarm.
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
    parser.add_argument("--retrain", action="store_true", help="train from scratch")
    parser.add_argument("--yardstick", action="store_true", help="also train one from scratch")
    parser.add_argument("--no-hold", action="store_true", help="keep the candidate's re-ranking")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of a fine-tuning")
    parser.add_argument(
        "--rate-share", type=float, default=0.5, help="share of train.learning_rate in it"
    )
    parser.add_argument(
        "--keep", action="append", default=[], metavar="NAME=SHARE", help="share to keep"
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.3,
        help="alarm if the champion's NDCG is so much below the mean of the last 7 updates",
    )


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Do a day's update."""
    if args.epochs < 1 or not 0 < args.rate_share <= 1 or not 0 <= args.max_drop <= 1:
        given = f"--epochs {args.epochs} --rate-share {args.rate_share} --max-drop {args.max_drop}"
        raise UserError(f"{given}: allowed are 1 or more, (0, 1] and [0, 1]")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from recdiv_core.release.gate import parse_floors
    from recdiv_core.updating.day import update
    from recdiv_core.updating.plan import Plan

    plan = Plan(
        args.name,
        args.retrain,
        args.epochs,
        args.rate_share,
        parse_floors(args.keep),
        args.max_drop,
        has_yardstick=args.yardstick,
        holds=not args.no_hold,
    )
    return update(config, plan)


if __name__ == "__main__":
    result = run_pipeline(main, options=options)
    if result.get("alarms"):
        sys.exit(1)
