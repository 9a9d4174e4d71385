"""The part of a batch that a rank computes at once: histories and dials.

Whatever has a size that depends on data (the users at dial 0, the pairs that they have seen) is
computed here on the host, before the part moves to the device. A step then never waits for the
device to learn a size. Shapes: see data/batches.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch

from recdiv_core.data.batches import Packed

Tensors = TypeVar("Tensors")


@dataclass(frozen=True)
class Dials:
    """The dials of a part's users (conditioned model), and the users with a dial above 0.

    Attributes:
        dial_RW: dial in [0, 1] of the user at each packed position.
        zero_N: int64 indices of the targets whose user has dial 0.
        above_N: int64 indices of the other targets.
        above_B: int64 indices of the users with a dial above 0; A of them.
        dial_A: dials of these users.
        seen_user_S: int64 index into `above_B` of each pair that such a user has seen.
        seen_item_S: int64 item_index of the pair.
        seen_time_S: int64 microseconds of the pair; None for a log without times.
    """

    dial_RW: torch.Tensor
    zero_N: torch.Tensor
    above_N: torch.Tensor
    above_B: torch.Tensor
    dial_A: torch.Tensor
    seen_user_S: torch.Tensor
    seen_item_S: torch.Tensor
    seen_time_S: torch.Tensor | None


@dataclass(frozen=True)
class Needed:
    """The items that a sampled loss reads of a part, and where they are in this list.

    Attributes:
        items_U: int64 item_index, distinct, ascending.
        history_RW: int64 places of the items of the histories.
        targets_N: int64 places of the targets.
        negatives_S: int64 places of the negatives.
    """

    items_U: torch.Tensor
    history_RW: torch.Tensor
    targets_N: torch.Tensor
    negatives_S: torch.Tensor


@dataclass(frozen=True)
class Part:
    """Users of a step that are computed at once.

    Attributes:
        packed: their histories.
        dials: the users' dials; None for a model without dials.
        needed: the items that the step reads; None = it reads all.
    """

    packed: Packed
    dials: Dials | None = None
    needed: Needed | None = None


def with_dials(part: Part, dial_B: torch.Tensor) -> Part:
    """Return a part whose users have dials, [B] float32 in [0, 1]; all tensors on the CPU."""
    packed = part.packed
    dial_RW = torch.zeros(packed.user_RW.shape)
    if len(dial_B):
        dial_RW = dial_B[packed.user_RW]
    is_zero_N = dial_RW.flatten()[packed.target_place_N] == 0
    is_above_B = dial_B > 0
    is_above_S = is_above_B[packed.seen_user_S]
    dials = Dials(
        dial_RW=dial_RW,
        zero_N=is_zero_N.nonzero()[:, 0],
        above_N=(~is_zero_N).nonzero()[:, 0],
        above_B=is_above_B.nonzero()[:, 0],
        dial_A=dial_B[is_above_B],
        seen_user_S=(is_above_B.cumsum(0) - 1)[packed.seen_user_S[is_above_S]],
        seen_item_S=packed.seen_item_S[is_above_S],
        seen_time_S=None if packed.seen_time_S is None else packed.seen_time_S[is_above_S],
    )
    return replace(part, dials=dials)


def with_needed(part: Part, negatives_S: torch.Tensor) -> Part:
    """Return a part with the items that a sampled loss reads; all tensors on the CPU.

    Args:
        part: histories and targets.
        negatives_S: [S] int64 item_index of the negatives, the same for all parts and ranks.
    """
    packed = part.packed
    each = [packed.items_RW.flatten(), packed.targets_N, negatives_S]
    items_U, place = torch.cat(each).unique(return_inverse=True)
    history, targets_N, places_S = place.split([len(items) for items in each])
    needed = Needed(items_U, history.view_as(packed.items_RW), targets_N, places_S)
    return replace(part, needed=needed)


def to_device(value: Tensors, device: torch.device) -> Tensors:
    """Move the tensors of a dataclass or named tuple to a device, without waiting for it."""
    moved: Any = value
    if isinstance(value, torch.Tensor):
        # only a copy from pinned memory runs beside the host
        pinned = value.pin_memory() if device.type == "cuda" else value
        moved = pinned.to(device, non_blocking=True)
    elif isinstance(value, tuple):
        each = [to_device(part, device) for part in value]
        moved = tuple(each) if type(value) is tuple else type(value)(*each)
    elif is_dataclass(value) and not isinstance(value, type):
        each = {f.name: to_device(getattr(value, f.name), device) for f in fields(value)}
        moved = replace(value, **each)
    return moved
