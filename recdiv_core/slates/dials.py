"""Slates of the same users under many re-ranking settings, from the same scores.

Not a grid of dials of one re-ranker (making.py). The users are scored once. The best items are
taken once per adjustment of the scores, and each re-ranker chooses at all of its dials in one pass.
The slates are those that `make_slates` makes under each policy alone.

Shapes: B users, b users of a tile, V catalogue, K slate length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from recdiv_core.config import Config, override, parse_dial
from recdiv_core.models.lifts import Lifts
from recdiv_core.rerank.top_scores import USERS_AT_ONCE
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.making import (
    Best,
    choose_slates,
    leave_out,
    needed_hashes,
    needed_shares,
    take_best,
)
from recdiv_core.slates.policy import SlatePolicy, fitted, slate_policy
from recdiv_core.slates.scoring import HeldOut

Group = TypeVar("Group", str, tuple[float, float])


def dials_of(config: Config) -> list[Config]:
    """Return the config with each entry of `eval.dials`; its own settings are left out."""
    own = [override(config, parse_dial(text)) for text in config.eval.dials]
    return [each for each in own if each.rerank != config.rerank]


def dial_policies(config: Config, dataset: Dataset, lifts: Lifts | None) -> list[SlatePolicy]:
    """Return the policy of each of `dials_of`; they differ in their re-ranking alone.

    For `lifts` and errors see `slate_policy`.
    """
    plain = slate_policy(config, dataset, lifts)
    return [
        replace(
            plain,
            method=each.rerank.method,
            diversity=each.rerank.diversity,
            logit_adjustment=each.rerank.logit_adjustment * each.model.temperature,
            lift=each.rerank.lift,
            lifts=fitted(lifts, each.rerank.lift),
        )
        for each in dials_of(config)
    ]


@torch.inference_mode()
def slates_under(
    held_out: HeldOut, dataset: Dataset, policies: Sequence[SlatePolicy]
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
    """Yield the place of each policy with its slates_BK and freed_BK, in the order that is fastest.

    See `SlateGrid` for freed_BK. Seen and excluded items lose their scores. The policies differ in
    method, dial, logit adjustment and lift alone.
    """
    packed, scores_BV, traits = held_out.packed, held_out.scores_BV, dataset.traits
    seen = packed.seen_user_S, packed.seen_item_S
    lowered = {
        policy.adjustment: policy.lowered_V(dataset.log_prior_V)
        for policy in {policy.adjustment: policy for policy in policies}.values()
    }
    requested_B = held_out.examples.requested
    left_out = leave_out(scores_BV, *seen, policies[0], requested_B, [*lowered.values()])
    hidden = dict(zip(lowered, left_out, strict=True))
    widest = max(policies, key=lambda policy: policy.reranks)
    history_BG = needed_shares(*seen, traits, len(scores_BV), widest)
    hash_B = needed_hashes(*seen, len(scores_BV), widest)
    numbered = dict(enumerate(policies))
    for adjustment, adjusted in _grouped(numbered, lambda policy: policy.adjustment):
        best = _best(scores_BV, lowered[adjustment], adjusted.values(), hash_B)
        methods = _grouped(adjusted, lambda policy: policy.method if policy.diversity else "none")
        for _, own in methods:
            dials = [policy.diversity for policy in own.values()]
            first = next(iter(own.values()))
            grid = choose_slates(best, traits, history_BG, first, dials, hidden[adjustment])
            for dial, place in enumerate(own):
                yield place, grid.items_BWK[:, dial], grid.freed_BK


def _best(
    scores_BV: torch.Tensor,
    lowered_V: torch.Tensor | None,
    policies: Iterable[SlatePolicy],
    hash_B: torch.Tensor,
) -> Best:
    """Take the best items of adjusted scores; on the CPU a tile of users at a time."""
    policy = max(policies, key=lambda policy: policy.reranks)
    if lowered_V is None:
        return take_best(scores_BV, policy, hash_B)
    at_once = len(scores_BV) if scores_BV.is_cuda else USERS_AT_ONCE
    tiles = [
        take_best(tile_bV - lowered_V, policy, hash_b)
        for tile_bV, hash_b in zip(scores_BV.split(at_once), hash_B.split(at_once), strict=True)
    ]
    return _joined(tiles)


def _joined(tiles: Sequence[Best]) -> Best:
    """Join tiles of users; rules may have added more items to some of them."""
    width = max(tile.items_BC.shape[1] for tile in tiles)

    def wide(part_bC: torch.Tensor, value: float) -> torch.Tensor:
        return torch.nn.functional.pad(part_bC, (0, width - part_bC.shape[1]), value=value)

    return Best(
        torch.cat([wide(tile.scores_BC, -torch.inf) for tile in tiles]),
        torch.cat([wide(tile.ranked_BC, -torch.inf) for tile in tiles]),
        torch.cat([wide(tile.items_BC, 0) for tile in tiles]),
        torch.cat([tile.hash_B for tile in tiles]),
    )


def _grouped(
    policies: Mapping[int, SlatePolicy], key: Callable[[SlatePolicy], Group]
) -> list[tuple[Group, dict[int, SlatePolicy]]]:
    """Return the policies of each value of the key, by their place."""
    groups: dict[Group, dict[int, SlatePolicy]] = {}
    for place, policy in policies.items():
        groups.setdefault(key(policy), {})[place] = policy
    return list(groups.items())
