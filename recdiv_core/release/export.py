"""Export a checkpoint as ONNX: a directory that serves slates without torch.

    checkpoint -> PaddedScorer -> model.onnx, model.int8.onnx, items.json -> checks -> model.json

The directory appears in one step, after all checks. docs/export.md has the files and a client.
"""

from __future__ import annotations

import importlib.metadata
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch

from recdiv_core.config import Config
from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import Packed
from recdiv_core.data.versions import with_version
from recdiv_core.errors import UserError
from recdiv_core.models.baselines import Baseline
from recdiv_core.models.baselines.padded import PADDED
from recdiv_core.models.padded_scorer import PaddedScorer
from recdiv_core.models.recommender import Recommender
from recdiv_core.release.onnx_model import (
    OnnxModel,
    check_opset,
    check_packages,
    scoring_by_onnx,
    write_onnx,
)
from recdiv_core.release.parity import check_parity, held_out_split, losses
from recdiv_core.slates.carry import carried
from recdiv_core.slates.checkpoint import weights_digest
from recdiv_core.slates.checkpoint_copies import local_checkpoint
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.eligibility import may_limit, with_whole_paths
from recdiv_core.slates.inputs import check_inputs
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import Scoring, reads_queries, scoring_of
from recdiv_core.storage.claims import new_directory_at
from recdiv_core.storage.given_paths import new_directory
from recdiv_core.storage.whole_files import write_json

logger = logging.getLogger(__name__)

FORMAT: Final = 1
"""Version of `model.json`."""

ITEMS: Final = "items.json"
FLOAT32: Final = "model.onnx"
INT8: Final = "model.int8.onnx"

NOTED_LOSS: Final = 1.0
"""Loss of a metric by int8 above which a warning names it, in per cent."""


def export(
    config: Config, checkpoint: str | Path, out: Path, *, int8: bool, opset: int
) -> dict[str, Any]:
    """Write a checkpoint as ONNX, after checking that it scores as before.

    Args:
        config: settings of the checkpoint with those of this call, see `checkpoint_config`.
        checkpoint: directory, path or URI.
        out: directory to write; it must not exist, or be empty.
        int8: whether to write a second model with int8 weights, and to measure its loss.
        opset: version of the ONNX operators.

    Returns:
        `{"out", "files", "num_items", "inputs", "parity", "int8"}`; the last is None without int8.

    Raises:
        UserError: missing packages, files that do not fit, a model that cannot be exported, or an
            export that does not score as the checkpoint does.
    """
    check_packages()
    check_opset(opset)
    out = new_directory(out, "--out")
    check_kind(config)
    config = with_whole_paths(with_version(config))
    prepared, manifest = check_inputs(config, checkpoint)
    local = local_checkpoint(checkpoint, "--checkpoint")
    torch.set_num_threads(config.scaling.threads_per_worker)
    dataset = load_dataset(prepared)
    held_out_split(dataset)
    model = load_model(config, dataset, carried(local, prepared, manifest))
    missing = not_exported(config, model, prepared)
    for message in missing:
        logger.warning("%s", message)
    with new_directory_at(out) as made:
        source = Source(model, dataset, config, opset)
        facts: dict[str, Any] = {**describe(source), "not_exported": missing}
        facts["model"] |= {"weights": weights_digest(local)}
        write_models(made, source, facts, int8=int8)
        write_json(made / "model.json", facts, indent=1)
    files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    shown = {name: facts[name] for name in ("num_items", "inputs", "parity", "int8")}
    return {"out": str(out), "files": files, **shown}


@dataclass(frozen=True, eq=False)
class Source:
    """What is exported."""

    model: Recommender | Baseline
    dataset: Dataset
    config: Config
    opset: int

    @cached_property
    def lowered_V(self) -> torch.Tensor | None:
        """What logit adjustment and lift subtract from the scores; None = nothing."""
        policy = slate_policy(self.config, self.dataset, self.model.lifts)
        return policy.lowered_V(self.dataset.log_prior_V)

    def score(self, examples: Examples, packed: Packed) -> torch.Tensor:
        """Score as the checkpoint does, with logit adjustment and lift; see `Scoring`."""
        scores_BV = self._scoring(examples, packed)
        return scores_BV if self.lowered_V is None else scores_BV - self.lowered_V

    @cached_property
    def _scoring(self) -> Scoring:
        return scoring_of(self.model, self.config.model.diversity)


def check_kind(config: Config) -> None:
    """Refuse a kind of model that needs more than the events of a user.

    Raises:
        UserError: the kind cannot be exported.
    """
    kind = config.model.kind
    if kind != "neural" and kind not in PADDED:
        reason = "draws by user id" if kind == "random" else "reads the text of a query"
        raise UserError(
            f"model.kind={kind} {reason} and cannot be exported; allowed: neural, "
            f"{', '.join(PADDED)}"
        )


