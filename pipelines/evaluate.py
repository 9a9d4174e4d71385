"""Evaluate a checkpoint: full ranking of the catalogue, each held-out user exactly once.

    recdiv evaluate --checkpoint DIR
    recdiv evaluate --checkpoint DIR --split val --out metrics.json eval.k=20
    recdiv evaluate --checkpoint DIR rerank.method=mmr rerank.diversity=0.4
    recdiv evaluate --checkpoint DIR eval.cutoffs=[1,5] eval.slices=[user,brand]

The checkpoint's own config is used, with the overrides of this call.
Prints {"checkpoint", "split", "num_users", "metrics", "slices", "fairness"}.
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
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="path or URI")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--out", type=Path, metavar="PATH", help="also write metrics.json there")


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Evaluate one checkpoint."""
    from recdiv_core.evaluation.evaluate import evaluate
    from recdiv_core.slates.inputs import checkpoint_config

    own = checkpoint_config(args.checkpoint, args.given.own)
    out = None if args.out is None else output_path(args.out, "--out")  # before the work
    result = evaluate(own, args.checkpoint, split=args.split)
    if out is not None:
        figures = {name: result[name] for name in ("split", "k", "num_users", "metrics")}
        write_json(out, figures)
    return result


if __name__ == "__main__":
    run_pipeline(main, options=options)
