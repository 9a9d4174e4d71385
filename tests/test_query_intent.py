"""Metrics of the intents of queries (metrics/query_intent.py, evaluation/query_intents.py)."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recdiv_core.evaluation.query_intents import count_intents
from recdiv_core.metrics.query_intent import (
    INTENT_METRICS,
    intent_alpha_ndcg,
    intent_coverage,
    zero_results,
)
from recdiv_core.metrics.slate_batch import Background, Intents, SlateBatch, match_slates
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, TRAIN_EXAMPLE
from recdiv_core.slates.dataset import load_dataset
from tests.worlds import World, pad, random_world, traits_of, write_dataset


def judged(world: World, intents: list[dict[int, float]], k: int) -> SlateBatch:
    """Return the slates of a world whose users ask for these intents, category -> share."""
    width = max(1, *map(len, intents))
    category_BI = torch.full((len(intents), width), -1)
    share_BI = torch.zeros(len(intents), width, dtype=torch.float64)
    for row, own in enumerate(intents):
        category_BI[row, : len(own)] = torch.tensor(list(own)).long()
        share_BI[row, : len(own)] = torch.tensor(list(own.values()), dtype=torch.float64)
    nothing = torch.zeros(0, dtype=torch.int64)
    background = Background(nothing, nothing, intents=Intents(category_BI, share_BI))
    targets = [wanted or [0] for wanted in world.targets]
    return match_slates(
        pad(world.slates), pad(targets), traits_of(world), k=k, background=background
    )


def slow(slate: list[int], shares: dict[int, float], world: World, k: int) -> list[float]:
    """Return the three metrics of a request, one item after another."""
    if not shares:
        return [math.nan] * 3
    worth, ideal, got, best, served = dict(shares), dict(shares), 0.0, 0.0, set()
    for rank, item in enumerate(slate[:k], start=1):
        own = [label for label in world.categories[item] if label in shares]
        served.update(own)
        if own:
            intent = max(own, key=lambda label: worth[label])
            got += worth[intent] / math.log2(rank + 1)
            worth[intent] /= 2
    for rank in range(1, k + 1):
        intent = max(ideal, key=lambda label: ideal[label])
        best += ideal[intent] / math.log2(rank + 1)
        ideal[intent] /= 2
    most = sum(sorted(shares.values(), reverse=True)[:k])
    return [sum(shares[label] for label in served) / most, got / best, float(not served)]


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_the_metrics_are_their_slow_twins(seed, k):
    world, rng = random_world(seed), np.random.default_rng(seed)
    intents = []
    for _ in world.slates:
        size = int(rng.integers(0, min(4, world.num_categories) + 1))
        labels = rng.permutation(world.num_categories)[:size].tolist()
        intents.append(dict(zip(labels, rng.dirichlet(np.ones(size)) if size else [], strict=True)))
    slates = judged(world, intents, k)
    got = np.stack([metric(slates).numpy() for metric in INTENT_METRICS.values()], axis=1)
    for user, slate in enumerate(world.slates):
        want = slow(slate, intents[user], world, k)
        # equal worths may be served in either order, and the sum is the same
        assert got[user].tolist() == pytest.approx([want[0], want[1], want[2]], nan_ok=True)


TWO = World(
    slates=[[0, 1], [0, 2], [3, 3 - 3], []],
    targets=[[0]] * 4,
    embeddings=np.eye(4, dtype=np.float32),
    categories=[[0], [0], [1], [2]],
    popularity=[1] * 4,
    num_train_users=4,
    num_categories=3,
)


def test_an_ambiguous_query_wants_both_categories_and_a_precise_one_wants_one():
    ambiguous, precise = {0: 0.5, 1: 0.5}, {0: 1.0}
    both = judged(TWO, [ambiguous] * 4, 2)
    one = judged(TWO, [precise] * 4, 2)
    assert intent_coverage(both)[:2].tolist() == [0.5, 1.0]
    assert intent_alpha_ndcg(both)[1] > intent_alpha_ndcg(both)[0]
    assert intent_coverage(one)[:2].tolist() == [1.0, 1.0]
    assert intent_alpha_ndcg(one)[0] > intent_alpha_ndcg(one)[1]


def test_a_slate_outside_the_intents_is_a_zero_result():
    slates = judged(TWO, [{1: 1.0}] * 4, 1)
    assert zero_results(slates).tolist() == [1.0, 1.0, 1.0, 1.0]
    assert zero_results(judged(TWO, [{0: 1.0}] * 4, 1)).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_a_request_without_a_query_has_no_value():
    slates = judged(TWO, [{0: 1.0}, {}, {}, {}], 2)
    for metric in INTENT_METRICS.values():
        assert metric(slates).isnan().tolist() == [False, True, True, True]
    plain = match_slates(pad(TWO.slates), pad(TWO.targets), traits_of(TWO), k=2)
    assert intent_coverage(plain).isnan().all()


def test_intents_are_the_clicks_of_train_and_of_the_split(tmp_path, manifest):
    write_dataset(tmp_path, manifest, num_items=6, num_queries=3)
    for name, schema in (("train", TRAIN_EXAMPLE), ("test", EVAL_EXAMPLE), ("val", EVAL_EXAMPLE)):
        (tmp_path / name).mkdir(exist_ok=True)
        row = {"user_id": "u", "items": [0, 1, 2], "queries": [1, NO_QUERY, 1]}
        row |= {"weights": [1.0] * 3, "times": None, "history": [0], "targets": [1], "query": 2}
        row |= {"is_cold_user": False, "history_times": None, "target_times": None}
        row["targets"] = [3] if name == "test" else [4]
        table = pa.Table.from_pylist([row], schema)
        pq.write_table(table, tmp_path / name / "part-0.parquet")
    dataset = load_dataset(tmp_path)
    labels = dataset.catalogue.category_lists.to_pylist()
    found = count_intents(dataset, "test").of(np.array([2, NO_QUERY, 1, 0]))
    shares = [
        {int(c): float(s) for c, s in zip(*row, strict=True) if c >= 0}
        for row in zip(found.category_BI, found.share_BI, strict=True)
    ]
    assert shares[0] == {label: 1 / len(labels[3]) for label in labels[3]}
    assert shares[1] == shares[3] == {}
    want: dict[int, float] = {}
    for item in (0, 2):
        for label in labels[item]:
            want[label] = want.get(label, 0) + 1 / len(labels[item]) / 2
    assert shares[2] == pytest.approx(want)
