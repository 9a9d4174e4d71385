"""Evaluate a checkpoint, or slates of any other system, on held-out users.

    recdiv evaluate --checkpoint DIR
    recdiv evaluate --checkpoint DIR --split val --out metrics.json eval.k=20
    recdiv evaluate --checkpoint DIR rerank.method=mmr rerank.diversity=0.4
    recdiv evaluate --checkpoint DIR eval.cutoffs=[1,5] eval.slices=[user,brand]
    recdiv evaluate --slates DIR data.prepared=DIR

A checkpoint ranks the whole catalogue, with its own config and the overrides of this call. --slates
takes a directory of Parquet files or one file (.parquet, .jsonl, .csv) with user_id and item_ids.
Each held-out user counts once. Prints {"checkpoint", "split", "num_users", "metrics", "slices",
"fairness", "exposure"}; with --slates also {"slates", "matching"}.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines import run_pipeline
from recdiv_core.config import Config
from recdiv_core.storage.given_paths import output_path
from recdiv_core.storage.whole_files import write_json


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint", metavar="DIR", help="training run (runs/NAME) or checkpoint"
    )
    source.add_argument("--slates", metavar="PATH", help="slates of another system")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--out", type=Path, metavar="PATH", help="also write metrics.json there")


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Evaluate one checkpoint, or one system's slates."""
    from recdiv_core.evaluation.evaluate import evaluate, evaluate_given
    from recdiv_core.slates.checkpoint_copies import given_checkpoint
    from recdiv_core.slates.inputs import checkpoint_config, slates_config

    out = None if args.out is None else output_path(args.out, "--out")  # before the work
    if args.slates is not None:
        own = slates_config(args.given.own)
        result = evaluate_given(own, args.slates, split=args.split)
    else:
        checkpoint = given_checkpoint(args.checkpoint, "--checkpoint")
        own = checkpoint_config(checkpoint, args.given.own)
        result = evaluate(own, checkpoint, split=args.split)
    if out is not None:
        figures = {name: result[name] for name in ("split", "k", "num_users", "metrics")}
        write_json(out, figures)
    return result


if __name__ == "__main__":
    run_pipeline(main, options=options)
