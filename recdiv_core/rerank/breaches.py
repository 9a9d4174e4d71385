# pyright: strict
"""Count how far slates are from keeping rules, and how far they must be.

Not the keeping of the rules (quota.py). Each rule has a count of its own, 0 where the rule is kept,
which says by how much a slate would have to change.

Legend: B users, C candidates, L labels of an item, R rules, K slate length, E entries of a list of
labels, P windows, N and X lists.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Rule
from recdiv_core.rerank.drawn import draw


def breaches(rules: Sequence[Rule], slates_XK: Tensor) -> Tensor:
    """Count how far slates are from keeping each rule, [..., R] int64; 0 = kept.

    `at most` counts the excess items, summed over labels and windows. `at least`, `draw` and
    `include` count the missing items, `distinct` the missing labels, and `exclude` the forbidden
    items. A window is W consecutive positions, or the whole slate if it is shorter.

    Args:
        rules: R of them.
        slates_XK: [..., K] int64 item_index in slate order, -1 after the end.
    """
    slates_NK = slates_XK.reshape(-1, slates_XK.shape[-1])
    counts = [_breaches_of(rule, slates_NK) for rule in rules]
    if not counts:
        return slates_XK.new_zeros((*slates_XK.shape[:-1], 0))
    return torch.stack(counts, dim=1).view(*slates_XK.shape[:-1], len(counts))


def _breaches_of(rule: Rule, slates_NK: Tensor) -> Tensor:
    k = slates_NK.shape[1]
    is_filled_NK = slates_NK >= 0
    labels_NKL = rule.labels[slates_NK]
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
    """Count for each entry of a list the equal entries before it, [N, E] int64."""
    sorted_NE, order_NE = labels_NE.sort(dim=1, stable=True)
    place_NE = torch.arange(labels_NE.shape[1], device=labels_NE.device).expand_as(sorted_NE)
    first_NE = torch.searchsorted(sorted_NE, sorted_NE)
    return torch.empty_like(first_NE).scatter_(1, order_NE, place_NE - first_NE)


def num_distinct(labels_NE: Tensor) -> Tensor:
    """Count the distinct labels of each list, [N] int64; -1 is no label."""
    sorted_NE = labels_NE.sort(dim=1).values
    is_first_NE = sorted_NE[:, 1:] != sorted_NE[:, :-1]
    return is_first_NE.sum(dim=1) + (sorted_NE[:, 0] >= 0)


def least_breach(rule: Rule, labels_BCL: Tensor, candidates: Candidates, k: int) -> Tensor:
    """Return a lower bound of the breaches of one rule in any slate of the candidates, [B] int64.

    The bound is loose for `at most` in windows that overlap, or of items with several labels.

    Args:
        rule: any but `exclude`.
        labels_BCL: its labels of the candidates, see `rule_labels`.
        candidates: B users with C candidates each.
        k: slate length.
    """
    is_real_BC = candidates.is_real_BC
    places_B = is_real_BC.sum(dim=1).clamp_max(k)
    labels_BE = labels_BCL.flatten(1)
    least_B = torch.zeros_like(places_B)
    if rule.kind in ("include", "at least", "draw"):
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


def rule_labels(rule: Rule, tile: Candidates) -> Tensor:
    """Look up the labels of the candidates, [B, C, L] int32, without empty columns.

    Of `draw` only drawn candidates have a label.
    """
    labels_BCL = rule.labels[tile.items_BC.masked_fill(~tile.is_real_BC, -1)].int()
    if labels_BCL.shape[2] > 1:
        labels_BCL = labels_BCL[..., : max(1, int((labels_BCL >= 0).any(dim=0).any(dim=0).sum()))]
    if rule.kind == "draw" and tile.hash_B is not None:
        is_able_BC = (labels_BCL >= 0).any(dim=2)
        is_drawn_BC = draw(tile.hash_B, tile.items_BC, is_able_BC, rule.count)
        labels_BCL = labels_BCL.masked_fill(~is_drawn_BC[..., None], -1)
    return labels_BCL
