"""Augmentation of train examples: crop, mask or reorder histories; drop parts of item texts.

Evaluation examples are never augmented. The one idea: a random number is a function of its purpose,
not of earlier random numbers. For a user it depends on (seed, step, index in the global batch), for
an item on (seed, step, item_index). So the result does not depend on ranks and accumulation parts,
and a resumed run repeats it.
Xie et al., 2022, Contrastive Learning for Sequential Recommendation (CL4SRec).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np

from recdiv_core.data.draws import draw_key, uniforms
from recdiv_core.data.reading import Examples
from recdiv_core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPERATIONS: Final = ("crop", "mask", "reorder")
CROP, MASK, REORDER, NOTHING = range(4)

LEAST_EVENTS: Final = np.array([2, 2, 3, 0])
"""Fewest events of a history for each operation; reordering two would reverse the history."""

WINDOW_PERCENT: Final = 60
HIDDEN_PERCENT: Final = 30

HISTORY_DRAWS, FIELD_DRAWS, TOKEN_DRAWS = range(3)


def augment_histories(
    examples: Examples, shares: Mapping[str, float], *, seed: int, step: int, first_user: int
) -> Examples:
    """Change each user's history by at most one operation; n is its number of events.

    - crop: only a random contiguous part of max(2, 60 % of n) events is kept, also as seen items.
    - mask: max(1, 30 % of n) random events are hidden as inputs; they remain targets and seen
      items, and keep their positions.
    - reorder: a random contiguous part of max(2, 60 % of n) events is shuffled; queries and weights
      move with their items, times stay.

    Percentages are rounded down. Histories with fewer events than LEAST_EVENTS do not change.

    Args:
        examples: Train examples without hidden events; there may be no users.
        shares: Probability of each of OPERATIONS, default 0; the sum is at most 1.
        seed: Random seed of the run.
        step: Step of the run, counted over epochs.
        first_user: Index of the first user in the global batch.

    Raises:
        ValueError: An unknown operation, a share outside [0, 1], or a sum above 1.
    """
    edges = np.cumsum(_checked(shares))
    if not edges[-1] or not examples.items.size:
        return examples
    assert examples.is_hidden is None
    lengths, num_users = examples.lengths, len(examples.lengths)
    key = draw_key(seed, step, HISTORY_DRAWS)
    user = first_user + np.arange(num_users)
    chosen = np.searchsorted(edges, uniforms(key, user, 0), side="right")
    chosen = np.where(lengths >= LEAST_EVENTS[chosen], chosen, NOTHING)
    window = np.maximum(2, lengths * WINDOW_PERCENT // 100)
    begin = (uniforms(key, user, 1) * (lengths - window + 1)).astype(np.int64)
    num_hidden = np.maximum(1, lengths * HIDDEN_PERCENT // 100)

    owner, within = _places(lengths)
    operation, first = chosen[owner], begin[owner]
    is_inside = (within >= first) & (within < first + window[owner])
    draw = uniforms(key, user[owner], 2 + within)
    # one sort serves both: a masked history is sorted at random, and its first events are hidden;
    # a reordered history is sorted by position, with random positions inside the window
    rank = np.where((operation == REORDER) & is_inside, first + window[owner] * draw, within)
    order = np.lexsort((np.where(operation == MASK, draw, rank), owner))

    is_hidden = np.zeros(len(owner), bool)
    is_hidden[order[(operation == MASK) & (within < num_hidden[owner])]] = True
    is_kept = (operation != CROP) | is_inside
    source = np.where(operation == REORDER, order, np.arange(len(owner)))[is_kept]
    return replace(
        examples,
        items=examples.items[source],
        lengths=np.bincount(owner[is_kept], minlength=num_users),
        queries=examples.queries[source],
        weights=examples.weights[source],
        is_hidden=is_hidden[is_kept] if is_hidden.any() else None,
        times=None if examples.times is None else examples.times[is_kept],
    )


def augment_tokens(
    input_ids: Sequence[Sequence[int]],
    *,
    items: np.ndarray,
    token_mask: float,
    field_dropout: float,
    mask_id: int,
    separator_id: int,
    seed: int,
    step: int,
) -> list[list[int]]:
    """Drop fields of item texts, then mask some of the remaining tokens.

    The first and the last token of a text (BERT's [CLS] and [SEP]) are always kept. Separators
    delimit fields; a category with several labels, separated by `|`, counts as several fields. If
    all fields would be dropped, a random one is kept. The remaining fields are separated by one
    separator each.

    Args:
        input_ids: Token ids of U texts.
        items: [U] item_index of each text.
        token_mask: Probability that a token is masked, in [0, 1].
        field_dropout: Probability that a field is dropped, in [0, 1].
        mask_id: Token id of the mask, see mask_and_separator.
        separator_id: Token id of the separator, see mask_and_separator.
        seed: Random seed of the run.
        step: Step of the run, counted over epochs.

    Returns:
        Token ids of the U texts, for pad_tokens.

    Raises:
        ValueError: A probability is outside [0, 1].
    """
    for name, share in (("token_mask", token_mask), ("field_dropout", field_dropout)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} is not in [0, 1]")
    assert len(items) == len(input_ids)
    lengths = np.array([len(ids) for ids in input_ids], np.int64)
    ids = np.fromiter(chain.from_iterable(input_ids), np.int64, int(lengths.sum()))
    owner, within = _places(lengths)
    is_edge = (within == 0) | (within == lengths[owner] - 1)
    is_separator = (ids == separator_id) & ~is_edge
    starts_field = is_separator | (within == 0)
    field = np.cumsum(starts_field) - 1  # numbered over all texts
    is_field_kept = _kept_fields(
        np.bincount(owner[starts_field], minlength=len(items)),
        has_tokens=np.bincount(field[~is_edge & ~is_separator], minlength=starts_field.sum()) > 0,
        items=items,
        field_dropout=field_dropout,
        key=draw_key(seed, step, FIELD_DRAWS),
    )
    kept = np.flatnonzero(is_field_kept)
    first_kept = np.full(len(items), len(is_field_kept))
    np.minimum.at(first_kept, owner[starts_field][kept], kept)
    is_lost_separator = is_separator & (field == first_kept[owner])
    is_kept = is_edge | (is_field_kept[field] & ~is_lost_separator)

    draw = uniforms(draw_key(seed, step, TOKEN_DRAWS), items[owner], within)
    masked = np.where(~is_edge & (draw < token_mask), mask_id, ids)[is_kept].tolist()
    stop = np.cumsum(np.bincount(owner[is_kept], minlength=len(items))).tolist()
    return [masked[start:end] for start, end in zip([0, *stop], stop, strict=False)]


def mask_and_separator(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the token ids of the mask and of the separator `|` (catalogue.make_texts).

    Raises:
        UserError: The tokeniser has no mask token, or ` | ` is not one token.
    """
    ids = tokenizer("a | a", add_special_tokens=False)["input_ids"]
    mask_id = tokenizer.mask_token_id
    if not isinstance(mask_id, int) or len(ids) != 3:
        raise UserError(
            f"model.text.encoder={tokenizer.name_or_path}: item texts can be augmented only with a "
            "tokeniser that has a mask token and one token for ' | '"
        )
    return mask_id, ids[1]


def _checked(shares: Mapping[str, float]) -> list[float]:
    unknown = sorted(set(shares) - set(OPERATIONS))
    if unknown:
        raise ValueError(f"no operation {', '.join(unknown)}; there are {', '.join(OPERATIONS)}")
    ordered = [shares.get(name, 0.0) for name in OPERATIONS]
    # a sum such as .1 + .2 + .7 may miss 1 by a rounding error
    if not all(0 <= share <= 1 for share in ordered) or sum(ordered) > 1 + 1e-9:
        raise ValueError(f"shares {dict(shares)} are not in [0, 1] with a sum of at most 1")
    return ordered


def _kept_fields(
    num_fields: np.ndarray,
    *,
    has_tokens: np.ndarray,
    items: np.ndarray,
    field_dropout: float,
    key: np.ndarray,
) -> np.ndarray:
    """Choose the fields to keep: random number >= the rate, or the highest of its text."""
    owner, number = _places(num_fields)
    draw = uniforms(key, items[owner], number)
    highest = np.full(len(items), -1.0)
    np.maximum.at(highest, owner[has_tokens], draw[has_tokens])
    return (draw >= field_dropout) | (draw == highest[owner])


def _places(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the list and the index in it, for each element of concatenated lists."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - (np.cumsum(lengths) - lengths)[owner]
