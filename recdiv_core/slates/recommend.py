"""Slates for every user, as Parquet: what a shop ships.

Made as evaluation makes them, in the same batches, but written instead of judged. The one idea: the
users are cut into parts, fixed beforehand; Ray Data hands parts to actors that hold the model, and
each writes its part whole or not at all. What is there when a job is killed is kept, and the same
command makes the rest: no user twice, none missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch

from recdiv_core.config import Config, flatten
from recdiv_core.data.reading import SplitRows, eval_examples
from recdiv_core.data.requests import REQUESTS, ensure_requests
from recdiv_core.data.text_vectors import ensure_vectors
from recdiv_core.data.versions import with_version
from recdiv_core.errors import UserError
from recdiv_core.rerank import NOVELTIES
from recdiv_core.rerank.breaches import gave_way
from recdiv_core.rerank.explain import explain
from recdiv_core.schema import Manifest, check_unchanged
from recdiv_core.slate_rules import SlateRule, group_rules
from recdiv_core.slates.checkpoint_copies import local_checkpoint
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.files import PartWriter, part_path, remove_unfinished, slate_table
from recdiv_core.slates.inputs import check_inputs, start_with_gpu
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.making import SlateGrid, make_slate_grid
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import score_users, scoring_of
from recdiv_core.storage.given_paths import output_path
from recdiv_core.storage.places import absolute_place
from recdiv_core.storage.whole_files import write_json

logger = logging.getLogger(__name__)

PART_BATCHES: Final = 32
"""Batches of `eval.batch_size` users that a part holds: what a killed job does again at most."""
PLAN: Final = "_recommend.json"
"""What a directory of slates is of; without it nothing is written there. Readers of a directory of
Parquet pass over names that begin like this one."""

SEVERAL: Final = "several rules"
"""In place of a rule's words, where none by itself kept something better from a place."""

KEPT: Final = ("model.", "rerank.", "eval.k", "eval.filter_seen", "eval.batch_size")
"""Keys that decide what the slates are; `rerank.diversity` is told by the dials."""


