# pyright: strict
"""Rules of slates while a re-ranker chooses: which candidates are allowed next.

Not the choosing (greedy.py). Before each choice the quota counts which rules each candidate would
break for certain: an `at most` that is full, or a need that the remaining positions can no longer
meet. No candidate is excluded that could still lead to a slate that keeps the rules. So a rule that
does not bind changes nothing, and a complete slate is the greedy one with an exact look-ahead.

Where the rules cannot all be kept, rules of items have priority, then `at most`, then `at least`
and `draw`, and last `distinct`. A rule of lower priority is broken first, however often. Items
under `exclude` are not candidates at all.

Legend: B users of a tile, W dials, C candidates, L labels of an item, E labels chosen so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from recdiv_core.items.labels import FEW
from recdiv_core.rerank.breaches import least_breach, rule_labels
from recdiv_core.rerank.candidates import Candidates, Rule
from recdiv_core.rerank.drawn import are_bound
from recdiv_core.slate_rules import RuleKind

NEEDS: Final[tuple[RuleKind, ...]] = ("include", "at least", "draw", "distinct")
"""Kinds of rules that need items, highest priority first."""

PENALTIES: Final[dict[RuleKind, float]] = {
    "include": 64.0**3,
    "at most": 64.0**2,
    "at least": 64.0,
    "draw": 64.0,
    "distinct": 1.0,
}
"""Penalty of breaking each kind: more than all rules of lower priority together. Sums stay below
2^24, exact in float32."""

NO_LABEL: Final = -2
"""Padding of the labels of chosen items; -1, the padding of candidates, never equals it."""

NEVER: Final = -(1 << 14)
"""Count at the padding of labels: below any quota."""

MANY: Final = 1 << 20
"""Spare positions of a slate that is full."""


class Quota:
    """The candidates of a tile that the rules allow, choice by choice.

    A strict quota excludes every candidate that would break a rule for certain; a user left without
    a candidate is stuck. The slates of stuck users are chosen again with a lenient quota. It allows
    the candidates that break least, and prefers candidates that a rule asks for, because a later
    choice may exclude them.
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
        """Users and dials whose slate has a position without an allowed candidate, [B, W] bool.

        The choices from that position on have no meaning.
        """
        values_BWK = torch.cat(self._values, dim=2)
        is_place_B1K = torch.arange(values_BWK.shape[2]) < self._places_B1[..., None].cpu()
        return ((values_BWK == -torch.inf) & is_place_B1K.to(values_BWK.device)).any(dim=2)

    def hold_back(self, objective_BWC: Tensor) -> None:
        """Set the objective of candidates that are not allowed next to -inf."""
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
        """Return the penalty of needs that each candidate makes impossible; None = none can."""
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
    """Set the objective to -inf where the penalty is above the least among allowed candidates."""
    penalty_BWC.masked_fill_(objective_BWC == -torch.inf, torch.inf)
    is_worse_BWC = penalty_BWC > penalty_BWC.amin(dim=2, keepdim=True)
    objective_BWC.masked_fill_(is_worse_BWC, -torch.inf)


def _set_few(target: Tensor, value: float, where: Tensor) -> None:
    """Set a tensor to a value at a few positions; numpy is faster for few."""
    if target.device.type == "cpu":
        np.copyto(target.numpy(), value, where=where.numpy())
    else:
        target.masked_fill_(where, value)


class _Labels:
    """The labels of a tile's candidates and of the chosen items.

    `of_BLC` is padded with -1.
    """

    def __init__(self, rule: Rule, tile: Candidates) -> None:
        self.of_BLC = rule_labels(rule, tile).transpose(1, 2).contiguous()
        # the padding of chosen labels must not equal the padding of candidates
        self._chosen_BLC = self.of_BLC.masked_fill(self.of_BLC < 0, NO_LABEL)

    def of_choices(self, best_BW: Tensor) -> Tensor:
        """Return the labels of chosen candidates, [B, W, L]."""
        places_BLW = best_BW[:, None].expand(-1, self._chosen_BLC.shape[1], -1)
        labels_BWL = self._chosen_BLC.gather(2, places_BLW).transpose(1, 2)
        if labels_BWL.shape[2] > FEW:  # of candidates; few of the choices may have many
            labels_BWL = labels_BWL[..., : max(1, int((labels_BWL >= 0).any(0).any(0).sum()))]
        return labels_BWL

    def are_among(self, labels_BWL: Tensor) -> Tensor:
        """Return which labels of the candidates are among the given labels, [B, W, L, C] bool."""
        if labels_BWL.shape[2] > FEW:
            table_BWT = labels_BWL.new_zeros((*labels_BWL.shape[:2], int(self.of_BLC.max()) + 3))
            table_BWT.scatter_(2, labels_BWL.long() - NO_LABEL, 1)[..., :-NO_LABEL] = 0
            place_B1X = self.of_BLC[:, None].flatten(2).long() - NO_LABEL
            found_BWX = table_BWT.gather(2, place_B1X.expand(-1, labels_BWL.shape[1], -1))
            return found_BWX.view(*labels_BWL.shape[:2], *self.of_BLC.shape[1:]) > 0
        first, *others = labels_BWL[..., None, None].unbind(dim=2)
        is_met_BWLC = self.of_BLC[:, None] == first
        for label_BW11 in others:
            is_met_BWLC |= self.of_BLC[:, None] == label_BW11
        return is_met_BWLC


