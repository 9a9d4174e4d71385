"""Export a checkpoint as ONNX, to serve slates without torch.

    recdiv export --checkpoint DIR --out runs/export/shop
    recdiv export --checkpoint DIR --out runs/export/shop --int8

Needs the extra `export`: pip install -e '.[export]'. Writes model.onnx (histories in, scores of
all items out: towers, blend, adjustments), items.json and model.json. With --int8 also
model.int8.onnx; model.json then has what int8 costs in each metric. Nothing is written if the ONNX
model does not score as the checkpoint does. Queries, re-ranking and rules are not exported;
docs/export.md has a client.
Prints {"out", "files", "num_items", "inputs", "parity", "int8"}.
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
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="new directory")
    parser.add_argument("--int8", action="store_true", help="also write a model with int8 weights")
    parser.add_argument(
        "--opset", type=int, default=18, metavar="N", help="version of the ONNX operators (18)"
    )


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Export one checkpoint."""
    from recdiv_core.release.export import export
    from recdiv_core.slates.checkpoint_copies import given_checkpoint
    from recdiv_core.slates.inputs import checkpoint_config

    checkpoint = given_checkpoint(args.checkpoint, "--checkpoint")
    own = checkpoint_config(checkpoint, args.given.own)
    return export(own, checkpoint, args.out, int8=args.int8, opset=args.opset)


if __name__ == "__main__":
    run_pipeline(main, options=options)
