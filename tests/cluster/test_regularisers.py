"""Each regulariser moves the hard metric that it stands for when a model is trained with it.

Not free scores (test_diversity_losses.py and test_aggregate.py have those), and not Ray Train: a
small model learns the built-in shop in this process, then copies of it go on for the same number
of epochs, one without a regulariser and one with each. Compared are the top-k slates of the
held-out users. A regulariser without effect gains 0; asked for is about half of what each gains.
"""

import copy
import functools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from recdiv_core.config import Config, override
from recdiv_core.data.catalogue import item_attributes
from recdiv_core.data.reading import (
    read_eval,
)
from recdiv_core.losses.diversity import REGULARISERS
from recdiv_core.metrics.tally import Tally, finish, tally_slates
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import build_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from tests.cluster.conftest import train_steps
from tests.oracles import (
    categories_of_slate,
    category_shares,
    divergence_from_history,
    divergence_from_popularity_power,
    evenness_of_values,
    items_shared,
    log_det_by_dimension,
)

pytestmark = pytest.mark.ray

K = 10
CONFIG = override(
    Config(),
    {
        "model.dim": 16,
        "model.num_layers": 1,
        "model.dropout": 0.0,
        "train.batch_size": 16,
        "train.learning_rate": 5e-3,
        "eval.k": K,
    },
)
WEIGHT = 0.5
FIRST_STEPS, FURTHER_STEPS = 36, 90


class Shown(NamedTuple):
    """What a model shows the held-out users, and what the oracles must know of the shop.

    Attributes:
        slates: of all users, in order.
        histories: the items that each user met before.
        figures: the library's metrics of the slates.
        vectors: of the items, [V, H].
        categories: of each item.
        num_categories: of the catalogue.
        popularity: share of the train events of each item.
        attributes: name -> index of each item's value.
    """

    slates: list[list[int]]
    histories: list[list[int]]
    figures: dict[str, float]
    vectors: np.ndarray
    categories: list[list[int]]
    num_categories: int
    popularity: list[float]
    attributes: dict[str, np.ndarray]


def show(model, dataset):
    """Make and judge the slates of both held-out splits: one alone has few users."""
    slates, histories, tally = [], [], Tally.zeros(dataset.traits, k=K)
    batch = {"batch_size": CONFIG.eval.batch_size, "rank": 0, "world_size": 1}
    policy = slate_policy(CONFIG, dataset)
    for split in ("val", "test"):
        (examples,) = read_eval(dataset.prepared, split, **batch)
        ends = np.cumsum(examples.lengths)[:-1]
        histories += [history.tolist() for history in np.split(examples.items, ends)]
        (held_out,) = held_out_of_split(model, dataset, split, CONFIG)
        slates_BK, targets_BT = held_out.slates(dataset, policy)
        slates += slates_BK.tolist()
        tally += tally_slates(slates_BK, targets_BT, dataset.traits, k=K)
    return Shown(
        slates,
        histories,
        finish(tally),
        vectors=dataset.text_VH.double().numpy(),
        categories=dataset.catalogue.category_lists.to_pylist(),
        num_categories=dataset.catalogue.num_categories,
        popularity=dataset.log_prior_V.exp().tolist(),
        attributes=item_attributes(dataset.catalogue),
    )


@pytest.fixture(scope="module")
def shown_after(shop):
    """Return what gives the slates of a model that went on with a regulariser (None: without)."""
    dataset = load_dataset(shop.prepared)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        base = build_model(CONFIG, dataset)
    train_steps(base, dataset, CONFIG, num_steps=FIRST_STEPS)

    @functools.cache
    def shown_after(name):
        mix = {"loss.diversity_weight": WEIGHT, "loss.diversity": {name: 1.0}} if name else {}
        model = copy.deepcopy(base)
        further = {"first_step": FIRST_STEPS, "num_steps": FURTHER_STEPS}
        train_steps(model, dataset, override(CONFIG, mix), **further)
        return show(model, dataset)

    return shown_after


def figure(name):
    return lambda shown: shown.figures[f"{name}_at_{K}"]


def volume(shown):
    """Average log det(I + cosines) of a slate over its limit, k log 2."""
    volumes = [log_det_by_dimension(np.ones(K), shown.vectors[slate]) for slate in shown.slates]
    return np.mean(volumes) / (K * math.log(2))


def divergence_from_tastes(shown):
    num_categories = shown.num_categories
    tastes = [category_shares(past, shown.categories, num_categories) for past in shown.histories]
    return np.mean(
        [
            divergence_from_history(slate, shown.categories, taste)
            for slate, taste in zip(shown.slates, tastes, strict=True)
        ]
    )


def diversity_index_of_tastes(shown, *, is_broad):
    """Average over the users whose history is of several categories, or of exactly one."""
    tastes = [{c for item in past for c in shown.categories[item]} for past in shown.histories]
    return np.mean(
        [
            categories_of_slate(slate, shown.categories, shown.num_categories, K)["diversity_index"]
            for slate, taste in zip(shown.slates, tastes, strict=True)
            if taste and (len(taste) > 1) == is_broad
        ]
    )


def divergence_from_target(shown):
    return divergence_from_popularity_power(shown.slates, shown.popularity, 0.5)


def evenness(name):
    def of_attribute(shown):
        values = shown.attributes[name]
        num_values = int(values.max()) + 1
        return np.mean(
            [evenness_of_values(values[slate].tolist(), num_values, K) for slate in shown.slates]
        )

    return of_attribute


def falling(measure):
    return lambda shown: -measure(shown)


CASES: dict[str, Any] = {
    "ild": (figure("ild"), 0.06),
    "category_entropy": (figure("diversity_index"), 0.06),
    "exposure": (falling(figure("gini")), 0.05),
    "coverage": (figure("coverage"), 0.07),
    "category_coverage": (figure("category_coverage"), 0.12),
    "dpp": (volume, 0.03),
    "calibration": (falling(divergence_from_tastes), 0.1),
    "user_adaptive": (functools.partial(diversity_index_of_tastes, is_broad=True), 0.06),
    "mutual_information": (falling(lambda shown: items_shared(shown.slates)), 0.11),
    "popularity_power": (falling(divergence_from_target), 0.015),
    "brand_entropy": (evenness("brand"), 0.025),
    "colour_entropy": (evenness("colour"), 0.08),
    "price_entropy": (evenness("price"), 0.06),
    "distil": (figure("ild"), 0.02),  # its teacher is mmr
}
"""Regulariser -> a hard metric, larger = more diverse; what it gains at least."""


def test_every_regulariser_has_a_case():
    assert CASES.keys() == REGULARISERS.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_model_trained_with_a_regulariser_gains_in_the_hard_metric_it_stands_for(
    shown_after, name
):
    metric, gain = CASES[name]
    assert metric(shown_after(name)) > metric(shown_after(None)) + gain


def test_user_adaptive_widens_the_slates_of_users_of_broad_taste_rather_than_of_narrow(shown_after):
    broad, narrow = (
        diversity_index_of_tastes(shown_after("user_adaptive"), is_broad=is_broad)
        - diversity_index_of_tastes(shown_after(None), is_broad=is_broad)
        for is_broad in (True, False)
    )
    assert broad > narrow + 0.05
