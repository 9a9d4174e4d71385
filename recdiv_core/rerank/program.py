# pyright: strict
"""The mixed integer program of a slate: what it is made of so that it breaks as little as possible.

Not who needs one (repair.py). The one idea: each rule is a linear constraint with a slack, and a
slack costs more than all those of the kinds of rules that are given up sooner. A rule with a window
asks for places too: then kinds of candidates that windows see alike stand at places.

Legend: N rows of a program (candidates, or kinds of them), L labels a row, R rules, P places of the
slate, T kinds of rows as windows see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import scipy.optimize  # pyright: ignore[reportMissingTypeStubs]
import scipy.sparse  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from recdiv_core.rerank.candidates import Rule
from recdiv_core.slate_rules import RuleKind

MOST_NODES: Final = 100
"""Nodes of a search: the same on any machine, unlike seconds."""
TIME_LIMIT_S: Final = 5.0
"""A guard alone: where it strikes, what is found depends on how busy the machine is."""
GIVEN_UP: Final[tuple[RuleKind, ...]] = ("distinct", "at least", "at most", "include")
"""Kinds of rules, the first given up soonest."""
PREFERENCE: Final = 0.4
"""What all rows of a slate can be preferred by, together; a breach costs 1 or more."""

Array = NDArray[Any]


def breach_costs(rules: Sequence[Rule], num_labels: Sequence[int], num_places: int) -> Array:
    """Return what one breach of each rule costs, [R]: more than all of the kinds given up sooner.

    Args:
        rules: R of them.
        num_labels: the most labels that an item has, for each rule.
        num_places: P.
    """
    cost, cost_of_kind = 1.0, {"exclude": 0.0}
    for kind in GIVEN_UP:
        cost_of_kind[kind] = cost
        most = 0
        for rule, width in zip(rules, num_labels, strict=True):
            if rule.kind == kind:
                is_ceiling = kind == "at most"
                most += num_places * (rule.window or 1) * width if is_ceiling else rule.count
        cost *= 1 + most
    return np.array([cost_of_kind[rule.kind] for rule in rules])


class Program:
    """The mixed integer program of a slate: how often each row stands in it, and what that breaks.

    Rows are candidates, or kinds of candidates that no rule tells apart.
    """

    def __init__(
        self, rules: Sequence[Rule], labels: Sequence[Array], most_N: Array, num_places: int, k: int
    ) -> None:
        """Set up the program.

        Args:
            rules: R of them.
            labels: of each rule the labels of the rows, [N, L].
            most_N: how often a row may stand in the slate.
            num_places: P, those that candidates fill.
            k: slate length, which breaches are weighed by.
        """
        self._costs: list[float] = []
        self._upper: list[float] = []
        self._is_whole: list[bool] = []
        self._entries: list[tuple[int, int, float]] = []
        self._low: list[float] = []
        self._high: list[float] = []
        self._preference: dict[int, float] = {}
        self._num_places = num_places
        self._rows = self._variables(most_N.tolist(), 0.0, is_whole=True)
        self._constrain(self._rows, 1.0, num_places, num_places)
        is_windowed = [rule.kind == "at most" and 0 < rule.window < num_places for rule in rules]
        self._kind_N = np.zeros(len(most_N), dtype=np.int64)
        self._at_TP: list[list[int]] = []
        if any(is_windowed):
            seen = [own for own, windowed in zip(labels, is_windowed, strict=True) if windowed]
            self._place(np.concatenate(seen, axis=1))
        widths = [own_NL.shape[1] for own_NL in labels]
        weights = breach_costs(rules, widths, k).tolist()
        for rule, own_NL, weight, windowed in zip(rules, labels, weights, is_windowed, strict=True):
            if rule.kind == "at most":
                self._add_ceiling(rule, own_NL, weight, windowed)
            elif rule.kind != "exclude":
                self._add_need(rule, own_NL, weight)

    def prefer(self, chosen_P: Array) -> None:
        """Of slates that break as little prefer the one nearest to what was chosen.

        It keeps as many of these rows as it can, rather the first of them, if it can at their
        places; others are better the earlier they stand.
        """
        num_rows, num_places = len(self._rows), len(chosen_P)
        preference_N = 0.5 - 0.5 * np.arange(num_rows) / num_rows
        preference_N[chosen_P] = 1 - 0.25 * np.arange(num_places) / num_places
        share = PREFERENCE / num_places
        for row, preference in zip(self._rows, preference_N.tolist(), strict=True):
            self._preference[row] = -share * preference
        for place, row in enumerate(chosen_P.tolist() if self._at_TP else ()):
            self._preference[self._at_TP[self._kind_N[row]][place]] = -share / 8

    def solve(self) -> Array | None:
        """Return the values of all variables, or None if the budget did not suffice."""
        row, column, value = (np.array(part) for part in zip(*self._entries, strict=True))
        matrix = cast("Any", scipy.sparse).coo_array(
            (value, (row, column)), shape=(len(self._low), len(self._costs))
        )
        costs = np.array(self._costs)
        for index, preference in self._preference.items():
            costs[index] += preference
        optimize = cast("Any", scipy.optimize)
        result = optimize.milp(
            costs,
            integrality=np.array(self._is_whole, dtype=np.int64),
            bounds=optimize.Bounds(0.0, np.array(self._upper)),
            constraints=optimize.LinearConstraint(
                matrix.tocsc(), np.array(self._low), np.array(self._high)
            ),
            options={"node_limit": MOST_NODES, "time_limit": TIME_LIMIT_S, "mip_rel_gap": 0.0},
        )
        return None if result.x is None else np.asarray(result.x)

    def cost(self, solution: Array) -> float:
        """Return what a solution breaks, in the weights of the rules."""
        return float(np.dot(self._costs, solution))

    def allowed(self, solution: Array) -> Array:
        """Return which rows a solution puts at which places, [P, N] bool."""
        is_chosen_N = solution[self._rows] > 0.5
        if not self._at_TP:
            return np.repeat(is_chosen_N[None], self._num_places, axis=0)
        kind_P = solution[np.array(self._at_TP)].argmax(axis=0)
        return is_chosen_N & (self._kind_N == kind_P[:, None])

    def _variables(self, upper: Sequence[float], cost: float, *, is_whole: bool) -> list[int]:
        first = len(self._costs)
        self._costs += [cost] * len(upper)
        self._upper += upper
        self._is_whole += [is_whole] * len(upper)
        return list(range(first, len(self._costs)))

    def _constrain(
        self,
        columns: Sequence[int],
        value: float,
        low: float,
        high: float,
        *others: tuple[int, float],
    ) -> None:
        """Hold the sum of some variables, and of others times a factor, between low and high."""
        row = len(self._low)
        self._entries += [(row, column, value) for column in columns]
        self._entries += [(row, column, factor) for column, factor in others]
        self._low.append(low)
        self._high.append(high)

    def _place(self, seen_NL: Array) -> None:
        """Say at which places rows stand; rows that no window tells apart stand in one variable."""
        _, kind_N = np.unique(seen_NL, axis=0, return_inverse=True)
        self._kind_N = kind_N.reshape(-1)
        for kind in range(int(self._kind_N.max()) + 1):
            at_P = self._variables([1.0] * self._num_places, 0.0, is_whole=True)
            rows = [self._rows[row] for row in _places_of(self._kind_N == kind)]
            self._constrain(rows, 1.0, 0.0, 0.0, *((place, -1.0) for place in at_P))
            self._at_TP.append(at_P)
        for at_T in zip(*self._at_TP, strict=True):
            self._constrain(at_T, 1.0, 1.0, 1.0)

    def _add_ceiling(self, rule: Rule, labels_NL: Array, weight: float, windowed: bool) -> None:
        for label in np.unique(labels_NL[labels_NL >= 0]).tolist():
            rows = _places_of((labels_NL == label).any(axis=1))
            if not windowed:
                (over,) = self._variables([np.inf], weight, is_whole=False)
                columns = [self._rows[row] for row in rows]
                self._constrain(columns, 1.0, -np.inf, rule.count, (over, -1.0))
                continue
            kinds = sorted({int(self._kind_N[row]) for row in rows})
            for first in range(self._num_places - rule.window + 1):
                (over,) = self._variables([np.inf], weight, is_whole=False)
                places = range(first, first + rule.window)
                columns = [self._at_TP[kind][place] for kind in kinds for place in places]
                self._constrain(columns, 1.0, -np.inf, rule.count, (over, -1.0))

    def _add_need(self, rule: Rule, labels_NL: Array, weight: float) -> None:
        (lack,) = self._variables([np.inf], weight, is_whole=False)
        if rule.kind != "distinct":
            rows = _places_of((labels_NL >= 0).any(axis=1))
            columns = [self._rows[row] for row in rows]
            self._constrain(columns, 1.0, rule.count, np.inf, (lack, 1.0))
            return
        is_met: list[int] = []
        for label in np.unique(labels_NL[labels_NL >= 0]).tolist():
            is_met += self._variables([1.0], 0.0, is_whole=False)
            rows = _places_of((labels_NL == label).any(axis=1))
            columns = [self._rows[row] for row in rows]
            self._constrain(columns, 1.0, 0.0, np.inf, (is_met[-1], -1.0))
        self._constrain(is_met, 1.0, rule.count, np.inf, (lack, 1.0))


def _places_of(is_wanted_N: Any) -> list[int]:
    return np.flatnonzero(is_wanted_N).tolist()
