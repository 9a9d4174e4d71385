# pyright: strict
"""Losses of a text encoder on its own: pairs of texts, and the vectors of a teacher.

`contrast` pulls the two texts of a pair together, `imitation` makes a small encoder give the
vectors of a large one. Both are means over the batch, so they do not depend on its size. Lower is
better. Shapes: B texts of a batch, U distinct texts that pairs end in, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrast(
    left_BH: Tensor, right_UH: Tensor, target_B: Tensor, other_BU: Tensor, temperature: float
) -> Tensor:
    """Return the mean of `-log softmax(left . right / temperature)` at the target, in nats.

    InfoNCE with the texts of the batch as negatives (van den Oord et al., 2018). They occur as
    often as they are chosen, and nothing corrects for it. So the best score is the log of how much
    more often the right text follows the left one than it occurs: meaning without popularity.

    Args:
        left_BH: unit vectors of the left texts.
        right_UH: unit vectors of the distinct right texts.
        target_B: int64, right text of each left text.
        other_BU: bool, further texts that belong to the left text; they are no negatives.
        temperature: divisor of the cosines, above 0.

    Returns:
        Scalar >= 0; 0 for a batch without negatives.
    """
    logits_BU = left_BH @ right_UH.T / temperature
    is_left_out_BU = other_BU.scatter(1, target_B[:, None], value=False)
    return F.cross_entropy(logits_BU.masked_fill(is_left_out_BU, -torch.inf), target_B)


def imitation(student_BH: Tensor, teacher_BH: Tensor, temperature: float) -> Tensor:
    """Return how far a student's vectors are from the teacher's, and from their similarities.

    The sum of two terms. The first is the mean of `1 - cosine` of both vectors of a text
    (Reimers and Gurevych, 2020). The second compares the similarities of a text to the others of
    the batch: the mean KL divergence of their softmax over `cosine / temperature`, which weighs the
    nearest texts most, as a ranking does (Tian et al., 2020).

    Args:
        student_BH: unit vectors.
        teacher_BH: unit vectors of the same texts.
        temperature: divisor of the cosines, above 0.

    Returns:
        Scalar >= 0; 0 for equal vectors.
    """
    distance = 1 - (student_BH * teacher_BH).sum(1).mean()
    itself_BB = torch.eye(len(student_BH), dtype=torch.bool, device=student_BH.device)
    if len(student_BH) < 2:
        return distance
    log_student_BB, log_teacher_BB = (
        # a finite number in place of -inf, because KL multiplies it by the probability 0
        (vectors @ vectors.T / temperature).masked_fill(itself_BB, -1e4).log_softmax(1)
        for vectors in (student_BH, teacher_BH)
    )
    structure = F.kl_div(log_student_BB, log_teacher_BB, reduction="batchmean", log_target=True)
    return distance + structure
