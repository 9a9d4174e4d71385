# pyright: strict
"""Explain why each item stands at its position: relevance, novelty, and the rule that intervened.

Not the choosing: it repeats the choices of given slates. A greedy choice maximises a sum of two
parts, so these parts explain it. Where another candidate has a larger sum, a rule decided.

Legend: B users, W dials, C candidates, K slate length, R rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Options, check_candidates
from recdiv_core.rerank.greedy import NoveltyOf, first_largest, weights
from recdiv_core.rerank.quota import Quota
from recdiv_core.rerank.wanted import without_excluded

FREE: Final = -1
"""No rule intervened."""


@dataclass(frozen=True)
class Explanation:
    """The reasons of each position; relevance + novelty is the objective of the chosen item.

    Attributes:
        relevance_BWK: (1 - d) times relevance on the re-ranker's scale; relevance alone at the
            first position of re-rankers that start with the top candidate. 0 after the end.
        novelty_BWK: d times the novelty given the earlier positions; 0 after the end.
        rule_BWK: int64 index of the rule that excluded the candidate with the largest objective;
            FREE where that candidate was chosen; R where no single rule excluded it (several rules
            together, or a second choice).
    """

    relevance_BWK: Tensor
    novelty_BWK: Tensor
    rule_BWK: Tensor


def explain(
    novelty_of: NoveltyOf,
    candidates: Candidates,
    chosen_BWK: Tensor,
    dials: Sequence[float],
    options: Options,
) -> Explanation:
    """Explain slates of a greedy re-ranker, for a few users at a time.

    `novelty_of` is one of NOVELTIES (rerank/__init__.py); dials and options are as they were for
    the choice.
    """
    k = chosen_BWK.shape[2]
    check_candidates(candidates, k, dials, options)
    candidates = without_excluded(candidates, options.rules)
    novelty = novelty_of(candidates, k, len(dials), options)
    weigh_W1, keep_W1 = weights(dials, chosen_BWK.device)
    rules = [rule for rule in options.rules if rule.kind != "exclude"]
    quotas = {options.rules.index(r): Quota(candidates, k, len(dials), [r]) for r in rules}
    is_out_BWC = (~candidates.is_real_BC)[:, None].repeat(1, len(dials), 1)
    relevance_BWC = novelty.relevance_BC[:, None].expand_as(is_out_BWC)
    kept_BWC, new_BWC = keep_W1 * relevance_BWC, novelty.first_BWC
    if new_BWC is None:
        kept_BWC, new_BWC = relevance_BWC, torch.zeros_like(relevance_BWC)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for place in range(min(k, is_out_BWC.shape[2])):
        is_end_BW = chosen_BWK[..., place] < 0
        best_BW = chosen_BWK[..., place].clamp_min(0)
        rule_BW = torch.full_like(best_BW, FREE)
        if options.rules:  # summed as when it was chosen, to the bit
            sum_BWC = torch.addcmul(kept_BWC.masked_fill(is_out_BWC, -torch.inf), weigh_W1, new_BWC)
            rule_BW = _intervening(sum_BWC, best_BW, quotas, len(options.rules))
        at_BW1 = best_BW[..., None]
        parts.append(
            (
                kept_BWC.gather(2, at_BW1)[..., 0].masked_fill(is_end_BW, 0.0),
                (weigh_W1[:, 0] * new_BWC.gather(2, at_BW1)[..., 0]).masked_fill(is_end_BW, 0.0),
                rule_BW.masked_fill(is_end_BW, FREE),
            )
        )
        is_out_BWC.scatter_(2, at_BW1, True)
        kept_BWC, new_BWC = keep_W1 * relevance_BWC, novelty.after(best_BW)
    ends = (0, k - len(parts))
    relevance_BWK, novelty_BWK, rule_BWK = (
        torch.nn.functional.pad(torch.stack(part, dim=2), ends, value=end)
        for part, end in zip(zip(*parts, strict=True), (0.0, 0.0, FREE), strict=True)
    )
    return Explanation(relevance_BWK, novelty_BWK, rule_BWK)


def _intervening(
    sum_BWC: Tensor, best_BW: Tensor, quotas: dict[int, Quota], num_rules: int
) -> Tensor:
    """Return the first rule that excludes the largest sum, [B, W]; update all quotas."""
    largest_BW = first_largest(sum_BWC)
    rule_BW = torch.full_like(best_BW, num_rules)
    for index, quota in sorted(quotas.items(), reverse=True):
        barred_BWC = sum_BWC.clone()
        quota.hold_back(barred_BWC)
        is_barred_BW = barred_BWC.gather(2, largest_BW[..., None])[..., 0] == -torch.inf
        rule_BW = torch.where(is_barred_BW, index, rule_BW)
        quota.add(best_BW, barred_BWC)
    return rule_BW.masked_fill(best_BW == largest_BW, FREE)
