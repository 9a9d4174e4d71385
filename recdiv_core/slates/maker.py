"""Make slates for given histories in one process; the registered model does this.

Scores, candidates, rules and re-ranker are the same as in recommend.py, which serves all users of a
data set. Items that the catalogue does not have are ignored, because the log of a shop is newer
than its model.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from recdiv_core.config import rerank_candidates
from recdiv_core.data.arrays import Examples
from recdiv_core.data.cuts import parse_cut
from recdiv_core.errors import UserError
from recdiv_core.models.query_text import normalise_query
from recdiv_core.slates.checkpoint import read_config
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.eligibility import (
    check_any,
    fitting,
    narrowed,
    request_time,
    with_own_lists,
)
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import SlatePolicy, slate_policy
from recdiv_core.slates.query_vectors import QueryVectors, request_numbers
from recdiv_core.slates.scoring import Scoring, reads_queries, score_users, scoring_of
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slate:
    """Slate of one user, best item first."""

    item_ids: list[str]
    scores: list[float]
    query_is_known: bool = True
    """False = the request had a query that the click log does not have. The slate answers it."""


class SlateMaker:
    """A trained model with its catalogue.

    Args:
        checkpoint: directory with weights and settings.
        prepared: prepared data set of the training; its click log is not read.
        encoder: files of the text encoder; None = `model.text.encoder` of the data set.
    """

    def __init__(self, checkpoint: Path, prepared: Path, encoder: Path | None = None) -> None:
        self.config = with_own_lists(read_config(checkpoint), checkpoint)
        self.dataset = load_dataset(prepared)
        self.model = load_model(self.config, self.dataset, checkpoint)
        self.policy = slate_policy(self.config, self.dataset, self.model.lifts)
        self.at = request_time(self.config, self.dataset.manifest)
        self.item_ids: list[str] = self.dataset.catalogue.table["item_id"].to_pylist()
        self.item_index = {item_id: index for index, item_id in enumerate(self.item_ids)}
        self.queries = QueryVectors(self.dataset, encoder)
        self._reads_queries = reads_queries(self.model)
        self._has_warned = False
        self._scoring: tuple[float, Scoring] | None = None

    def slates(
        self,
        histories: Sequence[Sequence[str]],
        queries: Sequence[str | None] | None = None,
        times: Sequence[Sequence[int]] | None = None,
        *,
        k: int,
        model_diversity: float,
        rerank_diversity: float,
        eligible_at: str = "",
        eligible_block: Sequence[str] = (),
        eligible_only: Sequence[str] = (),
        where: Sequence[str | None] | None = None,
    ) -> list[Slate]:
        """Make a slate for each history.

        Args:
            histories: item ids of each user, oldest first; may be empty.
            queries: search query of each user, any text; None or empty = none. Case, blanks and
                Unicode forms make no difference. A model that does not read queries ignores them,
                with one warning.
            times: time of each event of the histories, in microseconds since 1970, rising; None =
                unknown, then no event counts less for its age.
            k: slate length, >= 1.
            model_diversity: dial of a conditioned model, in [0, 1].
            rerank_diversity: dial of the re-ranker, in [0, 1].
            eligible_at: time of the requests, as `eligible.at`; empty = that of the settings.
            eligible_block: further item ids that no slate holds; unknown ids are ignored.
            eligible_only: item ids that slates may hold, in addition to the settings; empty = all.
            where: conditions of each request, `ATTRIBUTE=VALUE|VALUE; ...`, in addition to the
                settings; None or empty = none. A request that no item fits gets an empty slate.

        Raises:
            UserError: a setting is out of range, or does not exist for this model; the text encoder
                of the data set is missing; a condition is wrong; or no item may be shown.
        """
        self._check(k, model_diversity, rerank_diversity)
        _check_times(histories, times)
        at = self.at if not eligible_at else parse_cut(eligible_at, "eligible.at")
        eligible = narrowed(
            self.policy.eligible, self.dataset.catalogue, eligible_block, eligible_only
        )
        check_any(eligible, at)
        policy = replace(self.policy, k=k, diversity=rerank_diversity, eligible=eligible)
        given = queries or [None] * len(histories)
        asked = [normalise_query(query) if isinstance(query, str) else "" for query in given]
        self._warn(sum(map(bool, asked)))
        score = self._scoring_at(model_diversity)
        if where is None:
            return self._made(histories, asked, times, policy, at, score)
        slates: dict[int, Slate] = {}
        for text, rows in _rows_by_text(where, len(histories)).items():
            fit = fitting(eligible, self.dataset.catalogue, text)
            asked_here = [asked[row] for row in rows]
            if fit is not None and not fit.count_at(np.array([] if at is None else [at])):
                own = [Slate([], [], self._is_known(query)) for query in asked_here]
            else:
                own = self._made(
                    [histories[row] for row in rows],
                    asked_here,
                    None if times is None else [times[row] for row in rows],
                    replace(policy, eligible=fit),
                    at,
                    score,
                )
            slates.update(zip(rows, own, strict=True))
        return [slates[row] for row in range(len(histories))]

    def _made(
        self,
        histories: Sequence[Sequence[str]],
        asked: Sequence[str],
        times: Sequence[Sequence[int]] | None,
        policy: SlatePolicy,
        at: int | None,
        score: Scoring,
    ) -> list[Slate]:
        """Make the slates of requests that may hold the same items."""
        made: list[Slate] = []
        size = self.config.eval.batch_size
        starts = range(0, len(histories), size)
        batches = (
            self._examples(
                histories[start : start + size],
                asked[start : start + size],
                None if times is None else times[start : start + size],
                at,
            )
            for start in starts
        )
        for held_out in score_users(
            batches, self.dataset, score, max_history=self.config.model.max_history
        ):
            with torch.inference_mode():
                grid = held_out.grid(self.dataset, policy)
            pairs = zip(grid.items_BWK[:, 0].tolist(), grid.scores_BWK[:, 0].tolist(), strict=True)
            for items, scores in pairs:
                places = [place for place, item in enumerate(items) if item >= 0]
                made.append(
                    Slate(
                        [self.item_ids[items[p]] for p in places],
                        [scores[p] for p in places],
                        query_is_known=self._is_known(asked[len(made)]),
                    )
                )
        return made

    def _is_known(self, query: str) -> bool:
        return not query or self.queries.is_known(query)

    def _warn(self, num_asked: int) -> None:
        if num_asked and not self._reads_queries and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s with a query, and model.kind=%s does not read queries; this warning is not "
                "repeated",
                counted(num_asked, "request"),
                self.config.model.kind,
            )

    def _examples(
        self,
        histories: Sequence[Sequence[str]],
        queries: Sequence[str],
        times: Sequence[Sequence[int]] | None,
        at: int | None,
    ) -> Examples:
        kept = [[at for at, item in enumerate(h) if item in self.item_index] for h in histories]
        known = [
            [self.item_index[history[at]] for at in places]
            for history, places in zip(histories, kept, strict=True)
        ]
        read = queries if self._reads_queries else [""] * len(queries)
        time_E = None
        if times is not None:
            pairs = zip(times, kept, strict=True)
            time_E = np.array([own[at] for own, places in pairs for at in places], np.int64)
        return Examples(
            items=np.array([item for history in known for item in history], np.int64),
            lengths=np.array([len(history) for history in known], np.int64),
            queries=np.array(request_numbers(read), np.int64),
            weights=np.zeros(0, np.float32),
            targets=np.zeros(0, np.int64),
            target_lengths=np.zeros(len(known), np.int64),
            user_ids=[""] * len(known),
            times=time_E,
            requested=None if at is None else np.full(len(known), at),
            asked=self.queries.ask(read) if self._reads_queries else None,
        )

    def _check(self, k: int, model_diversity: float, rerank_diversity: float) -> None:
        most = rerank_candidates(self.config)
        if not 1 <= k <= most:
            raise UserError(f"k={k}: allowed are 1 to rerank.num_candidates={most}")
        for name, value in (
            ("model.diversity", model_diversity),
            ("rerank.diversity", rerank_diversity),
        ):
            if not 0 <= value <= 1:
                raise UserError(f"{name}={value} must lie in [0, 1]: 0 = relevance, 1 = diversity")
        if model_diversity and not self.config.loss.conditioned:
            raise UserError(f"model.diversity={model_diversity}: this model has no dial")
        if rerank_diversity and self.config.rerank.method == "none":
            raise UserError(f"rerank.diversity={rerank_diversity}: this model has no re-ranker")

    def _scoring_at(self, dial: float) -> Scoring:
        """Return the scoring function at a dial; the last one is cached."""
        if self._scoring is None or self._scoring[0] != dial:
            self._scoring = (dial, scoring_of(self.model, dial))
        return self._scoring[1]


def _rows_by_text(where: Sequence[str | None], num_rows: int) -> dict[str, list[int]]:
    """Return the rows of each text; a missing one counts as empty.

    Raises:
        UserError: another number of texts than of histories.
    """
    if len(where) != num_rows:
        raise UserError(f"conditions of {len(where)} requests are given for {num_rows} histories")
    found: dict[str, list[int]] = {}
    for row, text in enumerate(where):
        found.setdefault(text if isinstance(text, str) else "", []).append(row)
    return found


def _check_times(histories: Sequence[Sequence[str]], times: Sequence[Sequence[int]] | None) -> None:
    """Refuse times that do not fit the histories.

    Raises:
        UserError: another number of times, or times that fall.
    """
    if times is None:
        return
    if len(times) != len(histories):
        raise UserError(f"times of {len(times)} histories are given for {len(histories)} histories")
    for row, (history, own) in enumerate(zip(histories, times, strict=True)):
        if len(own) != len(history):
            raise UserError(f"row {row}: {len(own)} times for {len(history)} items of the history")
        if any(late < early for early, late in pairwise(own)):
            raise UserError(f"row {row}: times must rise, because histories begin with the oldest")
