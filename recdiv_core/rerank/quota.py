# pyright: strict
"""Rules of slates, kept while a re-ranker chooses: which candidates may come next.

Not the choosing (greedy.py), nor the way out where this one ends in a rule broken (repair.py). The
one idea: before each choice it is counted what each candidate would break for certain, an `at most`
or, by the places left, what is still asked for. Nothing is held back that might still end well, so
that a rule which does not bind changes nothing, and a slate that comes to its end is the one that
an exact look-ahead would have chosen.

Where rules cannot all be kept, those of items come first, then `at most`, `at least`, and last
`distinct`: a rule is broken sooner than one before it, however often. What `exclude` names is no
candidate at all.

Legend: B users of a tile, W dials, C candidates, L labels an item, R rules, K slate length,
E entries of a list of labels, N and X lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Rule
from recdiv_core.slate_rules import RuleKind

NEEDS: Final[tuple[RuleKind, ...]] = ("include", "at least", "distinct")
"""Kinds that ask for items, in the order in which they are kept."""

PENALTIES: Final[dict[RuleKind, float]] = {
    "include": 64.0**3,
    "at most": 64.0**2,
    "at least": 64.0,
    "distinct": 1.0,
}
"""A kind weighs more than all rules behind it; sums are below 2^24, exact in float32."""

NO_LABEL: Final = -2
"""Instead of -1 in what was chosen: the end of labels is like no candidate's."""

NEVER: Final = -(1 << 14)
"""Count of the end of labels: far from any quota."""


MANY: Final = 1 << 20
"""Places to spare of a slate that is full."""


def exclude(scores_BV: Tensor, rules: Sequence[Rule]) -> None:
    """Set the scores of items that no slate may hold to -inf, so that others become candidates."""
    for rule in rules:
        if rule.kind == "exclude":
            scores_BV[:, (rule.labels_VL >= 0).any(dim=1)] = -torch.inf


def with_wanted(
    scores_BV: Tensor, scores_BC: Tensor, items_BC: Tensor, rules: Sequence[Rule]
) -> tuple[Tensor, Tensor, Tensor]:
    """Add to the candidates the best items that `include` and `at least` ask for and lack there.

    Items without a score, such as those seen, are not added.

    Args:
        scores_BV: of the whole catalogue.
        scores_BC: of the candidates, falling; all other items score less.
        items_BC: the candidates.
        rules: of which these two kinds count.

    Returns:
        scores_BC, the scores to rank by and items_BC. An item that was added is ranked as if it
        scored what the last candidate does: one far behind would change what the dial weighs.
    """
    asking = [rule for rule in rules if rule.kind in ("include", "at least")]
    if not asking:
        return scores_BC, scores_BC, items_BC
    is_there_BV = torch.zeros_like(scores_BV, dtype=torch.bool).scatter_(1, items_BC, True)
    added_BA, score_BA = items_BC[:, :0], scores_BC[:, :0]
    for rule in asking:
        item_I = (rule.labels_VL >= 0).any(dim=1).nonzero()[:, 0]
        is_there_BI = is_there_BV[:, item_I]
        lacks_B1 = rule.count - is_there_BI.sum(dim=1, keepdim=True)
        most = min(rule.count, len(item_I))
        if not bool((lacks_B1 > 0).any()):
            continue
        own_BI = scores_BV[:, item_I].masked_fill_(is_there_BI, -torch.inf)
        score_BM, place_BM = own_BI.topk(most, dim=1)
        is_beyond_BM = torch.arange(most, device=score_BM.device) >= lacks_B1
        score_BM = score_BM.masked_fill(is_beyond_BM, -torch.inf)
        item_BM = item_I[place_BM]
        is_there_BV.scatter_(1, item_BM, is_there_BV.gather(1, item_BM) | (score_BM > -torch.inf))
        added_BA = torch.cat([added_BA, item_BM], dim=1)
        score_BA = torch.cat([score_BA, score_BM], dim=1)
    score_BA, order_BA = score_BA.sort(dim=1, descending=True, stable=True)
    ranked_BA = torch.where(score_BA > -torch.inf, scores_BC[:, -1:], -torch.inf)
    return (
        torch.cat([scores_BC, score_BA], dim=1),
        torch.cat([scores_BC, ranked_BA], dim=1),
        torch.cat([items_BC, added_BA.gather(1, order_BA)], dim=1),
    )


