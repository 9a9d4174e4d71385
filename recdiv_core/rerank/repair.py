# pyright: strict
"""The way out where choosing step by step has broken rules: an exact look at the whole slate.

Not on the common path: only slates that a strict quota was stuck with come here, and only those
that break more, chosen leniently, than counting shows to be inevitable are solved. The one idea: an
integer program (program.py) says which candidates a slate must be made of to break as little as
possible, nearest to what was chosen; at which places, where a rule has a window. The re-ranker then
chooses again among these alone.

The work is limited: MOST_WORK a call, and by limits of each program. Users beyond that keep what
was chosen step by step. How little can be broken depends on how many candidates have which labels
and on nothing else: it is asked once for all users who are alike in that.

Legend: B users of a tile, W dials, C candidates, L labels an item, R rules, K slate length, P
places filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from recdiv_core.rerank.breaches import breaches, least_breaches, rule_labels
from recdiv_core.rerank.candidates import Candidates, Rule
from recdiv_core.rerank.program import Array, Program, breach_costs

MOST_WORK: Final = 64
"""Programs that a call may solve, of some milliseconds each ..."""
WINDOWED_WORK: Final = 8
"""... and as how many of them one counts that has places in it, and may take a second."""
ENOUGH: Final = 0.5
"""Costs are whole numbers: what costs less by this much costs less."""


class Repairs:
    """The exact solver of one call: its budget, and what it has found out already.

    Attributes:
        rules: to be kept.
        k: slate length.
        work: done so far.
    """

    def __init__(self, rules: Sequence[Rule], k: int) -> None:
        self.rules, self.k = rules, k
        self.work = 0
        is_windowed = any(rule.kind == "at most" and 0 < rule.window < k for rule in rules)
        self._is_windowed = is_windowed
        self._work_of_one = WINDOWED_WORK if is_windowed else 1
        self._least_costs: dict[tuple[bytes, bytes, int], float] = {}

    def allowed(self, tile: Candidates, picks_BWK: Tensor, is_stuck_BW: Tensor) -> Tensor | None:
        """Find which candidates may stand at which places when slates are chosen once more.

        Those of a better slate where there is one, and else of the slate that there is. Without
        windows they may stand in any order: the re-ranker puts them in its own.

        Args:
            tile: whose slates they are, without excluded candidates.
            picks_BWK: places chosen, -1 behind the end.
            is_stuck_BW: which slates are to be chosen once more.

        Returns:
            [B, W, K, C] bool; None where it says no more than the picks.
        """
        items_BWC = tile.items_BC[:, None].expand(-1, picks_BWK.shape[1], -1)
        items_BWK = items_BWC.gather(2, picks_BWK.clamp_min(0)).masked_fill(picks_BWK < 0, -1)
        allowed_BWKC = picks_BWK[..., None] == torch.arange(
            items_BWC.shape[2], device=picks_BWK.device
        )
        if not self._is_windowed:
            allowed_BWKC = allowed_BWKC.any(dim=2, keepdim=True).repeat(1, 1, picks_BWK.shape[2], 1)
        broken_BWR = breaches(self.rules, items_BWK)
        is_open_BW = (broken_BWR > 0).any(dim=2) & is_stuck_BW
        num_better = 0
        if bool(is_open_BW.any()):
            least_B1R = least_breaches(self.rules, tile, self.k)[:, None]
            is_open_BW &= (broken_BWR > least_B1R).any(dim=2)
            num_better = self._allow_better(tile, picks_BWK, broken_BWR, is_open_BW, allowed_BWKC)
        return allowed_BWKC if num_better or not self._is_windowed else None

    def _allow_better(
        self,
        tile: Candidates,
        picks_BWK: Tensor,
        broken_BWR: Tensor,
        is_open_BW: Tensor,
        allowed_BWKC: Tensor,
    ) -> int:
        """Write the candidates of better slates over those allowed; return how many are found."""
        num_better = 0
        labels = [_numpy(rule_labels(rule, tile)) for rule in self.rules]
        labels = [_binding(rule, own_BCL) for rule, own_BCL in zip(self.rules, labels, strict=True)]
        costs_R = breach_costs(self.rules, [own_BCL.shape[2] for own_BCL in labels], self.k)
        is_real_BC, picks = _numpy(tile.is_real_BC), _numpy(picks_BWK)
        cost_BW = _numpy(broken_BWR) @ costs_R
        for user, dial in np.argwhere(_numpy(is_open_BW)).tolist():
            real_N = np.flatnonzero(is_real_BC[user])
            own = [own_BCL[user, real_N] for own_BCL in labels]
            place_C: Array = is_real_BC[user].cumsum() - 1
            chosen_P: Array = place_C[picks[user, dial][picks[user, dial] >= 0]]
            found_PN = self._better(own, chosen_P, float(cost_BW[user, dial]))
            if found_PN is not None:
                num_better += 1
                allowed_PC = np.zeros((len(chosen_P), is_real_BC.shape[1]), dtype=bool)
                allowed_PC[:, real_N] = found_PN
                allowed_BWKC[user, dial, : len(chosen_P)] = torch.as_tensor(
                    allowed_PC, device=allowed_BWKC.device
                )
        return num_better

    def _better(self, labels: list[Array], chosen_P: Array, cost: float) -> Array | None:
        """Return which candidates may stand at which places, [P, N] bool.

        Args:
            labels: of each rule those of a user's real candidates, [N, L].
            chosen_P: the slate that there is.
            cost: what it breaks.

        Returns:
            None if nothing better is found within the budget.
        """
        least = self._least_cost(labels, len(chosen_P))
        if least is None or least > cost - ENOUGH or self.work >= MOST_WORK:
            return None
        self.work += self._work_of_one
        program = Program(self.rules, labels, np.ones(len(labels[0])), len(chosen_P), self.k)
        program.prefer(chosen_P)
        solution = program.solve()
        if solution is None or program.cost(solution) > cost - ENOUGH:
            return None
        return program.allowed(solution)

    def _least_cost(self, labels: list[Array], num_places: int) -> float | None:
        """Return what the best slate breaks, by how many candidates have which labels."""
        kinds, counts_N = np.unique(np.concatenate(labels, axis=1), axis=0, return_counts=True)
        counts_N = np.minimum(counts_N, num_places)
        key = (kinds.tobytes(), counts_N.tobytes(), num_places)
        if key not in self._least_costs:
            if self.work >= MOST_WORK:
                return None
            self.work += self._work_of_one
            ends = np.cumsum([own_NL.shape[1] for own_NL in labels])[:-1]
            kind_labels = np.split(kinds, ends, axis=1)
            program = Program(self.rules, kind_labels, counts_N, num_places, self.k)
            solution = program.solve()
            # unknown counts as nothing broken: the program of the user himself may still do
            self._least_costs[key] = 0.0 if solution is None else program.cost(solution)
        return self._least_costs[key]


class Places:
    """Lets come at each place what a repair allows there."""

    def __init__(self, allowed_BWKC: Tensor) -> None:
        self._allowed_BWKC = allowed_BWKC
        self._place = 0

    def hold_back(self, objective_BWC: Tensor) -> None:
        """Set the objective of what is not allowed at this place to -inf."""
        objective_BWC.masked_fill_(~self._allowed_BWKC[:, :, self._place], -torch.inf)

    def add(self, best_BW: Tensor, objective_BWC: Tensor) -> None:
        """Go to the next place."""
        self._place += 1


def _numpy(tensor: Tensor) -> Array:
    array: Any = tensor.cpu().numpy()
    return array


def _binding(rule: Rule, labels_BCL: Array) -> Array:
    """Take out the labels of an `at most` rule that too few candidates have to ever exceed it."""
    if rule.kind != "at most":
        return labels_BCL
    binding_BCL = np.full_like(labels_BCL, -1)
    for own_CL, binding_CL in zip(labels_BCL, binding_BCL, strict=True):
        values, counts = np.unique(own_CL, return_counts=True)
        is_binding_CL = np.isin(own_CL, values[counts > rule.count])
        binding_CL[is_binding_CL] = own_CL[is_binding_CL]
    return binding_BCL
