"""fp16 on a real loss scaler: steps that overflow are skipped and counted, and a run that only
overflows ends."""

import math

import pytest
import torch
from torch import nn

from recdiv_core.errors import DivergedError
from recdiv_core.training.divergence import MAX_SKIPPED, MIN_SCALE, check_scale, check_skipped
from recdiv_core.training.shards import clip_gradients
from recdiv_core.training.step import StepSums
from recdiv_core.training.step_log import means
from tests.step_worlds import USERS, Training


def sums(grad_norm, loss=8.0):
    return StepSums(loss, 6.0, 2.0, 1.0, 4.0, 4.0, grad_norm)


def test_a_step_that_overflowed_is_no_part_of_the_means():
    figures = means([sums(3.0), sums(math.nan, math.nan), sums(math.inf), sums(5.0)], "train/")
    assert figures["train/grad_norm"] == 4.0
    assert figures["train/loss"] == 2.0


def test_an_epoch_without_a_step_has_no_means():
    assert all(math.isnan(value) for value in means([sums(math.inf)], "train/").values())


def scaled_step(model, optimizer, scaler, factor):
    """Take a step whose gradient is `factor`, as train_step takes it."""
    optimizer.zero_grad()
    loss = (model.weight.half() * factor).sum().float()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    grad_norm = float(clip_gradients(model, 1.0))
    scaler.step(optimizer)
    scaler.update()
    return sums(grad_norm)


@pytest.fixture
def parts():
    model = nn.Linear(1, 1, bias=False)
    return model, torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu")


def test_a_scaler_that_starts_too_high_loses_a_few_steps(parts):
    model, optimizer, scaler = parts
    before = model.weight.item()
    taken = [scaled_step(model, optimizer, scaler, 100.0) for _ in range(10)]
    assert [step.is_skipped for step in taken] == [True] * 7 + [False] * 3
    assert model.weight.item() == pytest.approx(before - 3 * 0.1)
    check_scale(scaler.get_scale(), 10, 7)


def test_a_training_that_only_overflows_ends_at_the_lowest_scale(parts):
    model, optimizer, scaler = parts

    def train():
        for step in range(100):
            assert scaled_step(model, optimizer, scaler, math.inf).is_skipped
            check_scale(scaler.get_scale(), step, step + 1)

    with pytest.raises(DivergedError, match=r"17 steps overflowed train.precision=fp16.*bf16"):
        train()
    assert scaler.get_scale() == MIN_SCALE / 2


def test_a_short_training_most_of_whose_steps_overflowed_does_not_finish():
    check_skipped(5, 10, "fp16")
    check_skipped(0, 0, "fp32")
    with pytest.raises(DivergedError, match=r"6 of 10 steps overflowed.*lower train.learning_rate"):
        check_skipped(6, 10, "fp16")
    assert MAX_SKIPPED == 0.5


def overflowing():
    """Return a training of fp16 whose scale is too high for its first step."""
    training = Training(precision=torch.float16, diversity_weight=0.3)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    return training


def test_a_real_step_that_overflows_leaves_weights_and_exposure_as_they_were():
    training = overflowing()
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    assert training.step(USERS).is_skipped
    assert training.shown_V.abs().sum() == 0
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_real_steps_go_on_once_the_scale_is_low_enough():
    training = overflowing()
    taken = [training.step(USERS) for _ in range(40)]
    num_skipped = sum(step.is_skipped for step in taken)
    assert 0 < num_skipped < 39
    assert not any(step.is_skipped for step in taken[num_skipped:])
    assert training.shown_V.abs().sum() > 0
    figures = means(taken, "train/")
    assert all(math.isfinite(value) for value in figures.values())


def test_a_real_training_whose_loss_is_no_number_ends():
    training = Training(precision=torch.float16)
    with torch.no_grad():
        next(training.model.parameters()).fill_(math.nan)

    def train():
        for step in range(30):
            assert training.step(USERS).is_skipped
            check_scale(training.scaler.get_scale(), step, step + 1)

    with pytest.raises(DivergedError, match="training diverged: 11 steps overflowed"):
        train()
