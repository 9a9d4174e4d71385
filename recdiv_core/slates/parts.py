"""Write the parts of a directory of slates, with actors that hold the model.

A part is a fixed range of users, so a lost actor costs at most the part that it was writing.
recommend.py plans the directory, and files.py writes the files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch

from recdiv_core.config import Config
from recdiv_core.data.arrays import Examples
from recdiv_core.data.reading import SplitRows, eval_examples
from recdiv_core.rerank import NOVELTIES
from recdiv_core.rerank.breaches import breaches
from recdiv_core.rerank.drawn import are_bound
from recdiv_core.rerank.explain import explain
from recdiv_core.slate_rules import SlateRule, group_rules
from recdiv_core.slates.checkpoint_copies import local_checkpoint
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.eligibility import Eligibility, fitting, request_time
from recdiv_core.slates.files import FREED, PartWriter, part_path, slate_table
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.making import SlateGrid
from recdiv_core.slates.policy import SlatePolicy, slate_policy
from recdiv_core.slates.query_vectors import QueryVectors, request_numbers
from recdiv_core.slates.scoring import score_users, scoring_of
from recdiv_core.slates.search_requests import SPLIT, WHERE

logger = logging.getLogger(__name__)

PART_BATCHES: Final = 32
"""Batches of `eval.batch_size` users in a part; a killed job repeats at most this much."""


SEVERAL: Final = "several rules"
"""Text instead of a rule, if no single rule kept a better item away."""


@dataclass(frozen=True)
class PartTask:
    """Work of an actor.

    `source` holds the split: the data set, or the slates (search_requests.py). `split` may be
    REQUESTS. `places` has the output directory of each of `dials`, which are in [0, 1].
    """

    config: Config
    checkpoint: str
    source: Path
    split: str
    part_users: int
    places: Sequence[Path]
    dials: Sequence[float]
    explained: bool


def make_parts(task: PartTask, left: Sequence[int], check: Callable[[], None]) -> float | None:
    """Make the missing parts; return users per second, or None if no part was missing.

    `check` is called after each part; it raises if the data set has changed.
    """
    if not left:
        return None
    import ray.data

    scaling = task.config.scaling
    made = ray.data.from_items(
        [{"part": part} for part in left], override_num_blocks=len(left)
    ).map_batches(
        PartMaker,
        fn_constructor_args=(task,),
        batch_size=1,
        batch_format="numpy",
        num_cpus=scaling.cpus_per_worker or 0.5,
        num_gpus=float(scaling.use_gpu) or None,
        compute=ray.data.ActorPoolStrategy(size=min(scaling.num_workers, len(left))),
    )
    num_users = SplitRows(task.source, task.split).num_rows
    total = sum(len(rows_of_part(task, part, num_users)) for part in left)
    started, num_done, rate = time.monotonic(), 0, 0.0
    row: Any
    for row in made.iter_rows():
        check()
        num_done += int(row["num_users"])
        rate = num_done / (time.monotonic() - started)
        logger.info(
            "made slates: %d of %d, %.0f a second, %.0f s left",
            num_done,
            total,
            rate,
            (total - num_done) / rate,
        )
    return rate


def rows_of_part(task: PartTask, part: int, num_users: int) -> range:
    """Return the range of rows of a part; the last part may be short."""
    start = part * task.part_users
    return range(start, min(start + task.part_users, num_users))


class PartMaker:
    """Actor that holds the model and writes the parts that it gets."""

    def __init__(self, task: PartTask) -> None:
        config = task.config
        torch.set_num_threads(config.scaling.threads_per_worker)
        device = torch.device("cuda" if config.scaling.use_gpu else "cpu")
        self.task = task
        self.rows = SplitRows(task.source, task.split)
        self.dataset = load_dataset(Path(config.data.prepared)).to(device)
        self.at = request_time(config, self.dataset.manifest)
        checkpoint = local_checkpoint(task.checkpoint, "--checkpoint")
        model = load_model(config, self.dataset, checkpoint).to(device)
        self.policy = slate_policy(config, self.dataset, model.lifts)
        self.score = scoring_of(model, config.model.diversity)
        self.queries = QueryVectors(self.dataset) if task.split == SPLIT else None
        self.item_ids = self.dataset.catalogue.table["item_id"].combine_chunks()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the parts whose numbers are in `part`; return the number of users of each."""
        num_users = [self._write(int(part)) for part in batch["part"]]
        return {"part": batch["part"], "num_users": np.array(num_users)}

    def _write(self, part: int) -> int:
        """Write a part once for each dial; return its number of users."""
        rows = rows_of_part(self.task, part, self.rows.num_rows)
        size = self.task.config.eval.batch_size
        table = self.rows.read(rows.start, rows.stop)
        with ExitStack() as stack:
            writers = [
                stack.enter_context(PartWriter(part_path(place, part)))
                for place in self.task.places
            ]
            for start in range(0, table.num_rows, size):
                made = self._slates(table.slice(start, size))
                for writer, own in zip(writers, made, strict=True):
                    writer.write(own)
        return table.num_rows

    def _slates(self, table: pa.Table) -> list[pa.Table]:
        """Return the slates of a batch for each dial; each condition is a mask of its own."""
        if WHERE not in table.column_names:
            return self._made(table, self.policy)
        catalogue = self.dataset.catalogue
        every = Eligibility(np.ones(len(catalogue), bool), None)
        texts = table[WHERE].combine_chunks().dictionary_encode()
        order: list[np.ndarray] = []
        parts: list[list[pa.Table]] = []
        for number, text in enumerate(texts.dictionary.to_pylist()):
            rows = np.flatnonzero(texts.indices.to_numpy() == number)
            eligible = fitting(self.policy.eligible or every, catalogue, text)
            order.append(rows)
            parts.append(self._made(table.take(rows), replace(self.policy, eligible=eligible)))
        back = np.argsort(np.concatenate(order))
        return [pa.concat_tables(own).take(back) for own in zip(*parts, strict=True)]

    def _made(self, table: pa.Table, policy: SlatePolicy) -> list[pa.Table]:
        """Return the slates of requests that may hold the same items, for each dial."""
        dataset = self.dataset
        batch = score_users(
            [self._examples(table)],
            dataset,
            self.score,
            max_history=self.task.config.model.max_history,
        )
        held_out = next(batch)
        with torch.inference_mode():
            grid = held_out.grid(dataset, policy, self.task.dials)
            notes = self._notes(grid)
        if held_out.examples.asked is not None and self.queries is not None:
            for note in notes:
                note["query"] = pa.array(held_out.examples.asked.texts, pa.string())
        items_BWK, scores_BWK = grid.items_BWK.cpu().numpy(), grid.scores_BWK.cpu().numpy()
        return [
            slate_table(
                held_out.examples.user_ids,
                items_BWK[:, dial],
                scores_BWK[:, dial],
                self.item_ids,
                note,
            )
            for dial, note in enumerate(notes)
        ]

    def _examples(self, table: pa.Table) -> Examples:
        """Return the requests of a batch; those of a file have the texts of their queries.

        A held-out request has the time of its event, unless `eligible.at` is set.
        """
        examples = eval_examples(table)
        if self.at is not None and (self.task.config.eligible.at or examples.requested is None):
            examples = replace(examples, requested=np.full(len(table), self.at))
        if self.queries is None:
            return examples
        texts = table["text"].to_pylist()
        numbers = np.array(request_numbers(texts), np.int64)
        return replace(examples, queries=numbers, asked=self.queries.ask(texts))

    def _notes(self, grid: SlateGrid) -> list[dict[str, Any]]:
        """Return the columns that explain the slates of each dial."""
        options, texts = self.policy.reranker_options, self.task.config.rerank.rules
        notes: list[dict[str, Any]] = [{} for _ in self.task.dials]
        if grid.freed_BK is not None:
            for own in notes:
                own[FREED] = pa.array(grid.freed_BK.sum(dim=1).int().cpu().numpy())
        groups = [rules for rules in group_rules(texts) if rules[0].kind != "exclude"]
        if texts:
            broken_BWR = breaches(options.rules, grid.items_BWK) > 0
            if (hash_B := grid.candidates.hash_B) is not None:
                for number, rule in enumerate(options.rules):
                    broken_BWR[..., number] &= are_bound(rule, hash_B)[:, None]
            broken_BWR = broken_BWR.cpu().numpy()
            items_BWK = grid.items_BWK.cpu().numpy()
            for index, own in enumerate(notes):
                rows = zip(broken_BWR[:, index], items_BWK[:, index], strict=True)
                said = [self._words(groups, broken_R, slate_K) for broken_R, slate_K in rows]
                own["gave_way"] = pa.array(said, pa.list_(pa.string()))
        if self.task.explained:
            for own, reasons in zip(notes, self._reasons(grid, groups), strict=True):
                own |= reasons
        return notes

    def _reasons(
        self, grid: SlateGrid, groups: Sequence[Sequence[SlateRule]]
    ) -> list[dict[str, Any]]:
        """Return the reasons of each place, [B, K] a column, for each dial."""
        dials, options = self.task.dials, self.policy.reranker_options
        novelty_of = NOVELTIES[self.policy.method]
        why = explain(novelty_of, grid.candidates, grid.chosen_BWK, dials, options)
        words = [r[0].text if len(r) == 1 else f"include {len(r)} items" for r in groups]
        names = np.array([*words, SEVERAL, ""], dtype=object)  # -1: no rule
        columns = {
            "relevance": why.relevance_BWK.cpu().numpy(),
            "novelty": why.novelty_BWK.cpu().numpy(),
            "rule": names[why.rule_BWK.cpu().numpy()],
        }
        if (lowered_V := self.policy.lowered_V(self.dataset.log_prior_V)) is not None:
            columns["raised"] = -lowered_V[grid.items_BWK.clamp_min(0)].cpu().numpy()
        return [
            {name: column_BWK[:, index] for name, column_BWK in columns.items()}
            for index in range(len(dials))
        ]

    def _words(
        self, groups: Sequence[Sequence[SlateRule]], broken_R: np.ndarray, slate_K: np.ndarray
    ) -> list[str]:
        """Return the rules that a slate breaks; for `include` rules, the missing items."""
        words: list[str] = []
        for index in np.flatnonzero(broken_R):
            rules = groups[int(index)]
            if len(rules) > 1:
                there = set(self.item_ids.take(pa.array(slate_K[slate_K >= 0])).to_pylist())
                rules = [rule for rule in rules if rule.item_id not in there]
            words += [rule.text for rule in rules]
        return words
