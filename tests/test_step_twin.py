"""A step without waiting for the device gives, to the bit, the weights of a step that waits.

The twin below does its arithmetic in Python's floats: it reads every count, loss and norm on the
host. It has one part.
"""

import contextlib
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recdiv_core.losses.aggregate import exposure_share
from recdiv_core.training.part_losses import part_losses
from recdiv_core.training.parts import with_dials
from recdiv_core.training.step import train_step
from tests.step_worlds import USERS, Training, fresh_model, negatives_of, part
from tests.test_step import DIALS, WAYS


def step_on_the_host(training, clip_norm):
    """Do one step as `train_step` does."""
    wanted, whole = training.objective, part(USERS)
    weight = max(1e-12, float(whole.packed.weights_N.sum(dtype=torch.float64)))
    w = wanted.diversity_weight
    training.optimizer.zero_grad()
    losses = part_losses(
        training.model,
        whole,
        wanted,
        exposure_V=exposure_share(training.shown_V),
        negatives=negatives_of(wanted),
        fresh=None,
        autocast=torch.autocast("cpu", enabled=False),
    )
    loss = (1 - w) * (losses.relevance * (1 / (weight * wanted.log_items)))
    if losses.penalty is not None:
        loss = loss + w * (losses.penalty * (1 / len(USERS)))
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(training.model.parameters(), clip_norm))
    training.optimizer.step()
    if wanted.needs_penalty and math.isfinite(norm):
        training.shown_V.mul_(0.99).add_(losses.shown_V)


def one_step(training, parts, clip_norm=1e9, *, waits=None):
    """Do a step, without fetching its sums; with a counter, count from when its input is there."""
    negatives = negatives_of(training.objective)
    with waits or contextlib.nullcontext():
        return train_step(
            training.model,
            parts,
            training.objective,
            training.optimizer,
            training.scaler,
            precision=training.precision,
            clip_norm=clip_norm,
            shown_V=training.shown_V,
            negatives=negatives,
        )


@pytest.mark.parametrize("way", WAYS)
def test_a_step_has_the_bits_of_a_step_that_waits_for_every_number(way):
    trainings = [
        Training(fresh_model(dropout=0.2), **{"diversity_weight": 0.3, **WAYS[way]})
        for _ in range(2)
    ]
    for training in trainings:
        training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=0.01)
    for step in range(4):
        clip_norm = [1e9, 0.05][step % 2]
        torch.manual_seed(step)  # noqa: TID251
        step_on_the_host(trainings[0], clip_norm)
        torch.manual_seed(step)  # noqa: TID251
        one_step(trainings[1], [part(USERS)], clip_norm)
    slow, fast = (each.weights() | {"shown_V": each.shown_V} for each in trainings)
    assert all(torch.equal(fast[name], value) for name, value in slow.items())


class Waits(TorchDispatchMode):
    """Count the calls for which a host would wait for a GPU: a number or a size from the device."""

    CALLS = (
        "aten._local_scalar_dense",
        "aten.nonzero",
        "aten.masked_select",
        "aten._unique2",
        "aten._unique.",
        "aten.unique_dim",
        "aten.unique_consecutive",
        "aten.bincount",
        "aten.repeat_interleave.Tensor",
        "aten.equal",
        "aten.linalg_cholesky.",
    )

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        is_mask = name.startswith(("aten.index.", "aten.index_put")) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name.startswith(self.CALLS) or is_mask:
            self.calls.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, {"relevance": "sampled_softmax"}])
def test_a_step_without_slates_never_waits_for_the_device(changes):
    training = Training(**changes)
    one_step(training, [part(USERS[:3]), part(USERS[3:])], clip_norm=0.05, waits=(waits := Waits()))
    assert waits.calls == []


@pytest.mark.parametrize("way", WAYS)
def test_a_step_with_slates_waits_for_nothing_but_ties_among_candidates(way, monkeypatch):
    monkeypatch.setattr(
        "recdiv_core.training.step_slates.top_scores", lambda scores, k: scores.topk(k)
    )
    mix = {name: 1.0 for name in Training().objective.mix if name != "distil"}
    changes = {"diversity_weight": 0.5, "mix": mix, **WAYS[way]}
    training, parts = Training(**changes), [part(USERS[:3]), part(USERS[3:])]
    one_step(training, parts)  # the first one reads sizes that stay
    one_step(training, parts, clip_norm=0.05, waits=(waits := Waits()))
    assert waits.calls == []


def test_a_conditioned_step_waits_for_nothing_either(monkeypatch):
    monkeypatch.setattr(
        "recdiv_core.training.step_slates.top_scores", lambda scores, k: scores.topk(k)
    )
    training = Training(
        fresh_model(is_conditioned=True),
        mix={"ild": 1.0, "coverage": 1.0},
        diversity_weight=0.5,
        is_conditioned=True,
        shared_dim=8,
    )
    parts = [with_dials(part(USERS), torch.tensor(DIALS))]
    one_step(training, parts, waits=(waits := Waits()))
    assert waits.calls == []


def test_a_step_of_fp16_waits_for_nothing_with_the_fused_optimiser():
    training = Training(precision=torch.float16)
    training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=0.01, fused=True)
    one_step(training, [part(USERS)], clip_norm=0.05, waits=(waits := Waits()))
    assert waits.calls == []


def test_the_counter_sees_a_number_that_is_read():
    with Waits() as waits:
        torch.ones(3).sum().item()
        torch.ones(3)[torch.ones(3) > 0]
    assert waits.calls == ["aten._local_scalar_dense.default", "aten.index.Tensor"]
