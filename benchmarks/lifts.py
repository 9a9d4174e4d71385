"""Measure what lifts give, beside logit adjustment and re-ranking, without training anew.

    python -m benchmarks.lifts CHECKPOINT
    python -m benchmarks.lifts CHECKPOINT --split test --reference BASELINE_CHECKPOINT

Each entry is written as in `eval.dials`. The lifts are measured anew, so a checkpoint of an earlier
version can be judged too. Prints one JSON line: the metrics at `eval.k` of the model alone, and the
change of each entry against it in per cent, or against the reference alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from recdiv_core.config import override, parse_dial
from recdiv_core.evaluation.evaluate import tally_dials
from recdiv_core.metrics.tally import finish
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.inputs import checkpoint_config
from recdiv_core.slates.lifting import fit_lifts
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split

METRICS = ("ndcg", "coverage", "ild", "diversity_index", "gini", "narrowed")
ENTRIES = (
    *("none", "logit 0.1", "logit 0.25", "lift 0.1", "lift 0.2", "lift 0.3", "lift 0.4"),
    *("lift 0.6", "lift 0.8", "lift 1", "msd 0.2", "msd 0.3", "msd 0.2 logit 0.1"),
    *("msd 0.2 lift 0.4", "msd 0.2 lift 0.6", "msd 0.3 lift 0.4", "msd 0.3 lift 0.6"),
)


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--reference", type=Path, help="the model to compare with; none = its own")
    parser.add_argument("--split", default="val", choices=["val", "test"])
    args = parser.parse_args()
    judged, fit_cpu_s = judge(args.checkpoint, args.split)
    reference = judge(args.reference, args.split)[0] if args.reference else judged
    first = reference["none"]
    changes = {
        entry: {
            name: round(100 * (own[name] / first[name] - 1), 1) if first[name] else None
            for name in METRICS
        }
        for entry, own in judged.items()
    }
    alone = {name: round(first[name], 4) for name in METRICS}
    print(json.dumps({"alone": alone, "percent": changes, "fit_cpu_s": round(fit_cpu_s, 1)}))


def judge(checkpoint: Path, split: str) -> tuple[dict[str, dict[str, float]], float]:
    """Return the metrics under each of ENTRIES, and the CPU seconds that the lifts took."""
    plain = {"rerank.method": "none", "rerank.logit_adjustment": 0.0, "rerank.lift": 0.0}
    config = checkpoint_config(checkpoint, plain)
    dataset = load_dataset(Path(config.data.prepared))
    model = load_model(config, dataset, checkpoint)
    started = time.process_time()
    fit_lifts(model, dataset, config)
    fit_cpu_s = time.process_time() - started
    policies = [
        slate_policy(override(config, parse_dial(entry)), dataset, model.lifts) for entry in ENTRIES
    ]
    share = held_out_of_split(model, dataset, split, config)
    tallies = tally_dials(share, dataset, policies)
    k = config.eval.k
    found: dict[str, dict[str, float]] = {}
    for entry, tally in zip(ENTRIES, tallies, strict=True):
        values = finish(tally)
        found[entry] = {name: values[f"{name}_at_{k}"] for name in METRICS}
    return found, fit_cpu_s


if __name__ == "__main__":
    main()
