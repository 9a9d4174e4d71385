"""What changes with the number of a step: the learning rate and the diversity weight."""

from __future__ import annotations

import math


def schedule(step: int, *, num_steps: int, warmup_steps: int, final_share: float) -> float:
    """Return the factor on the learning rate at a step: linear warm-up, then a cosine decay.

    >>> schedule(0, num_steps=100, warmup_steps=10, final_share=0.1)
    0.1
    >>> round(schedule(99, num_steps=100, warmup_steps=10, final_share=0.1), 3)
    0.1
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    through = (step - warmup_steps) / max(1, num_steps - warmup_steps - 1)
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, through)))


def warmup(step: int, *, num_steps: int, share: float) -> float:
    """Return the factor on the diversity weight at a step: it rises over a share of the steps.

    The factor is above 0 from the first step, so that exposure is counted from there.

    >>> [warmup(step, num_steps=8, share=0.5) for step in (0, 1, 3, 7)]
    [0.25, 0.5, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / max(1.0, share * num_steps))
