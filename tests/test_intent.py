import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import describe_items
from recdiv_core.metrics.intent import alpha_ndcg, err_ia
from recdiv_core.metrics.slate_batch import SlateBatch, match_slates
from tests.metric_oracles import intent
from tests.worlds import pad, random_world, traits_of

A, B, C, D, E = range(5)


def judged(slate: list[int], targets: list[int], *, k: int = 5) -> SlateBatch:
    """Return a slate over items A .. E, of the needs a, b, c, b and none."""
    traits = describe_items(
        torch.eye(5),
        labels_of_padded(pad([[0], [1], [2], [1], []])),
        torch.ones(5, dtype=torch.int64),
        num_train_users=1,
        num_categories=3,
    )
    return match_slates(pad([slate]), pad([targets]), traits, k=k)


def test_golden_values_of_ndeval():
    # pyndeval 0.0.8: qrels a: A, b: B D, c: C; the run A D E B
    slates = judged([A, D, E, B], [A, B, C, D])
    assert err_ia(slates).item() == pytest.approx(0.39334341906202724, abs=1e-15)
    assert alpha_ndcg(slates).item() == pytest.approx(0.786895617614416, abs=1e-15)
    best = judged([A, B, C, D], [A, B, C, D])
    assert err_ia(slates).item() / err_ia(best).item() == pytest.approx(
        0.8297872340425532, abs=1e-15
    )


def test_the_ideal_order_scores_1():
    assert alpha_ndcg(judged([A, B, C, D], [A, B, C, D])).item() == pytest.approx(1.0, abs=1e-15)


def test_serving_one_need_twice_is_worth_less_than_two_needs():
    once, twice = judged([A, B], [A, B, D]), judged([B, D], [A, B, D])
    assert alpha_ndcg(twice).item() < alpha_ndcg(once).item()
    assert err_ia(twice).item() < err_ia(once).item()


@pytest.mark.parametrize(
    ("slate", "targets"), [([C], [A]), ([], [A]), ([E], [E])], ids=["no hit", "empty", "no need"]
)
def test_nothing_served_scores_0(slate, targets):
    assert alpha_ndcg(judged(slate, targets)).item() == 0.0
    assert err_ia(judged(slate, targets)).item() == 0.0


@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_users_are_judged_like_the_slow_twin(seed, k):
    world = random_world(seed, num_users=4)
    targets = [wanted or [0] for wanted in world.targets]
    slates = match_slates(pad(world.slates), pad(targets), traits_of(world), k=k)
    got = np.stack([alpha_ndcg(slates).numpy(), err_ia(slates).numpy()], axis=1)
    for user, slate in enumerate(world.slates):
        expected = intent(slate[:k], targets[user], k, world)
        assert got[user].tolist() == pytest.approx([*expected.values()], abs=1e-12)
