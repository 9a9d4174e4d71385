# pyright: strict
"""The arguments of every re-ranker: candidates, rules and options, and their checks.

Not the choosing. Candidates are item_index numbers; the properties of an item stand once in the
catalogue's traits and are looked up for a tile of users at a time.

Legend: B users, C candidates, D dims, L labels of an item, G categories, V catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from recdiv_core.items.labels import Labels
from recdiv_core.items.traits import ItemTraits
from recdiv_core.slate_rules import MOST_RULES, RuleKind


@dataclass(frozen=True)
class Candidates:
    """The scored candidates of a batch of users.

    Attributes:
        scores_BC: float, in descending order, higher is better; -inf or NaN marks padding, which is
            never chosen.
        items_BC: int64 item_index, each real item once in a row; any valid index at padding.
        traits: the items of the catalogue; embeddings have unit length or are zeros.
        history_BG: share of each category in each user's history; rows sum to 1, or are all 0
            without a history.
        hash_B: hashes of the histories, which `draw` needs, see drawn.py; None = no rule draws.
    """

    scores_BC: Tensor
    items_BC: Tensor
    traits: ItemTraits
    history_BG: Tensor
    hash_B: Tensor | None = None

    @cached_property
    def is_real_BC(self) -> Tensor:
        """[B, C] bool, False at padding."""
        return torch.isfinite(self.scores_BC)

    def embeddings_BCD(self) -> Tensor:
        """Return the vectors of the candidates, float32."""
        flat = self.traits.embeddings_VD.index_select(0, self.items_BC.flatten())
        return flat.float().view(*self.items_BC.shape, flat.shape[1])

    def labels_BCL(self, name: str) -> Tensor:
        """Return the values of an attribute, or the categories, of the candidates; -1 pads."""
        if name == "category":
            return self.traits.categories[self.items_BC]
        return self.traits.attributes[name][self.items_BC][..., None]

    def wishes_BCL(self) -> Tensor:
        """Return the history's share of each candidate's categories; 0 at padding.

        Same layout as `labels_BCL("category")`.
        """
        labels_BCL = self.labels_BCL("category")
        wishes = self.history_BG.gather(1, labels_BCL.clamp_min(0).flatten(1))
        return wishes.view(labels_BCL.shape).masked_fill(labels_BCL < 0, 0.0)

    def of_rows(self, rows: slice | Tensor) -> Candidates:
        """Return the candidates of the users in the given rows."""
        return replace(
            self,
            scores_BC=self.scores_BC[rows],
            items_BC=self.items_BC[rows],
            history_BG=self.history_BG[rows],
            hash_B=None if self.hash_B is None else self.hash_B[rows],
        )


@dataclass(frozen=True, eq=False)
class Rule:
    """A rule that every slate has to keep, see slate_rules.py.

    Attributes:
        kind: `at most` and `distinct` count each label separately; the others use the single label
            0.
        labels: labels of every item of the catalogue; an item without a label does not count.
        count: M or N of the rule, >= 0; 1 for a rule of an item.
        window: consecutive positions that `at most` counts in; 0 = the whole slate.
        share: share of the slates that `draw` binds, in (0, 1].
    """

    kind: RuleKind
    labels: Labels
    count: int = 1
    window: int = 0
    share: float = 1.0


@dataclass(frozen=True)
class Options:
    """Settings of some re-rankers besides the dial.

    Attributes:
        window: earlier positions that a position has to differ from; 0 = all (dpp, ssd).
        beam_width: positions decoded together, without a penalty among themselves (beam).
        alpha: share of the demand for a value that one item with it satisfies, in [0, 1]
            (xquad, alpha).
        attributes: name -> weight; names are `category` and the traits' attributes; empty = all
            of them with equal weights (alpha).
        rules: rules that every slate has to keep at any dial (all but exposure).
    """

    window: int = 0
    alpha: float = 0.5
    beam_width: int = 1
    attributes: Mapping[str, float] = field(default_factory=dict[str, float])
    rules: tuple[Rule, ...] = ()


def check_candidates(
    candidates: Candidates, k: int, dials: Sequence[float], options: Options
) -> None:
    """Check a re-ranker's arguments.

    Raises:
        ValueError: shapes that do not fit, k < 1, a dial out of [0, 1], an unknown attribute, or
            too many rules.
    """
    shape, items, history = (
        list(tensor.shape)
        for tensor in (candidates.scores_BC, candidates.items_BC, candidates.history_BG)
    )
    if (
        len(shape) != 2
        or not shape[1]
        or items != shape
        or history != [shape[0], candidates.traits.num_categories]
    ):
        raise ValueError(
            "expected scores [B, C], items [B, C], history [B, G] with C >= 1 and "
            f"G = {candidates.traits.num_categories}; got {shape}, {items}, {history}"
        )
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    for dial in dials:
        if not 0 <= dial <= 1:
            raise ValueError(f"rerank.diversity={dial} must lie in [0, 1]")
    if options.window < 0:
        raise ValueError(f"rerank.window={options.window} must be at least 0")
    if options.beam_width < 1:
        raise ValueError(f"rerank.beam_width={options.beam_width} must be at least 1")
    if not 0 <= options.alpha <= 1:
        raise ValueError(f"rerank.alpha={options.alpha} must lie in [0, 1]")
    known = {"category", *candidates.traits.attributes}
    unknown = set(options.attributes) - known
    if unknown:
        raise ValueError(
            f"rerank.attributes: the catalogue has no {', '.join(sorted(unknown))}; "
            f"allowed are {', '.join(sorted(known))}"
        )
    if options.attributes and not sum(options.attributes.values()):
        raise ValueError("rerank.attributes: the weights must sum to more than 0")
    _check_rules(options.rules, candidates.traits.num_items)


def _check_rules(rules: Sequence[Rule], num_items: int) -> None:
    if len(rules) > MOST_RULES:
        raise ValueError(f"rerank.rules: {len(rules)} given, at most {MOST_RULES} allowed")
    for rule in rules:
        if len(rule.labels) != num_items:
            raise ValueError(
                f"rerank.rules: expected labels of {num_items} items; got {len(rule.labels)}"
            )


def shares_of(labels_BCL: Tensor) -> Tensor:
    """Return the part of an item that each of its labels gets: 1 / labels, 0 at padding."""
    is_label_BCL = labels_BCL >= 0
    return is_label_BCL / is_label_BCL.sum(dim=2, keepdim=True).clamp_min(1)
