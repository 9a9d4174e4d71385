"""Losses of a text encoder on its own: contrast of pairs, and a student's vectors."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from recdiv_core.losses.text_pairs import contrast, imitation

NONE = torch.zeros(2, 3, dtype=torch.bool)


def vectors(rows: int, seed: int = 0, width: int = 4) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, width, generator=rng, dtype=torch.float64), dim=1)


def test_contrast_is_the_softmax_over_the_right_texts():
    left = torch.tensor([[1.0, 0.0]])
    right = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = contrast(left, right, torch.tensor([0]), NONE[:1, :2], temperature=0.5)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_a_text_that_also_belongs_to_the_left_one_is_no_negative():
    left, right, target = vectors(2), vectors(3, seed=1), torch.tensor([0, 2])
    other = torch.tensor([[False, True, False], [False, True, False]])
    assert contrast(left, right, target, other, 0.1) == contrast(
        left, right[[0, 2]], torch.tensor([0, 1]), NONE[:, :2], 0.1
    )


def test_the_target_counts_although_it_belongs_to_the_left_text():
    left, right, target = vectors(2), vectors(3, seed=1), torch.tensor([0, 2])
    marked = torch.zeros(2, 3, dtype=torch.bool).scatter(1, target[:, None], value=True)
    assert contrast(left, right, target, marked, 0.1) == contrast(left, right, target, NONE, 0.1)


def test_one_right_text_has_no_contrast():
    assert contrast(vectors(2), vectors(1), torch.tensor([0, 0]), NONE[:, :1], 0.1) == 0


def test_a_perfect_student_loses_nothing_and_any_other_does():
    teacher = vectors(6)
    assert imitation(teacher, teacher, 0.05).abs() < 1e-6
    assert imitation(vectors(6, seed=1), teacher, 0.05) > 0.1
    assert imitation(vectors(1, seed=1), vectors(1), 0.05) > 0.01


def test_a_rotated_student_keeps_the_similarities():
    teacher = vectors(6)
    turned = teacher.roll(1, dims=1)
    distance = 1 - (turned * teacher).sum(1).mean()
    assert imitation(turned, teacher, 0.05) == pytest.approx(distance.item())


def test_gradients_are_right():
    left, right = vectors(3).requires_grad_(), vectors(4, seed=1).requires_grad_()
    target, other = torch.tensor([0, 3, 3]), torch.zeros(3, 4, dtype=torch.bool)
    other[1, 1] = True
    assert torch.autograd.gradcheck(lambda a, b: contrast(a, b, target, other, 0.5), (left, right))
    assert torch.autograd.gradcheck(lambda a: imitation(a, vectors(3, seed=2), 0.5), (left,))
