"""When a training has diverged: losses that are not finite, or fp16 steps that only overflow.

The checks look at sums that were fetched from the device, so they run some steps late. They always
run before a checkpoint is written, so no checkpoint holds weights that are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from recdiv_core.errors import DivergedError
from recdiv_core.training.step import StepSums

MIN_SCALE: Final = 1.0
"""Loss scale of fp16 below which a training has diverged: gradients overflow even unscaled."""
MAX_SKIPPED: Final = 0.5
"""Largest share of a run's steps that may overflow; a scale that starts too high costs about 16."""
REMEDY: Final = (
    "lower train.learning_rate or loss.diversity_weight, or set train.precision=bf16 or fp32, "
    "under another run.name"
)


def check_finite(sums: Sequence[StepSums], first_step: int) -> None:
    """Stop a training with a loss or gradient that is not finite (not fp16, which skips the step).

    Raises:
        DivergedError: names the first such step.
    """
    for step, each in enumerate(sums, first_step):
        if not math.isfinite(each.loss + each.grad_norm):
            raise DivergedError(
                f"training diverged: loss {each.loss}, gradient norm {each.grad_norm} at step "
                f"{step}; lower train.learning_rate or loss.diversity_weight, under another "
                "run.name"
            )


def check_scale(scale: float, step: int, num_skipped: int) -> None:
    """Stop an fp16 training in which every step overflows, however small the loss scale.

    Raises:
        DivergedError: the scale is below MIN_SCALE.
    """
    if scale < MIN_SCALE:
        raise DivergedError(
            f"training diverged: {num_skipped} steps overflowed train.precision=fp16 and were "
            f"skipped, the loss scale is {scale:g} at step {step}, below {MIN_SCALE:g}; {REMEDY}"
        )


def check_skipped(num_skipped: int, num_steps: int, precision: str) -> None:
    """Refuse to finish a training in which most steps did not change the weights.

    Raises:
        DivergedError: more than MAX_SKIPPED of the steps were skipped.
    """
    if num_skipped > MAX_SKIPPED * num_steps:
        raise DivergedError(
            f"training diverged: {num_skipped} of {num_steps} steps overflowed "
            f"train.precision={precision} and were skipped; allowed is a share of "
            f"{MAX_SKIPPED:g}; {REMEDY}"
        )