class _SlateCeiling:
    """An `at most` rule of the whole slate; it excludes candidates with a label that is full."""

    def __init__(self, labels: _Labels, count: int, num_dials: int) -> None:
        self._labels, self._most = labels, count
        self._chosen: list[Tensor] = []
        is_full_BC = (labels.of_BLC >= 0).any(dim=1) & (count == 0)
        barred_BC = torch.zeros(is_full_BC.shape, device=is_full_BC.device)
        barred_BC.masked_fill_(is_full_BC, -torch.inf)
        self._barred_BWC = barred_BC[:, None].repeat(1, num_dials, 1)  # added faster than filled in

    def is_reached(self) -> Tensor:
        """Return the candidates that would exceed the rule, [B, W, C] bool."""
        return self._barred_BWC < 0

    def bar(self, objective_BWC: Tensor) -> None:
        """Set the objective of these candidates to -inf."""
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
    """An `at most` rule of a window; it counts each label in the last positions."""

    def __init__(self, labels: _Labels, count: int, window: int, num_dials: int) -> None:
        self._labels, self._most, self._window = labels, count, window
        self._past: list[Tensor] = []
        counts_BLC = torch.zeros_like(labels.of_BLC, dtype=torch.int16)
        counts_BLC.masked_fill_(labels.of_BLC < 0, NEVER)
        self._counts_BWLC = counts_BLC[:, None].repeat(1, num_dials, 1, 1)

    def is_reached(self) -> Tensor:
        """Return the candidates that would exceed the rule, [B, W, C] bool."""
        return _any_label(self._counts_BWLC >= self._most)

    def bar(self, objective_BWC: Tensor) -> None:
        """Set the objective of these candidates to -inf."""
        _set_few(objective_BWC, -torch.inf, self.is_reached())

    def add(self, best_BW: Tensor) -> None:
        is_met_BWLC = self._labels.are_among(self._labels.of_choices(best_BW)).to(torch.int16)
        self._counts_BWLC.add_(is_met_BWLC)
        self._past.append(is_met_BWLC)
        if len(self._past) >= self._window:
            self._counts_BWLC.sub_(self._past.pop(0))


class _Needs:
    """The rules that need items: how many each still lacks, and how many a candidate adds.

    Rules are ordered by priority and need no more than the candidates can give. A candidate that
    meets two rules saves a position; the most positions that can be saved is an upper bound, not
    the result of a search.
    """

    def __init__(self, tile: Candidates, k: int, asking: Sequence[Rule], num_dials: int) -> None:
        self._asking = [_Need(rule, _Labels(rule, tile), tile, k, num_dials) for rule in asking]
        kinds = [rule.kind for rule in asking]
        self._is_last = [kind not in kinds[index + 1 :] for index, kind in enumerate(kinds)]

    def spare(self, left_B1: Tensor) -> int:
        """Return the smallest number of positions beyond the needed ones, over all slates.

        It falls by at most one with each choice; while it is positive, no candidate is checked.
        """
        wanted_BW1 = torch.stack([need.lacks_BW1 for need in self._asking]).sum(dim=0)
        spare_BW = left_B1 - wanted_BW1[..., 0]
        return max(0, int(spare_BW.masked_fill(left_B1 <= 0, MANY).amin()))

    def missed(self, objective_BWC: Tensor, left_B1: Tensor, *, saves: bool) -> Tensor:
        """Return the penalty of needs that each candidate, chosen now, makes impossible, [B, W, C].

        Args:
            objective_BWC: -inf for candidates that are not allowed.
            left_B1: positions left, including this one.
            saves: whether later candidates may meet several rules at once.
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
        """Return the penalty of needs that each candidate does not serve, [B, W, C]."""
        unserved_BWC = torch.zeros_like(self._asking[0].gains_BWC)
        for need in self._asking:
            unserved_BWC.add_((need.lacks_BW1 > 0) & (need.gains_BWC == 0), alpha=need.penalty)
        return unserved_BWC

    def add(self, best_BW: Tensor) -> None:
        for need in self._asking:
            need.add(best_BW)


def _saved(met_BWC: Tensor, objective_BWC: Tensor, after_B11: Tensor) -> Tensor:
    """Return an upper bound of the positions that the other candidates save, [B, W, C].

    A candidate saves positions by meeting several rules at once.

    Args:
        met_BWC: number of needs that each candidate meets.
        objective_BWC: -inf for candidates that are not allowed.
        after_B11: positions after this one.
    """
    saved_BWC = (met_BWC - 1).clamp_min_(0.0)
    saved_BWC.masked_fill_(objective_BWC == -torch.inf, 0.0)
    others_BWC = saved_BWC.sum(dim=2, keepdim=True) - saved_BWC
    return torch.minimum(others_BWC, after_B11 * saved_BWC.amax(dim=2, keepdim=True))


class _Need:
    """A rule that needs items.

    Attributes:
        penalty: penalty of breaking it.
        lacks_BW1: items that it still needs (labels, for `distinct`).
        gains_BWC: number of these that each candidate adds.
        most_B11: the largest number that any candidate adds.
    """

    def __init__(
        self, rule: Rule, labels: _Labels, tile: Candidates, k: int, num_dials: int
    ) -> None:
        self.penalty = PENALTIES[rule.kind]
        least_B = least_breach(rule, labels.of_BLC.transpose(1, 2), tile, k)
        lacks_B = rule.count - least_B
        if tile.hash_B is not None:
            lacks_B = lacks_B.masked_fill(~are_bound(rule, tile.hash_B), 0)
        lacks_B11 = lacks_B.float()[:, None, None]
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


def _any_label(of_label_BWLC: Tensor) -> Tensor:
    return of_label_BWLC[:, :, 0] if of_label_BWLC.shape[2] == 1 else of_label_BWLC.any(dim=2)
