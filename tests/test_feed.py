"""What a rank is fed: the same users, draws and negatives however a step is cut."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recdiv_core.config import Config, override
from recdiv_core.schema import NO_QUERY, TRAIN_EXAMPLE
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import build_model
from recdiv_core.training.build import build_objective
from recdiv_core.training.feed import Feed, draw_dials
from tests.worlds import read_train, write_dataset

NUM_ITEMS, NUM_USERS, BATCH_SIZE, MAX_HISTORY = 20, 30, 16, 5
EVERYTHING = {
    "model.dim": 8,
    "model.num_layers": 1,
    "model.max_history": MAX_HISTORY,
    "train.batch_size": BATCH_SIZE,
    "loss.conditioned": True,
    "loss.diversity_weight": 0.3,
    "loss.relevance": "sampled_softmax",
    "loss.negatives": "mixed",
    "loss.num_negatives": 8,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, manifest):
    prepared = tmp_path_factory.mktemp("prepared")
    write_dataset(prepared, manifest, num_items=NUM_ITEMS, num_queries=0)
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, NUM_ITEMS, rng.integers(0, 12)) for _ in range(NUM_USERS)]
    rows = [
        {
            "user_id": f"u{user}",
            "items": items.tolist(),
            "queries": [NO_QUERY] * len(items),
            "weights": [1.0] * len(items),
        }
        for user, items in enumerate(histories)
    ]
    (prepared / "train").mkdir()
    table = pa.Table.from_pylist(rows, TRAIN_EXAMPLE)
    pq.write_table(table, prepared / "train" / "part-0.parquet", row_group_size=7)
    return load_dataset(prepared)


def feed_of(dataset, *, rank=0, world_size=1, **changes):
    config = override(Config(), EVERYTHING | changes)
    objective = build_objective(config, dataset, build_model(config, dataset))
    return Feed(config, dataset, objective, None, rank=rank, world_size=world_size)


def users_of(part, first):
    """Return what each user of a part is given, by place in the part: sets of facts of places."""
    packed = part.packed
    rows = zip(
        packed.user_RW.flatten().tolist(),
        packed.position_RW.flatten().tolist(),
        packed.items_RW.flatten().tolist(),
        strict=True,
    )
    found = {first + user: [] for user in range(len(packed.last_place_B))}
    for user, position, item in rows:
        if position:
            found[first + user].append((position, item))
    dials = dict(zip(packed.user_RW.flatten().tolist(), part.dials.dial_RW.flatten(), strict=True))
    return {user: (sorted(facts), float(dials[user - first])) for user, facts in found.items()}


def step_of(dataset, *, step, world_size, accumulation):
    """Return every user of a step, and the targets with weights, over all ranks and parts."""
    users, targets = {}, []
    for rank in range(world_size):
        steps = read_train(
            dataset.prepared,
            batch_size=BATCH_SIZE,
            seed=0,
            rank=rank,
            world_size=world_size,
            accumulation=accumulation,
            start_step=step,
        )
        examples = next(steps)
        for part in feed_of(dataset, rank=rank, world_size=world_size).parts(examples, step):
            users |= users_of(part, len(users))
            targets += zip(
                part.packed.targets_N.tolist(), part.packed.weights_N.tolist(), strict=True
            )
    return users, sorted(targets)


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 3), (2, 1), (2, 2), (3, 5)])
@pytest.mark.parametrize("step", [0, 1])
def test_users_are_given_the_same_however_a_step_is_cut(dataset, step, world_size, accumulation):
    whole = step_of(dataset, step=step, world_size=1, accumulation=1)
    assert len(whole[0]) == [BATCH_SIZE, NUM_USERS - BATCH_SIZE][step]
    assert step_of(dataset, step=step, world_size=world_size, accumulation=accumulation) == whole


def test_negatives_hold_all_targets_of_the_step_and_draws_that_change_with_it(dataset):
    feed = feed_of(dataset)
    steps = read_train(dataset.prepared, batch_size=BATCH_SIZE, seed=0, accumulation=2)
    parts = feed.parts(next(steps), 0)
    found = [feed.negatives(parts, step) for step in (0, 0, 1)]
    targets = {item for part in parts for item in part.packed.targets_N.tolist()}
    assert targets <= set(found[0].items_S.tolist())
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    uniform = [feed_of(dataset, **{"loss.negatives": "uniform"}).negatives([], s) for s in (0, 1)]
    counts = [draws.log_count_S.exp().sum().item() for draws in uniform]
    assert counts == [pytest.approx(8), pytest.approx(8)]
    assert uniform[0].items_S.tolist() != uniform[1].items_S.tolist()


@pytest.mark.parametrize(("has_text", "least"), [(True, 2), (False, 0)])
def test_items_without_train_events_are_no_negatives_where_texts_speak_for_them(
    dataset, has_text, least
):
    changes = {"loss.negatives": "uniform", "loss.num_negatives": 500}
    feed = feed_of(dataset, **changes, **{"model.text.enabled": has_text})
    assert dataset.catalogue.popularity_V[:3].tolist() == [0, 0, 1]
    negatives = feed.negatives([], 0)
    assert negatives.items_S.tolist() == list(range(least, NUM_ITEMS))
    expected = 500 / (NUM_ITEMS - least)
    torch.testing.assert_close(
        negatives.log_expected_S.exp(), torch.full_like(negatives.log_expected_S, expected)
    )


def test_the_softmax_leaves_out_the_same_items(dataset):
    objective = feed_of(dataset, **{"loss.relevance": "softmax"}).objective
    assert objective.left_out_X.tolist() == [0, 1]
    assert objective.num_negative_items == NUM_ITEMS - 2


def test_the_exact_softmax_draws_no_negatives(dataset):
    assert feed_of(dataset, **{"loss.relevance": "softmax"}).negatives([], 0) is None


def test_half_of_the_dials_are_0_and_the_others_even():
    dials = draw_dials(np.random.default_rng(0), 20_000)
    assert (dials == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    others = dials[dials > 0]
    for low, high in itertools.pairwise(np.linspace(0, 1, 5)):
        share = ((others >= low) & (others <= high)).float().mean().item()
        assert share == pytest.approx(0.25, abs=0.02)