def without_excluded(candidates: Candidates, rules: Sequence[Rule]) -> Candidates:
    """Make padding of the candidates that no slate may hold."""
    excluding = [rule for rule in rules if rule.kind == "exclude"]
    if not excluding:
        return candidates
    scores_BC = candidates.scores_BC
    for rule in excluding:
        is_out_BC = (rule.labels_VL[candidates.items_BC] >= 0).any(dim=2)
        scores_BC = scores_BC.masked_fill(is_out_BC, -torch.inf)
    return replace(candidates, scores_BC=scores_BC)


class Quota:
    """What the rules say of each candidate of a tile, choice by choice.

    It is strict at first: what would break a rule for certain is held back, and whom that leaves
    without a candidate is stuck. Slates of these users are chosen once more by a lenient one: it
    holds back what breaks more than others do, and lets what is asked for come first: put off, it
    may have been barred by then.
    """

    def __init__(
        self,
        tile: Candidates,
        k: int,
        num_dials: int,
        rules: Sequence[Rule],
        *,
        is_strict: bool = True,
    ) -> None:
        """Start with empty slates."""
        self._places_B1 = tile.is_real_BC.sum(dim=1, keepdim=True).clamp_max(k)
        self._values: list[Tensor] = []
        self._is_strict = is_strict
        ceilings = [rule for rule in rules if rule.kind == "at most"]
        self._ceilings = [
            _WindowCeiling(_Labels(rule, tile), rule.count, rule.window, num_dials)
            if 0 < rule.window < k
            else _SlateCeiling(_Labels(rule, tile), rule.count, num_dials)
            for rule in sorted(ceilings, key=lambda rule: 0 < rule.window < k)
        ]
        asking = sorted(
            (rule for rule in rules if rule.kind in NEEDS), key=lambda rule: NEEDS.index(rule.kind)
        )
        self._needs = _Needs(tile, k, asking, num_dials) if asking else None
        self._pressing_from = 0

    @property
    def is_stuck_BW(self) -> Tensor:
        """Whose slate has a place that a strict quota knew no candidate for.

        What stands there and behind it means nothing.
        """
        values_BWK = torch.cat(self._values, dim=2)
        is_place_B1K = torch.arange(values_BWK.shape[2]) < self._places_B1[..., None].cpu()
        return ((values_BWK == -torch.inf) & is_place_B1K.to(values_BWK.device)).any(dim=2)

    def hold_back(self, objective_BWC: Tensor) -> None:
        """Set to -inf what must not come next."""
        if self._is_strict:
            for ceiling in self._ceilings:
                ceiling.bar(objective_BWC)
            missed_BWC = self._missed(objective_BWC)
            if missed_BWC is not None:
                objective_BWC.masked_fill_(missed_BWC > 0, -torch.inf)
            return
        missed_BWC = self._missed(objective_BWC)
        penalty_BWC = torch.zeros_like(objective_BWC) if missed_BWC is None else missed_BWC
        for ceiling in self._ceilings:
            penalty_BWC.add_(ceiling.is_reached(), alpha=PENALTIES["at most"])
        _keep_least(objective_BWC, penalty_BWC)
        if self._needs is not None:
            _keep_least(objective_BWC, self._needs.unserved())

    def _missed(self, objective_BWC: Tensor) -> Tensor | None:
        """Weigh what each candidate would leave no places for; None while there are enough."""
        step = len(self._values)
        if self._needs is None or step < self._pressing_from:
            return None
        left_B1 = self._places_B1 - step
        spare = self._needs.spare(left_B1)
        self._pressing_from = step + spare
        if spare > 0:
            return None
        return self._needs.missed(objective_BWC, left_B1, saves=self._is_strict)

    def add(self, best_BW: Tensor, objective_BWC: Tensor) -> None:
        """Count the choices just made."""
        self._values.append(objective_BWC.gather(2, best_BW[..., None]))
        for ceiling in self._ceilings:
            ceiling.add(best_BW)
        if self._needs is not None:
            self._needs.add(best_BW)


