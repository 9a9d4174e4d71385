"""Augmentation of train examples: histories cropped, masked or reordered; item texts thinned.

Not of evaluation examples, and not the reading of either (plan.py). The one idea: a draw is a
function of what it is for, never of what was drawn before it. A user's draws are named by (seed,
step, place in the global batch), an item's by (seed, step, item_index); so ranks and accumulation
parts augment alike however a batch is cut, and a resumed run draws what it would have drawn.
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
"""Events that each operation needs; to reorder two would be to reverse the whole history."""

WINDOW_PERCENT: Final = 60
HIDDEN_PERCENT: Final = 30

HISTORY_DRAWS, FIELD_DRAWS, TOKEN_DRAWS = range(3)


def augment_histories(
    examples: Examples, shares: Mapping[str, float], *, seed: int, step: int, first_user: int
) -> Examples:
    """Change each user's history by at most one operation; n is its number of events.

    - crop: a random contiguous max(2, 60 % of n) events are all that is left, also of what counts
      as seen.
    - mask: a random max(1, 30 % of n) events are hidden as inputs; they stay targets, seen items
      and positions.
    - reorder: a random contiguous max(2, 60 % of n) events are shuffled; queries and weights move
      with their items.

    Percentages are rounded down. Histories of one event, and of two for reorder, stay as they are.

    Args:
        examples: train examples, none of them hidden; no users are legal.
        shares: probability of each of OPERATIONS; one that is not named has 0. The rest of the
            users, 1 - the sum, stay as they are.
        seed: of the run.
        step: of the run, counted over epochs.
        first_user: place of the first user in the global batch.

    Raises:
        ValueError: an unknown operation, a share outside [0, 1], or a sum above 1.
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
    # one sort serves both: masked users' events in random order, of which the first are hidden,
    # and reordered users' events in their new order: inside the window random numbers of its range
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
    """Drop fields of item texts and mask tokens of what is left.

    The first and the last token of a text (BERT's [CLS] and [SEP]) always stay. Fields are what
    stands between separators; a category of several labels, which the shop itself separates by
    `|`, counts as several. Where all fields would be dropped, a random one stays; so one field
    alone is never dropped. Between the fields left there is one separator each.

    Args:
        input_ids: token ids of U texts.
        items: [U] item_index of each.
        token_mask: probability of a token to become the mask, in [0, 1].
        field_dropout: probability of a field to be dropped, in [0, 1].
        mask_id: see mask_and_separator.
        separator_id: see mask_and_separator.
        seed: of the run.
        step: of the run, counted over epochs.

    Returns:
        Token ids of the U texts, for pad_tokens.

    Raises:
        ValueError: a probability outside [0, 1].
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
    field = np.cumsum(starts_field) - 1  # numbered through all texts
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
    """Look up a tokeniser's mask and the `|` that joins an item's fields (catalogue.make_texts).

    Raises:
        UserError: there is no mask token, or ` | ` is not one token.
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
    """Choose the fields that stay: a text's highest draw in any case, and all above the rate."""
    owner, number = _places(num_fields)
    draw = uniforms(key, items[owner], number)
    highest = np.full(len(items), -1.0)
    np.maximum.at(highest, owner[has_tokens], draw[has_tokens])
    return (draw >= field_dropout) | (draw == highest[owner])


def _places(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the list that each element of concatenated lists comes from, and its place in it."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - (np.cumsum(lengths) - lengths)[owner]
