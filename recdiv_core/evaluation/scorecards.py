"""All metrics of a split, over all users and over groups of users and items.

evaluate.tally_split computes the metrics of each epoch, and metrics/ defines them. A scorecard
works like a tally: each rank sums over its share of the users, the sums are added, and ratios are
taken last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from recdiv_core.evaluation.groupings import (
    Groups,
    column_values,
    item_groups,
    merge,
    query_groups,
    user_group_names,
    user_groups,
)
from recdiv_core.evaluation.query_intents import QueryIntents
from recdiv_core.metrics.fairness import item_fairness, user_fairness
from recdiv_core.metrics.groups import GroupTally, finish_groups, groups_of_batch
from recdiv_core.metrics.query_intent import INTENT_METRICS
from recdiv_core.metrics.scorecard import Input, finish_scorecard, user_metrics
from recdiv_core.metrics.slate_batch import Background, Intents, match_slates
from recdiv_core.metrics.tally import (
    ELIGIBLE_METRICS,
    SEARCH_METRICS,
    USER_METRICS,
    Tally,
    UserMetrics,
    tally_batch,
)
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.scoring import Shown


@dataclass(frozen=True)
class Scorecard:
    """Sums over some users.

    Attributes:
        tallies: sums over all users, one tally per cut-off; the first cut-off is the slate length.
        groups: sums over groups of users and items, at the slate length.
    """

    tallies: tuple[Tally, ...]
    groups: GroupTally

    def __add__(self, other: Scorecard) -> Scorecard:
        """Return the sums over the users of both."""
        pairs = zip(self.tallies, other.tallies, strict=True)
        return Scorecard(tuple(one + two for one, two in pairs), self.groups + other.groups)


def epoch_metrics(dataset: Dataset, *, is_limited: bool = False) -> UserMetrics:
    """Return the metrics of every epoch that are averaged over users."""
    metrics = USER_METRICS if dataset.queries_QH is None else {**USER_METRICS, **SEARCH_METRICS}
    return {**metrics, **ELIGIBLE_METRICS} if is_limited else metrics


def scorecard_of(
    share: Iterable[Shown],
    dataset: Dataset,
    *,
    k: int,
    cutoffs: Sequence[int],
    kinds: Sequence[str],
    without: Collection[Input] = (),
    intents: QueryIntents | None = None,
    is_limited: bool = False,
) -> Scorecard:
    """Evaluate the slates of some users, and return the sums on the CPU.

    Args:
        share: batches of held-out users with their slates.
        dataset: the prepared data set.
        k: slate length, >= 1; longer slates are cut.
        cutoffs: further cut-offs, >= 1; cut-offs above k are left out.
        kinds: kinds of groups; see `groupings`.
        without: unknown inputs; metrics that need one are left out.
        intents: intents of the queries, for INTENT_METRICS; None = without these metrics.
        is_limited: whether some items may not be shown, for ELIGIBLE_METRICS.
    """
    device = dataset.text_VH.device
    traits = dataset.traits
    columns = column_values(kinds, dataset.catalogue)
    attributes = {name: values_V.to(device) for name, values_V in columns.items()}
    metrics = user_metrics({**traits.attributes, **attributes}, without=without)
    if dataset.queries_QH is not None:
        metrics = {**metrics, **SEARCH_METRICS}
    if intents is not None:
        metrics = {**metrics, **INTENT_METRICS}
    if is_limited:
        metrics = {**metrics, **ELIGIBLE_METRICS}
    of_items = merge(item_groups(kinds, dataset.catalogue), device)
    groups = GroupTally.zeros([*user_group_names(kinds), *of_items], k=k)
    tallies = [
        Tally.zeros(traits, k=cutoff, names=metrics)
        for cutoff in (k, *sorted({cutoff for cutoff in cutoffs if cutoff < k}))
    ]
    groups_Q = query_groups(kinds, dataset)
    for shown in share:
        with torch.inference_mode():
            slates = match_slates(
                shown.slates_BK,
                shown.targets_BT,
                traits,
                k=k,
                background=_with_intents(shown, intents, device),
                needs_cosines=True,
            )
            tallies = [tally + tally_batch(slates.cut(tally.k), metrics) for tally in tallies]
            groups += groups_of_batch(
                slates,
                user_groups=merge(user_groups(kinds, shown.examples, groups_Q), device),
                item_groups=of_items,
            )
    return Scorecard(tuple(tally.from_flat(tally.flat().cpu()) for tally in tallies), groups)


def _with_intents(shown: Shown, intents: QueryIntents | None, device: torch.device) -> Background:
    if intents is None:
        return shown.background
    own = Intents(*(part.to(device) for part in intents.of(shown.examples.queries)))
    return replace(shown.background, intents=own)


def finish_split(scorecard: Scorecard, items: Mapping[str, Groups]) -> dict[str, Any]:
    """Turn sums into metrics.

    Returns:
        `metrics` (name with cut-off -> value), `slices` (group -> `num_users` and values),
        `fairness` (kind -> gaps between its groups) and `exposure` (group of items -> its share of
        the places of all slates, in [0, 1]).

    Raises:
        UserError: no user was evaluated.
    """
    metrics: dict[str, float] = {}
    for tally in scorecard.tallies:
        metrics |= finish_scorecard(tally)
    k, slices = scorecard.tallies[0].k, finish_groups(scorecard.groups)
    kinds = dict.fromkeys(name.partition("=")[0] for name in scorecard.groups.names)
    fairness: dict[str, dict[str, float]] = {}
    for kind in kinds:
        if kind in items:
            fairness[kind] = item_fairness(scorecard.tallies[0], items[kind])
        else:
            own = {name: of for name, of in slices.items() if name.startswith(f"{kind}=")}
            fairness[kind] = user_fairness(own, k=k)
    shown_V = scorecard.tallies[0].exposure_V.double()
    shown_V /= shown_V.sum().clamp_min(1)
    exposure = {
        name: float(shown_V[is_in_V.cpu()].sum())
        for groups in items.values()
        for name, is_in_V in groups.items()
    }
    return {"metrics": metrics, "slices": slices, "fairness": fairness, "exposure": exposure}