def _keep_least(objective_BWC: Tensor, penalty_BWC: Tensor) -> None:
    """Set the objective to -inf of what has more than the least penalty of those left."""
    penalty_BWC.masked_fill_(objective_BWC == -torch.inf, torch.inf)
    is_worse_BWC = penalty_BWC > penalty_BWC.amin(dim=2, keepdim=True)
    objective_BWC.masked_fill_(is_worse_BWC, -torch.inf)


def _set_few(target: Tensor, value: float, where: Tensor) -> None:
    """Set a tensor to a value where told, which is at few places: then numpy is faster."""
    if target.device.type == "cpu":
        np.copyto(target.numpy(), value, where=where.numpy())
    else:
        target.masked_fill_(where, value)


class _Labels:
    """The labels of a tile's candidates, and those of choices.

    Attributes:
        of_BLC: int32, padded with -1.
    """

    def __init__(self, rule: Rule, tile: Candidates) -> None:
        self.of_BLC = rule_labels(rule, tile).transpose(1, 2).contiguous()
        # the end of a choice's labels is like no candidate's
        self._chosen_BLC = self.of_BLC.masked_fill(self.of_BLC < 0, NO_LABEL)

    def of_choices(self, best_BW: Tensor) -> Tensor:
        """Look up the labels of choices, [B, W, L]."""
        places_BLW = best_BW[:, None].expand(-1, self._chosen_BLC.shape[1], -1)
        return self._chosen_BLC.gather(2, places_BLW).transpose(1, 2)

    def are_among(self, labels_BWL: Tensor) -> Tensor:
        """Tell which labels of the candidates are among some labels, [B, W, L, C] bool."""
        first, *others = labels_BWL[..., None, None].unbind(dim=2)
        is_met_BWLC = self.of_BLC[:, None] == first
        for label_BW11 in others:
            is_met_BWLC |= self.of_BLC[:, None] == label_BW11
        return is_met_BWLC


class _SlateCeiling:
    """An `at most` rule of the whole slate: which candidates have a label that is full."""

    def __init__(self, labels: _Labels, count: int, num_dials: int) -> None:
        self._labels, self._most = labels, count
        self._chosen: list[Tensor] = []
        is_full_BC = (labels.of_BLC >= 0).any(dim=1) & (count == 0)
        barred_BC = torch.zeros(is_full_BC.shape, device=is_full_BC.device)
        barred_BC.masked_fill_(is_full_BC, -torch.inf)
        self._barred_BWC = barred_BC[:, None].repeat(1, num_dials, 1)  # added faster than filled in

    def is_reached(self) -> Tensor:
        """Tell of which candidates another one would be too many, [B, W, C] bool."""
        return self._barred_BWC < 0

    def bar(self, objective_BWC: Tensor) -> None:
        """Set the objective of these to -inf."""
        objective_BWC.add_(self._barred_BWC)

    def add(self, best_BW: Tensor) -> None:
        full_BWL = self._labels.of_choices(best_BW)
        if self._most > 1:
            self._chosen.append(full_BWL)
            if len(self._chosen) < self._most:
                return
            chosen_BWE = torch.cat(self._chosen, dim=2)
            num_alike_BWL = (chosen_BWE[:, :, None] == full_BWL[..., None]).sum(dim=3)
            full_BWL = full_BWL.masked_fill(num_alike_BWL < self._most, NO_LABEL)
        _set_few(self._barred_BWC, -torch.inf, _any_label(self._labels.are_among(full_BWL)))


