# pyright: strict
"""Re-rank scores that are given as NumPy arrays.

    >>> rerank([0.9, 0.8, 0.1], [[1, 0], [1, 0], [0, 1]], k=2, diversity=0.8).positions
    array([0, 2])

This module turns arrays into Candidates and calls a re-ranker of RERANKERS, as `recdiv recommend`
does. Row i of each table (`embeddings`, `categories`, `attributes`) describes item i. Column c of
`scores` is candidate c.

Legend: B users, C candidates, K slate length, V items, D dims, G categories.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recdiv_core.items.arrays import (
    LabelLists,
    check_num_items,
    item_vectors,
    label_lists,
    labels_of,
    number_labels,
    traits_of_arrays,
)
from recdiv_core.rerank.candidates import Candidates, Options, Rule
from recdiv_core.rerank.table import RERANKERS
from recdiv_core.slate_rules import SlateRule, group_rules, parse_rule

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "none": (),
    "mmr": ("embeddings",),
    "msd": ("embeddings",),
    "dpp": ("embeddings",),
    "ssd": ("embeddings",),
    "xquad": ("categories", "history"),
    "calibrated": ("categories", "history"),
    "alpha": ("categories or attributes",),
    "beam": ("categories",),
    "exposure": (),
}
"""Method -> arguments of `rerank` that it requires besides the scores."""


@dataclass(frozen=True, eq=False)
class Reranked:
    """Slates, best candidate first: [K] for one user, [B, K] for several.

    Attributes:
        positions: int64 columns of `scores`; -1 if a user has fewer than k candidates.
        scores: float64 scores of the chosen candidates; -inf for no candidate.
    """

    positions: Integers
    scores: Floats


def rerank(
    scores: npt.ArrayLike,
    embeddings: npt.ArrayLike | None = None,
    k: int = 10,
    *,
    method: str = "mmr",
    diversity: float = 0.5,
    categories: Sequence[Any] | None = None,
    attributes: Mapping[str, Sequence[Any]] | None = None,
    history: Sequence[Any] | None = None,
    items: npt.ArrayLike | None = None,
    rules: Sequence[str] = (),
    window: int = 0,
    alpha: float = 0.5,
    beam_width: int = 1,
) -> Reranked:
    """Choose slates of k from scored candidates, for one user or for several.

    Args:
        scores: [C] for one user or [B, C], higher is better; -inf = no candidate.
        embeddings: [V, D] item vectors of any length; they are normalised here.
        k: slate length, >= 1.
        method: name of a re-ranker; docs/python.md lists them.
        diversity: dial in [0, 1]: 0 = order of the scores, 1 = diversity alone.
        categories: a label, a list of labels, or None for each item.
        attributes: name -> a value or None for each item.
        history: categories of the earlier items of each user, one entry per event; for one user,
            the list of entries.
        items: [C] or [B, C] table rows of the candidates; None = column c of `scores` is item c.
        rules: rules as in `rerank.rules` (docs/slates.md). `include` and `exclude` name a table
            row. Other rules name `category` or a name in `attributes`.
        window: number of preceding items that an item must differ from; 0 = all (dpp, ssd).
        alpha: share of a user's interest that one item satisfies, in [0, 1] (xquad, alpha).
        beam_width: number of items that are chosen before their categories count (beam).

    Raises:
        ValueError: an argument does not fit; the message names the value and the allowed values.
    """
    optional = {
        "embeddings": embeddings,
        "categories": categories,
        "attributes": attributes,
        "history": history,
    }
    _check_method(
        method, diversity, {name for name, value in optional.items() if value is not None}
    )
    scores_BC, is_one = _as_scores(scores)
    vectors_VD = None if embeddings is None else item_vectors(embeddings)
    labels = {} if categories is None else {"category": label_lists(categories)}
    labels |= {name: label_lists(values) for name, values in (attributes or {}).items()}
    sizes = {"categories" if name == "category" else name: len(own) for name, own in labels.items()}
    sizes |= {} if vectors_VD is None else {"embeddings": len(vectors_VD)}
    items_BC, num_items = _as_items(items, scores_BC, sizes)
    given_rules, excluded_V = _as_rules(rules, labels, num_items)
    ranked_BC = np.where(excluded_V[items_BC], -np.inf, scores_BC)
    order_BC = np.argsort(-ranked_BC, axis=1, kind="stable")  # re-rankers want falling scores
    wanted = history if "history" in NEEDS[method] else None
    histories = _as_histories(wanted, len(scores_BC), is_one=is_one)
    numbers = number_labels([*labels.get("category", []), *(e for own in histories for e in own)])
    traits = traits_of_arrays(
        num_items,
        embeddings_VD=vectors_VD,
        categories=labels.get("category"),
        category_numbers=numbers,
        attributes={name: own for name, own in labels.items() if name != "category"},
    )
    candidates = Candidates(
        torch.tensor(np.take_along_axis(ranked_BC, order_BC, axis=1), dtype=torch.float32),
        torch.tensor(np.take_along_axis(items_BC, order_BC, axis=1)),
        traits,
        _history_shares(histories, numbers, len(scores_BC)),
    )
    options = Options(window=window, alpha=alpha, beam_width=beam_width, rules=given_rules)
    chosen_BK = RERANKERS[method](candidates, k, [diversity], options)[:, 0].numpy()
    return _as_result(chosen_BK, order_BC, scores_BC, is_one=is_one)


def _check_method(method: str, diversity: float, given: set[str]) -> None:
    if method not in NEEDS:
        known = ", ".join(
            f"{name} (needs {' and '.join(needs)})" if needs else name
            for name, needs in NEEDS.items()
        )
        raise ValueError(f"method={method!r} is unknown; allowed: {known}")
    missing = [need for need in NEEDS[method] if not given & set(need.split(" or "))]
    if missing:
        raise ValueError(f"method={method!r} needs {' and '.join(missing)}")
    if "history" in given and "categories" not in given:
        raise ValueError("history names categories, so it needs categories")
    if not 0 <= diversity <= 1:
        raise ValueError(f"diversity={diversity} must lie in [0, 1]: 0 = relevance, 1 = diversity")


def _as_scores(scores: npt.ArrayLike) -> tuple[Floats, bool]:
    """Return scores_BC, and whether they belong to one user."""
    scores_BC = np.asarray(scores, dtype=np.float64)
    if scores_BC.ndim not in (1, 2) or not scores_BC.shape[-1]:
        raise ValueError(f"scores: expected [C] or [B, C], C >= 1, got {list(scores_BC.shape)}")
    if np.isnan(scores_BC).any() or np.isposinf(scores_BC).any():
        raise ValueError("scores hold NaN or infinity; a finite number, or -inf for no candidate")
    return np.atleast_2d(scores_BC), scores_BC.ndim == 1


def _as_items(
    items: npt.ArrayLike | None, scores_BC: Floats, sizes: Mapping[str, int]
) -> tuple[Integers, int]:
    """Return the item of each candidate, and the number of items."""
    check_num_items(sizes)
    num_candidates = scores_BC.shape[1]
    if items is None:
        check_num_items({"scores": num_candidates, **sizes})
        own_C = np.arange(num_candidates, dtype=np.int64)
        return np.tile(own_C, (len(scores_BC), 1)), num_candidates
    items_BC: npt.NDArray[Any] = np.asarray(items)
    if items_BC.shape not in (scores_BC.shape, scores_BC.shape[1:]):
        raise ValueError(
            f"items: expected a row number for each of the scores {list(scores_BC.shape)}, "
            f"got {list(items_BC.shape)}"
        )
    num_items = next(iter(sizes.values()), int(items_BC.max(initial=0)) + 1)
    is_known_BC = (items_BC >= 0) & (items_BC < num_items)
    if items_BC.dtype.kind not in "iu" or not is_known_BC.all():
        raise ValueError(f"items must be whole numbers in 0..{num_items - 1}")
    items_BC = np.broadcast_to(items_BC.astype(np.int64), scores_BC.shape)
    in_order_BC = np.sort(items_BC, axis=1)
    is_twice_B = (in_order_BC[:, 1:] == in_order_BC[:, :-1]).any(axis=1)
    if is_twice_B.any():
        raise ValueError(f"items: row {int(is_twice_B.argmax())} names an item twice")
    return items_BC, num_items


def _as_histories(
    history: Sequence[Any] | None, num_users: int, *, is_one: bool
) -> list[LabelLists]:
    """Return the categories of each event of each user."""
    if history is None:
        return []
    histories = [label_lists(own) for own in ([history] if is_one else history)]
    if len(histories) != num_users:
        raise ValueError(f"history is of {len(histories)} users, scores are of {num_users}")
    return histories


def _history_shares(
    histories: Sequence[LabelLists], numbers: Mapping[Hashable, int], num_users: int
) -> Tensor:
    """Return the share of each category in each history: events count alike, [B, G]."""
    parts = [
        (user, numbers[label], 1 / len(labels))
        for user, events in enumerate(histories)
        for labels in events
        for label in labels
    ]
    user_N, label_N, part_N = np.array(parts, dtype=np.float64).reshape(-1, 3).T
    shares_BG = torch.zeros(num_users, max(1, len(numbers)))
    places = torch.tensor(user_N, dtype=torch.int64), torch.tensor(label_N, dtype=torch.int64)
    shares_BG.index_put_(places, torch.tensor(part_N, dtype=torch.float32), accumulate=True)
    return shares_BG / shares_BG.sum(dim=1, keepdim=True).clamp_min(1e-12)


def _as_rules(
    texts: Sequence[str], labels: Mapping[str, LabelLists], num_items: int
) -> tuple[tuple[Rule, ...], npt.NDArray[np.bool_]]:
    """Return the rules that re-rankers keep, and which items no slate may hold."""
    kept: list[Rule] = []
    for text in texts:
        if parse_rule(text).kind == "draw":
            raise ValueError(f"rules: {text!r}: histories of items are missing to draw by")
    excluded_V = np.zeros(num_items, dtype=np.bool_)
    for rules in group_rules(texts):
        first = rules[0]
        if first.item_id:
            named = [_item_of(rule, num_items) for rule in rules]
            if first.kind == "exclude":
                excluded_V[named] = True
                continue
            lists: LabelLists = [[0] if item in set(named) else [] for item in range(num_items)]
            kept.append(Rule(first.kind, labels_of(lists, {0: 0}), len(set(named))))
        else:
            lists = _counted_by(first, labels)
            numbered = labels_of(lists, number_labels(lists))
            kept.append(Rule(first.kind, numbered, first.count, first.window))
    return tuple(kept), excluded_V


def _counted_by(rule: SlateRule, labels: Mapping[str, LabelLists]) -> LabelLists:
    """Return the labels of each item that a rule counts."""
    if rule.attribute not in labels:
        raise ValueError(
            f"rules: {rule.text!r}: there is no {rule.attribute!r}; given are "
            f"{', '.join(labels) or 'no categories or attributes'}"
        )
    lists = labels[rule.attribute]
    if not rule.value:
        return lists
    if not any(str(label) == rule.value for own in lists for label in own):
        raise ValueError(f"rules: {rule.text!r}: no item has {rule.attribute}={rule.value}")
    return [[0 for label in own if str(label) == rule.value] for own in lists]


def _item_of(rule: SlateRule, num_items: int) -> int:
    if not rule.item_id.isdecimal() or int(rule.item_id) >= num_items:
        raise ValueError(f"rules: {rule.text!r}: expected a row number in 0..{num_items - 1}")
    return int(rule.item_id)


def _as_result(
    chosen_BK: Integers, order_BC: Integers, scores_BC: Floats, *, is_one: bool
) -> Reranked:
    is_empty_BK = chosen_BK < 0
    positions_BK = np.take_along_axis(order_BC, np.maximum(chosen_BK, 0), axis=1)
    scores_BK = np.take_along_axis(scores_BC, positions_BK, axis=1)
    positions_BK = np.where(is_empty_BK, -1, positions_BK)
    scores_BK = np.where(is_empty_BK, -np.inf, scores_BK)
    return Reranked(positions_BK[0], scores_BK[0]) if is_one else Reranked(positions_BK, scores_BK)
