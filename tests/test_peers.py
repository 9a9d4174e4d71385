"""Our metrics against the libraries that `make setup` installs beside us; conversions are here.

Those that bring other versions of numpy and pandas (RecTools, RePlay) are asked in interpreters of
their own: `python -m benchmarks.evaluation` prints the differences, docs/metrics.md quotes them.
"""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from benchmarks import peer_metrics
from benchmarks.evaluation import judge, make_world, map_over_targets, scoring_floor, traits_of
from recdiv_core.metrics import diversity
from recdiv_core.metrics.scorecard import user_metrics
from recdiv_core.metrics.slate_batch import match_slates
from tests.worlds import pad, random_world
from tests.worlds import traits_of as traits_of_world

old_scipy_name = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # vendi-score 0.0.3


@pytest.fixture(scope="module")
def world():
    return make_world(np.random.default_rng(1), num_users=60, num_items=400)


@pytest.fixture(scope="module")
def figures(world):
    traits = traits_of(world)
    return judge(world, traits, user_metrics(traits.attributes), rounds=1)[1]


def test_intent_aware_metrics_agree_with_ndeval(world, figures):
    pytest.importorskip("pyndeval", reason="needs pyndeval (the dev extra)")
    _, values = peer_metrics.pyndeval(world)
    assert values["alpha_ndcg"] > 0.01
    assert {name: figures[name] for name in values} == pytest.approx(values, abs=1e-12)


def test_intent_aware_metrics_agree_with_ndeval_on_several_labels(world):
    pytest.importorskip("pyndeval", reason="needs pyndeval (the dev extra)")
    rng = np.random.default_rng(2)
    second = np.where(rng.random(400) < 0.5, rng.integers(240, 300, 400), -1)
    labels = np.stack([world["categories"][:, 0], second], axis=1)
    several = {**world, "categories": labels}
    traits = traits_of({**several, "categories": np.where(labels < 240, labels, labels % 7)})
    several["categories"] = traits.categories[torch.arange(traits.num_items)].numpy()
    _, ours = judge(several, traits, user_metrics(traits.attributes), rounds=1)
    _, values = peer_metrics.pyndeval(several)
    assert ours["err_ia"] == pytest.approx(values["err_ia"], abs=1e-12)
    # the ideal order is greedy in both, ties are broken otherwise
    assert ours["alpha_ndcg"] == pytest.approx(values["alpha_ndcg"], rel=5e-3)


@old_scipy_name
def test_the_vendi_score_agrees_with_its_authors(world, figures):
    pytest.importorskip("vendi_score", reason="needs vendi-score (the dev extra)")
    _, values = peer_metrics.vendi_score(world)
    assert figures["vendi"] == pytest.approx(values["vendi"], rel=1e-6)


@old_scipy_name
def test_the_vendi_score_of_awkward_slates_agrees_with_its_authors():
    vendi = pytest.importorskip("vendi_score", reason="needs vendi-score (the dev extra)").vendi
    world = random_world(6)
    targets = torch.zeros(40, 1, dtype=torch.int64)
    slates = match_slates(pad(world.slates), targets, traits_of_world(world), k=10)
    unit = traits_of_world(world).unit_VD.double().numpy()
    for value, slate in zip(diversity.vendi(slates).tolist(), world.slates, strict=True):
        kernel = unit[slate] @ unit[slate].T
        np.fill_diagonal(kernel, 1)  # an item without a vector is like itself
        assert value == pytest.approx(vendi.score_K(kernel) if slate else 0.0, rel=1e-6)


def test_rank_metrics_agree_with_ranx(world, figures):
    pytest.importorskip("ranx", reason="needs ranx (in an environment of its own: numba)")
    _, values = peer_metrics.ranx(world)
    values["map_over_targets"] = values.pop("map")
    ours = {**figures, "map_over_targets": map_over_targets(world)}
    assert {name: ours[name] for name in values} == pytest.approx(values, abs=1e-12)


def test_map_over_targets_is_the_average_precision_of_scikit_learn(world):
    expected = []
    for slate, wanted in zip(world["slates"], world["targets"], strict=True):
        scores = np.zeros(400)
        scores[slate] = np.arange(10, 0, -1)
        hits = np.isin(np.arange(400), wanted) & (scores > 0)
        num_hits, num_targets = hits.sum(), (wanted >= 0).sum()
        precision = average_precision_score(hits, scores) if num_hits else 0.0
        expected.append(precision * num_hits / num_targets)
    assert map_over_targets(world) == pytest.approx(np.mean(expected), abs=1e-12)


def test_evaluation_costs_more_than_the_product_it_cannot_do_without():
    floor = scoring_floor(1, num_users=700, num_items=2000)
    assert floor["every_epoch_ratio"] > 1
    assert floor["whole_set_ratio"] > 1