class _WindowCeiling:
    """An `at most` rule of a window: how often each label stands in the last places."""

    def __init__(self, labels: _Labels, count: int, window: int, num_dials: int) -> None:
        self._labels, self._most, self._window = labels, count, window
        self._past: list[Tensor] = []
        counts_BLC = torch.zeros_like(labels.of_BLC, dtype=torch.int16)
        counts_BLC.masked_fill_(labels.of_BLC < 0, NEVER)
        self._counts_BWLC = counts_BLC[:, None].repeat(1, num_dials, 1, 1)

    def is_reached(self) -> Tensor:
        """Tell of which candidates another one would be too many, [B, W, C] bool."""
        return _any_label(self._counts_BWLC >= self._most)

    def bar(self, objective_BWC: Tensor) -> None:
        """Set the objective of these to -inf."""
        _set_few(objective_BWC, -torch.inf, self.is_reached())

    def add(self, best_BW: Tensor) -> None:
        is_met_BWLC = self._labels.are_among(self._labels.of_choices(best_BW)).to(torch.int16)
        self._counts_BWLC.add_(is_met_BWLC)
        self._past.append(is_met_BWLC)
        if len(self._past) >= self._window:
            self._counts_BWLC.sub_(self._past.pop(0))


class _Needs:
    """The rules that ask for items: what each still lacks, and what a candidate would give it.

    Rules stand in the order in which they are kept, and ask for no more than the candidates have.
    A candidate that meets two of them saves a place; how many places can be saved at most is
    counted, not searched.
    """

    def __init__(self, tile: Candidates, k: int, asking: Sequence[Rule], num_dials: int) -> None:
        self._asking = [_Need(rule, _Labels(rule, tile), tile, k, num_dials) for rule in asking]
        kinds = [rule.kind for rule in asking]
        self._is_last = [kind not in kinds[index + 1 :] for index, kind in enumerate(kinds)]

    def spare(self, left_B1: Tensor) -> int:
        """Return the fewest places that any slate has beyond those that it lacks items for.

        It falls by one with each choice at most: until then no candidate needs to be looked at.
        """
        wanted_BW1 = torch.stack([need.lacks_BW1 for need in self._asking]).sum(dim=0)
        spare_BW = left_B1 - wanted_BW1[..., 0]
        return max(0, int(spare_BW.masked_fill(left_B1 <= 0, MANY).amin()))

    def missed(self, objective_BWC: Tensor, left_B1: Tensor, *, saves: bool) -> Tensor:
        """Weigh what each candidate, chosen now, would leave no places for, [B, W, C].

        Args:
            objective_BWC: -inf for what may not come any more.
            left_B1: places left, this one among them.
            saves: count on candidates that meet several rules at once; False: on none.
        """
        after_B11 = (left_B1 - 1).clamp_min(0)[..., None].float()
        missed_BWC = torch.zeros_like(objective_BWC)
        total_short_BWC, total_met_BWC = torch.zeros_like(missed_BWC), torch.zeros_like(missed_BWC)
        for index, (need, is_last) in enumerate(zip(self._asking, self._is_last, strict=True)):
            short_BWC = (need.lacks_BW1 - need.gains_BWC).clamp_min_(0.0)
            missed_BWC.add_(short_BWC > after_B11 * need.most_B11, alpha=need.penalty)
            total_short_BWC += short_BWC
            total_met_BWC += need.lacks_BW1 - short_BWC
            if is_last and index:
                places_BWC = after_B11
                if saves:
                    places_BWC = after_B11 + _saved(total_met_BWC, objective_BWC, after_B11)
                missed_BWC.add_(total_short_BWC > places_BWC, alpha=need.penalty)
        return missed_BWC

    def unserved(self) -> Tensor:
        """Weigh the rules that ask for items and get none from a candidate, [B, W, C]."""
        unserved_BWC = torch.zeros_like(self._asking[0].gains_BWC)
        for need in self._asking:
            unserved_BWC.add_((need.lacks_BW1 > 0) & (need.gains_BWC == 0), alpha=need.penalty)
        return unserved_BWC

    def add(self, best_BW: Tensor) -> None:
        for need in self._asking:
            need.add(best_BW)