def not_exported(config: Config, model: Recommender | Baseline, prepared: Path) -> list[str]:
    """Return what slates of this config have and the exported model has not, one line each."""
    found: list[str] = []
    if reads_queries(model):
        found.append("queries: the exported model answers requests without a query")
    if config.rerank.method != "none" and config.rerank.diversity > 0:
        found.append(
            f"re-ranking: rerank.method={config.rerank.method} with rerank.diversity="
            f"{config.rerank.diversity:g} is not in the exported model"
        )
    if config.rerank.rules:
        found.append("rules: rerank.rules are not in the exported model")
    if may_limit(config, prepared):
        found.append("eligibility: leave out items that may not be shown (eligible.*) yourself")
    return found


INPUTS: Final = {
    "items": {
        "dtype": "int64",
        "shape": ["B", "L"],
        "meaning": "item_index of the events of B users, newest last; -1 fills the front; L >= 1; "
        "an item_index is a place in items.json",
    },
    "times": {
        "dtype": "int64",
        "shape": ["B", "L"],
        "meaning": "times of the events, rising; 0 fills the front; 0, 1, 2, ... = unknown",
        "unit": "microseconds since 1970",
    },
    "dial": {
        "dtype": "float32",
        "shape": ["B"],
        "meaning": "model.diversity of each request, in [0, 1]; 0 = pure relevance",
    },
}
OUTPUTS: Final = {
    "scores": {
        "dtype": "float32",
        "shape": ["B", "num_items"],
        "meaning": "score of each item; higher is better; items of the history are included",
    }
}


def describe(source: Source) -> dict[str, Any]:
    """Return the facts of `model.json` that are known before the models are written."""
    model, config, manifest = source.model, source.config, source.dataset.manifest
    blend = model.blend if isinstance(model, Recommender) else None
    kinds = [] if blend is None else blend.kinds[: blend.num_history_terms]
    return {
        "format": FORMAT,
        "made_by": f"recdiv {importlib.metadata.version('recdiv')}",
        "model": {"kind": config.model.kind, "blend": kinds},
        "data": {"name": manifest.name, "fingerprint": manifest.fingerprint},
        "opset": source.opset,
        "num_items": len(source.dataset.catalogue),
        "k": config.eval.k,
        "filter_seen": config.eval.filter_seen,
        "outputs": OUTPUTS,
    }


def write_models(made: Path, source: Source, facts: dict[str, Any], *, int8: bool) -> None:
    """Write and check the models and `items.json`; add their facts.

    Raises:
        UserError: the scores differ.
    """
    item_ids = source.dataset.catalogue.table["item_id"].to_pylist()
    write_json(made / ITEMS, item_ids)
    exact = write_model(made / FLOAT32, source)
    scores = scoring_by_onnx(exact, source.config.model.diversity)
    parity = check_parity(source.score, scores, source.dataset, source.config)
    logger.info("%s: %s", FLOAT32, parity.in_words())
    if not parity.is_kept:
        raise UserError(
            f"the exported model does not score as the checkpoint does: {parity.in_words()}; "
            "nothing is written"
        )
    facts["files"] = {"items": ITEMS, "float32": FLOAT32}
    facts["inputs"] = {name: INPUTS[name] for name in exact.input_names}
    facts["parity"], facts["int8"] = parity.as_json(), None
    if int8:
        facts["files"]["int8"] = INT8
        rounded = write_model(made / INT8, source, is_int8=True)
        near = scoring_by_onnx(rounded, source.config.model.diversity)
        facts["int8"] = judge_int8(scores, near, source)


def write_model(path: Path, source: Source, *, is_int8: bool = False) -> OnnxModel:
    """Write one ONNX file and open it."""
    scorer = PaddedScorer(source.model, lowered_V=source.lowered_V, is_int8=is_int8)
    has_times = source.dataset.manifest.has_timestamps
    write_onnx(scorer, path, has_times=has_times, opset=source.opset)
    logger.info("%s: %.1f MiB", path.name, path.stat().st_size / 2**20)
    return OnnxModel(path, threads=source.config.scaling.threads_per_worker)


def judge_int8(exact: Scoring, rounded: Scoring, source: Source) -> dict[str, Any]:
    """Compare the int8 model with the float32 one: scores, slates, and every metric.

    A warning names the metrics that lose more than NOTED_LOSS.
    """
    parity = check_parity(exact, rounded, source.dataset, source.config)
    logger.info("%s: %s", INT8, parity.in_words())
    metrics = losses(exact, rounded, source.dataset, source.config)
    worst = max(metrics, key=lambda name: metrics[name]["loss_percent"] or 0.0)
    loss = metrics[worst]["loss_percent"] or 0.0
    logger.info("%s: largest loss of a metric: %s, %.2f %%", INT8, worst, loss)
    over = [name for name, own in metrics.items() if (own["loss_percent"] or 0.0) > NOTED_LOSS]
    if over:
        logger.warning("%s loses more than %g %% of %s", INT8, NOTED_LOSS, ", ".join(over))
    return {
        "max_difference": parity.max_difference,
        "equal_top_k": parity.equal_top_k,
        "split": parity.split,
        "worst": {"metric": worst, "loss_percent": loss},
        "metrics": metrics,
    }
