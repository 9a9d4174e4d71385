"""What the encoder of a shop learns in a step: pairs, hidden tokens, or the vectors of a teacher.

Each function returns the losses of a step (`StepLoss`). losses/text_pairs.py and
models/masked_tokens.py have the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recdiv_core.adaptation.steps import StepLoss, Texts, batches
from recdiv_core.adaptation.texts import Pairs
from recdiv_core.losses.text_pairs import contrast, imitation
from recdiv_core.models.masked_tokens import MaskedTokens, Masking

HEAD_SHARE: Final = 0.1
"""Share of the steps in which a new head of masked language modelling learns alone."""


def both(parts: Sequence[StepLoss]) -> StepLoss:
    """Return all losses of some objectives."""
    return lambda step: {name: loss for part in parts for name, loss in part(step).items()}


def pair_loss(
    encoder: nn.Module,
    texts: Texts,
    pairs: Pairs,
    *,
    batch_size: int,
    temperature: float,
    rng: np.random.Generator,
) -> StepLoss:
    """Return the contrast of the pairs of a batch; each distinct text is encoded once."""
    drawn = batches(np.arange(len(pairs)), batch_size, rng)

    def losses(_: int) -> dict[str, Tensor]:
        rows_B = next(drawn)
        left_B, (right_U, target_B) = (
            pairs.left_P[rows_B],
            np.unique(pairs.right_P[rows_B], return_inverse=True),
        )
        distinct = np.union1d(left_B, right_U)
        vectors = texts.encode(encoder, distinct)
        left_BH, right_UH = (
            vectors[torch.as_tensor(np.searchsorted(distinct, rows), device=texts.device)]
            for rows in (left_B, right_U)
        )
        target_B, other_BU = (
            torch.as_tensor(each, device=texts.device)
            for each in (target_B, pairs.belong(left_B, right_U))
        )
        return {"contrast": contrast(left_BH, right_UH, target_B, other_BU, temperature)}

    return losses


def masked_loss(
    model: MaskedTokens,
    masking: Masking,
    texts: Texts,
    rows: NDArray[np.int64],
    *,
    batch_size: int,
    num_steps: int,
    rng: np.random.Generator,
) -> StepLoss:
    """Return the mean surprise at the hidden tokens of a batch of texts, in nats."""
    drawn = batches(rows, batch_size, rng)
    chance = torch.Generator().manual_seed(int(rng.integers(2**62)))
    head_steps = round(HEAD_SHARE * num_steps) if model.has_new_head else 0

    def losses(step: int) -> dict[str, Tensor]:
        input_ids, mask = texts.padded(next(drawn))
        shown, is_hidden = masking.hide(input_ids, mask, chance)
        count = int(is_hidden.sum())
        if not count:
            return {"masked": torch.zeros((), device=texts.device, requires_grad=True)}
        inputs = (each.to(texts.device) for each in (input_ids, mask, shown, is_hidden))
        with texts.autocast():
            nats = model.surprise(*inputs, head_only=step < head_steps)
        return {"masked": nats / count}

    return losses


def student_loss(
    student: nn.Module,
    texts: Texts,
    rows: NDArray[np.int64],
    taught: Tensor,
    *,
    batch_size: int,
    temperature: float,
    rng: np.random.Generator,
) -> StepLoss:
    """Return the imitation of the teacher's vectors of a batch.

    `taught` [N, H] are the teacher's vectors of the texts in `rows`.
    """
    drawn = batches(np.arange(len(rows)), batch_size, rng)

    def losses(_: int) -> dict[str, Tensor]:
        some = next(drawn)
        vectors = texts.encode(student, rows[some])
        return {"imitation": imitation(vectors, taught[torch.as_tensor(some)], temperature)}

    return losses