def _saved(met_BWC: Tensor, objective_BWC: Tensor, after_B11: Tensor) -> Tensor:
    """Return the places that others than each candidate may save by meeting rules at once, or more.

    Args:
        met_BWC: how much of all wants each candidate meets.
        objective_BWC: -inf for what may not come any more.
        after_B11: places after this one.
    """
    saved_BWC = (met_BWC - 1).clamp_min_(0.0)
    saved_BWC.masked_fill_(objective_BWC == -torch.inf, 0.0)
    others_BWC = saved_BWC.sum(dim=2, keepdim=True) - saved_BWC
    return torch.minimum(others_BWC, after_B11 * saved_BWC.amax(dim=2, keepdim=True))


class _Need:
    """A rule that asks for items.

    Attributes:
        penalty: of not keeping it.
        lacks_BW1: items (of `distinct`, labels) that it still asks for.
        gains_BWC: how many of these each candidate would bring.
        most_B11: the most that any could.
    """

    def __init__(
        self, rule: Rule, labels: _Labels, tile: Candidates, k: int, num_dials: int
    ) -> None:
        self.penalty = PENALTIES[rule.kind]
        least_B = _least_breach(rule, labels.of_BLC.transpose(1, 2), tile, k)
        lacks_B11 = (rule.count - least_B).float()[:, None, None]
        self.lacks_BW1 = lacks_B11.repeat(1, num_dials, 1)
        self._labels, self._is_distinct = labels, rule.kind == "distinct"
        is_new_BLC = labels.of_BLC >= 0
        gains_BC = is_new_BLC.sum(dim=1).float()
        self.most_B11 = gains_BC.amax(dim=1).clamp_min(1.0)[:, None, None]
        self.gains_BWC = gains_BC[:, None].repeat(1, num_dials, 1)
        self._is_new_BWLC = is_new_BLC[:, None].repeat(1, num_dials, 1, 1)

    def add(self, best_BW: Tensor) -> None:
        self.lacks_BW1.sub_(self.gains_BWC.gather(2, best_BW[..., None])).clamp_min_(0.0)
        if not self._is_distinct:
            return
        is_met_BWLC = self._labels.are_among(self._labels.of_choices(best_BW))
        if is_met_BWLC.shape[2] == 1:
            _set_few(self.gains_BWC, 0.0, is_met_BWLC[:, :, 0])
        else:
            self._is_new_BWLC &= ~is_met_BWLC
            self.gains_BWC = self._is_new_BWLC.sum(dim=2).float()


def rule_labels(rule: Rule, tile: Candidates) -> Tensor:
    """Look up the labels of a tile's candidates, [B, C, L] int32, without columns of none."""
    labels = rule.labels_VL.index_select(0, tile.items_BC.flatten()).int()
    labels_BCL = labels.view(*tile.items_BC.shape, -1)
    labels_BCL.masked_fill_(~tile.is_real_BC[..., None], -1)
    if labels_BCL.shape[2] > 1:
        labels_BCL = labels_BCL[..., : max(1, int((labels_BCL >= 0).any(dim=0).any(dim=0).sum()))]
    return labels_BCL


def _any_label(of_label_BWLC: Tensor) -> Tensor:
    return of_label_BWLC[:, :, 0] if of_label_BWLC.shape[2] == 1 else of_label_BWLC.any(dim=2)


# --------------------------------------------------------------------------- what was broken


def gave_way(rules: Sequence[Rule], slates_XK: Tensor) -> Tensor:
    """Tell which rules a slate breaks, [..., R] bool.

    Args:
        rules: R of them.
        slates_XK: [..., K] int64 item_index in slate order, -1 behind the end.
    """
    return breaches(rules, slates_XK) > 0


def breaches(rules: Sequence[Rule], slates_XK: Tensor) -> Tensor:
    """Count how far slates are from keeping each rule, [..., R] int64; 0 = kept.

    `at most`: items too many, summed over labels and over windows; `at least` and `include`: items
    that lack; `distinct`: labels that lack; `exclude`: items that should not be there. A window is
    W places of the slate, or all where it is shorter.
    """
    slates_NK = slates_XK.reshape(-1, slates_XK.shape[-1])
    counts = [_breaches_of(rule, slates_NK) for rule in rules]
    if not counts:
        return slates_XK.new_zeros((*slates_XK.shape[:-1], 0))
    return torch.stack(counts, dim=1).view(*slates_XK.shape[:-1], len(counts))