def recommend(
    config: Config,
    checkpoint: str | Path,
    out: Path,
    *,
    users: str,
    dials: Sequence[float] = (),
    explained: bool = False,
) -> dict[str, Any]:
    """Make slates on `scaling.num_workers` Ray Data actors.

    Args:
        config: `data.prepared`, `eval`, `rerank`, `scaling`; see `evaluate.checkpoint_config`.
        checkpoint: directory, path or URI.
        out: directory to write: `part-*.parquet` with rows of SLATE, in `diversity=D/` for each
            dial of a grid.
        users: `all` with their complete histories, or those of a split as they are evaluated.
        dials: of the re-ranker, made in one pass; none = the config's own.
        explained: add to each place what relevance and novelty gave, and the rule that intervened.

    Returns:
        `{"slates", "num_users", "num_parts", "dials", "users_per_s"}`; the last is None where
        nothing was left to do.

    Raises:
        UserError: files, data, checkpoint and settings that do not fit together; `out` holds
            something else.
    """
    config = with_version(config)
    prepared, manifest = check_inputs(
        config, checkpoint, swept=("rerank.diversity",) if dials else ()
    )
    _check_dials(config, dials)
    if explained and config.rerank.method not in NOVELTIES:
        raise UserError(
            f"--explain: rerank.method={config.rerank.method} does not choose place by place; "
            f"allowed: {', '.join(NOVELTIES)}"
        )
    if users != "all" and not manifest.num_examples.get(users):
        raise UserError(f"--users {users}: data.prepared={prepared} holds no {users} example")
    out, is_grid = output_path(out, "--out").absolute(), bool(dials)
    dials = list(dials) or [config.rerank.diversity]
    _open_directory(
        out,
        _plan(
            config, local_checkpoint(checkpoint, "--checkpoint"), manifest, users, dials, explained
        ),
    )
    start_with_gpu(config, checkpoint)
    ensure_vectors(prepared, manifest)
    if users == "all":
        ensure_requests(prepared, manifest)
    split = REQUESTS if users == "all" else users
    num_users = SplitRows(prepared, split).num_rows
    part_users = PART_BATCHES * config.eval.batch_size
    num_parts = -(-num_users // part_users)
    places = [out / f"diversity={dial:g}" for dial in dials] if is_grid else [out]
    left = [
        part for part in range(num_parts) if not all(part_path(p, part).is_file() for p in places)
    ]
    if len(left) < num_parts:
        logger.info("%d of %d parts are there already", num_parts - len(left), num_parts)
    remove_unfinished(out)
    place = absolute_place(checkpoint, "--checkpoint")
    task = _Task(config, place, split, part_users, places, dials, explained)
    rate = _make_parts(task, left, lambda: check_unchanged(prepared, manifest))
    remove_unfinished(out)  # of workers that were lost
    return {
        "slates": str(out),
        "num_users": num_users,
        "num_parts": num_parts,
        "dials": dials,
        "users_per_s": rate,
    }


def dials_of(text: str) -> list[float]:
    """Parse `--dial`.

    Raises:
        UserError: not numbers with commas between them.
    """
    try:
        return [float(dial) for dial in text.split(",")] if text else []
    except ValueError:
        raise UserError(f"--dial {text}: allowed are numbers in [0, 1], as in 0,0.1,1") from None


def _check_dials(config: Config, dials: Sequence[float]) -> None:
    if len(dials) > 1 and config.rerank.method == "none":
        raise UserError("--dial: rerank.method=none has no dial; set rerank.method")
    names = [f"{dial:g}" for dial in dials]
    for dial in dials:
        if not 0 <= dial <= 1:
            raise UserError(f"--dial {dial:g} must lie in [0, 1]: 0 = relevance, 1 = diversity")
    if len(set(names)) < len(names):
        raise UserError(f"--dial {','.join(names)} names a dial twice")


def _plan(
    config: Config,
    checkpoint: Path,
    manifest: Manifest,
    users: str,
    dials: Sequence[float],
    explained: bool,
) -> dict[str, Any]:
    """Return what decides the slates, as JSON has it."""
    weights = hashlib.sha256((checkpoint / "model.pt").read_bytes()).hexdigest()
    settings = {
        key: value
        for key, value in flatten(config).items()
        if key.startswith(KEPT) and key != "rerank.diversity"
    }
    plan = {
        "checkpoint": weights,
        "manifest_fingerprint": manifest.fingerprint,
        "users": users,
        "dials": list(dials),
        "explained": explained,
        "part_batches": PART_BATCHES,
        **settings,
    }
    return json.loads(json.dumps(plan))


def _open_directory(out: Path, plan: Mapping[str, Any]) -> None:
    """Make the directory, or make sure that what is there is of the same plan.

    Raises:
        UserError: it holds other slates, or something else.
    """
    path = out / PLAN
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a directory")
    if out.is_dir() and any(out.iterdir()):
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(
                f"--out {out} holds something else than slates of pipelines.recommend; give a new "
                "directory"
            ) from None
        changed = [
            f"{key} was {before.get(key)!r}, is {plan.get(key)!r}"
            for key in sorted({*before, *plan})
            if before.get(key) != plan.get(key)
        ]
        if changed:
            raise UserError(
                f"--out {out} holds other slates: {'; '.join(changed)}. Give a new directory, or "
                "the same settings to go on"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, plan, indent=1)


@dataclass(frozen=True)
class _Task:
    """What an actor makes.

    Attributes:
        config: Config of the checkpoint, with `data.prepared`.
        checkpoint: Path or URI of the checkpoint.
        split: Name of the split, or REQUESTS.
        part_users: Users in a part; the last part may hold fewer.
        places: Output directory of each dial.
        dials: Dials of the re-ranker, in [0, 1].
        explained: Whether each item says what relevance and novelty gave.
    """

    config: Config
    checkpoint: str
    split: str
    part_users: int
    places: Sequence[Path]
    dials: Sequence[float]
    explained: bool


def _make_parts(task: _Task, left: Sequence[int], check: Callable[[], None]) -> float | None:
    """Make the parts that are left; return users a second, None where there was nothing to do.

    Args:
        task: what to make.
        left: numbers of the parts.
        check: called after each part; raises where the data set was changed meanwhile.
    """
    if not left:
        return None
    import ray.data

    scaling = task.config.scaling
    made = ray.data.from_items(
        [{"part": part} for part in left], override_num_blocks=len(left)
    ).map_batches(
        _Recommender,
        fn_constructor_args=(task,),
        batch_size=1,
        batch_format="numpy",
        num_cpus=scaling.cpus_per_worker or 0.5,
        num_gpus=float(scaling.use_gpu) or None,
        compute=ray.data.ActorPoolStrategy(size=min(scaling.num_workers, len(left))),
    )
    num_users = SplitRows(Path(task.config.data.prepared), task.split).num_rows
    total = sum(len(_rows_of_part(task, part, num_users)) for part in left)
    started, num_done, rate = time.monotonic(), 0, 0.0
    row: Any
    for row in made.iter_rows():
        check()
        num_done += int(row["num_users"])
        rate = num_done / (time.monotonic() - started)
        logger.info(
            "slates of %d of %d users, %.0f a second, %.0f s left",
            num_done,
            total,
            rate,
            (total - num_done) / rate,
        )
    return rate


def _rows_of_part(task: _Task, part: int, num_users: int) -> range:
    """Return the rows that a part holds; the last part may be short."""
    start = part * task.part_users
    return range(start, min(start + task.part_users, num_users))


class _Recommender:
    """Holds the model, and writes the parts that it is handed."""

    def __init__(self, task: _Task) -> None:
        config = task.config
        torch.set_num_threads(config.scaling.threads_per_worker)
        device = torch.device("cuda" if config.scaling.use_gpu else "cpu")
        self.task = task
        self.rows = SplitRows(Path(config.data.prepared), task.split)
        self.dataset = load_dataset(Path(config.data.prepared)).to(device)
        self.policy = slate_policy(config, self.dataset)
        checkpoint = local_checkpoint(task.checkpoint, "--checkpoint")
        model = load_model(config, self.dataset, checkpoint).to(device)
        self.score = scoring_of(model, config.model.diversity)
        self.item_ids = self.dataset.catalogue.table["item_id"].combine_chunks()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        num_users = [self._write(int(part)) for part in batch["part"]]
        return {"part": batch["part"], "num_users": np.array(num_users)}

    def _write(self, part: int) -> int:
        """Write a part, once for each dial; return its users."""
        config, dataset = self.task.config, self.dataset
        rows, size = _rows_of_part(self.task, part, self.rows.num_rows), config.eval.batch_size
        table = self.rows.read(rows.start, rows.stop)
        batches = (
            eval_examples(table.slice(start, size)) for start in range(0, table.num_rows, size)
        )
        with ExitStack() as stack:
            writers = [
                stack.enter_context(PartWriter(part_path(place, part)))
                for place in self.task.places
            ]
            for held_out in score_users(
                batches, dataset, self.score, max_history=config.model.max_history
            ):
                with torch.inference_mode():
                    grid = make_slate_grid(
                        held_out.scores_BV,
                        held_out.packed.seen_user_S,
                        held_out.packed.seen_item_S,
                        dataset.traits,
                        dataset.log_prior_V,
                        self.policy,
                        self.task.dials,
                    )
                    notes = self._notes(grid)
                items_BWK, scores_BWK = grid.items_BWK.cpu().numpy(), grid.scores_BWK.cpu().numpy()
                users = held_out.examples.user_ids
                for index, writer in enumerate(writers):
                    own = items_BWK[:, index], scores_BWK[:, index]
                    writer.write(slate_table(users, *own, self.item_ids, notes[index]))
        return table.num_rows

    def _notes(self, grid: SlateGrid) -> list[dict[str, Any]]:
        """Return the further columns of each dial's slates."""
        options, texts = self.policy.reranker_options, self.task.config.rerank.rules
        notes: list[dict[str, Any]] = [{} for _ in self.task.dials]
        groups = [rules for rules in group_rules(texts) if rules[0].kind != "exclude"]
        if texts:
            broken_BWR = gave_way(options.rules, grid.items_BWK).cpu().numpy()
            items_BWK = grid.items_BWK.cpu().numpy()
            for index, own in enumerate(notes):
                rows = zip(broken_BWR[:, index], items_BWK[:, index], strict=True)
                said = [self._words(groups, broken_R, slate_K) for broken_R, slate_K in rows]
                own["gave_way"] = pa.array(said, pa.list_(pa.string()))
        if self.task.explained:
            why = explain(
                NOVELTIES[self.policy.method],
                grid.candidates,
                grid.chosen_BWK,
                self.task.dials,
                options,
            )
            words = [r[0].text if len(r) == 1 else f"include {len(r)} items" for r in groups]
            names = np.array([*words, SEVERAL, ""], dtype=object)  # -1: no rule
            for index, own in enumerate(notes):
                own["relevance"] = why.relevance_BWK[:, index].cpu().numpy()
                own["novelty"] = why.novelty_BWK[:, index].cpu().numpy()
                own["rule"] = names[why.rule_BWK[:, index].cpu().numpy()]
        return notes

    def _words(
        self, groups: Sequence[Sequence[SlateRule]], broken_R: np.ndarray, slate_K: np.ndarray
    ) -> list[str]:
        """Return the rules that a slate breaks; of rules that include items, those that lack."""
        words: list[str] = []
        for index in np.flatnonzero(broken_R):
            rules = groups[int(index)]
            if len(rules) > 1:
                there = set(self.item_ids.take(pa.array(slate_K[slate_K >= 0])).to_pylist())
                rules = [rule for rule in rules if rule.item_id not in there]
            words += [rule.text for rule in rules]
        return words