def _breaches_of(rule: Rule, slates_NK: Tensor) -> Tensor:
    k = slates_NK.shape[1]
    is_filled_NK = slates_NK >= 0
    labels_NKL = rule.labels_VL[slates_NK.clamp_min(0)].masked_fill(~is_filled_NK[..., None], -1)
    if rule.kind == "at most":
        window = rule.window if 0 < rule.window < k else k
        labels_NPE = labels_NKL.unfold(1, window, 1).flatten(2)
        is_over_NPE = earlier_alike(labels_NPE.flatten(0, 1)) >= rule.count
        over_NP = (is_over_NPE.view_as(labels_NPE) & (labels_NPE >= 0)).sum(dim=2)
        last_N1 = (is_filled_NK.sum(dim=1, keepdim=True) - window).clamp_min(0)
        is_window_NP = torch.arange(over_NP.shape[1], device=over_NP.device) <= last_N1
        return (over_NP * is_window_NP).sum(dim=1)
    if rule.kind == "distinct":
        labels_NE = labels_NKL.flatten(1)
        return (rule.count - num_distinct(labels_NE)).clamp_min(0)
    num_met_N = (labels_NKL >= 0).any(dim=2).sum(dim=1)
    return num_met_N if rule.kind == "exclude" else (rule.count - num_met_N).clamp_min(0)


def earlier_alike(labels_NE: Tensor) -> Tensor:
    """Count for each entry of a list those before it that are equal, [N, E] int64."""
    place_E = torch.arange(labels_NE.shape[1], device=labels_NE.device)
    is_alike_NEE = labels_NE[:, :, None] == labels_NE[:, None]
    return (is_alike_NEE & (place_E[:, None] > place_E)).sum(dim=2)


def num_distinct(labels_NE: Tensor) -> Tensor:
    """Count the different labels of each list, [N] int64; -1 is none."""
    sorted_NE = labels_NE.sort(dim=1).values
    is_first_NE = sorted_NE[:, 1:] != sorted_NE[:, :-1]
    return is_first_NE.sum(dim=1) + (sorted_NE[:, 0] >= 0)


def least_breaches(rules: Sequence[Rule], candidates: Candidates, k: int) -> Tensor:
    """Count how far from each rule by itself any slate must be, [B, R] int64, or less.

    Less, where counting does not tell: `at most` in windows that overlap, or of items with several
    labels.
    """
    counts = [_least_breach(rule, rule_labels(rule, candidates), candidates, k) for rule in rules]
    return torch.stack(counts, dim=1)


def _least_breach(rule: Rule, labels_BCL: Tensor, candidates: Candidates, k: int) -> Tensor:
    is_real_BC = candidates.is_real_BC
    places_B = is_real_BC.sum(dim=1).clamp_max(k)
    labels_BE = labels_BCL.flatten(1)
    least_B = torch.zeros_like(places_B)
    if rule.kind in ("include", "at least"):
        num_met_B = (labels_BCL >= 0).any(dim=2).sum(dim=1)
        least_B = rule.count - torch.minimum(num_met_B, places_B)
    elif rule.kind == "distinct":
        most_B = (labels_BCL >= 0).sum(dim=2).amax(dim=1)
        least_B = rule.count - torch.minimum(num_distinct(labels_BE), most_B * places_B)
    elif rule.kind == "at most" and labels_BE.shape == is_real_BC.shape:
        is_free_BC = (labels_BE < 0) | (earlier_alike(labels_BE) < rule.count)
        width_B = places_B.clamp_max(rule.window) if rule.window else places_B
        over_B = (width_B - (is_free_BC & is_real_BC).sum(dim=1)).clamp_min(0)
        least_B = over_B * (places_B - width_B + 1)
    return least_B.clamp_min(0)
