from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recdiv_core.config import Config, override
from recdiv_core.data.reading import SplitRows
from recdiv_core.evaluation.evaluate import tally_split
from recdiv_core.evaluation.groupings import item_groups
from recdiv_core.evaluation.scorecards import finish_split, scorecard_of
from recdiv_core.metrics.fairness import item_fairness
from recdiv_core.metrics.tally import SEARCH_METRICS, finish
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import build_model
from recdiv_core.slates.policy import SlatePolicy
from recdiv_core.slates.scoring import held_out_of_split
from tests.metric_oracles import of_every_epoch, scorecard, tail_items
from tests.worlds import World, write_dataset

NUM_ITEMS, NUM_USERS, NUM_QUERIES, K, MAX_HISTORY = 20, 23, 3, 4, 5
CONFIG = override(
    Config(), {"model.dim": 8, "model.num_layers": 1, "model.max_history": MAX_HISTORY}
)


@pytest.fixture(scope="module")
def users():
    """Return held-out requests: empty and long histories, targets seen before, queries."""
    rng = np.random.default_rng(0)
    return [
        {
            "user_id": f"u{user}",
            "history": rng.integers(0, NUM_ITEMS, rng.integers(0, 9)).tolist(),
            "targets": rng.permutation(NUM_ITEMS)[: rng.integers(1, 5)].tolist(),
            "query": int(rng.integers(NO_QUERY, NUM_QUERIES)),
            "is_cold_user": False,
        }
        for user in range(NUM_USERS - 1)
    ] + [
        {
            "user_id": "wants what they have",
            "history": [3, 4],
            "targets": [4],
            "query": NO_QUERY,
            "is_cold_user": False,
        }
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, manifest, users):
    """Return a small prepared data set, loaded as training and evaluation load it."""
    prepared = tmp_path_factory.mktemp("prepared")
    write_dataset(prepared, manifest, num_items=NUM_ITEMS, num_queries=NUM_QUERIES)
    (prepared / "val").mkdir()
    for shard in range(2):
        table = pa.Table.from_pylist(users[shard::2], EVAL_EXAMPLE)
        pq.write_table(table, prepared / "val" / f"part-{shard}.parquet", row_group_size=4)
    return load_dataset(prepared)


@pytest.fixture(scope="module")
def model(dataset):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        return build_model(CONFIG, dataset)


KINDS = ("user", "query", "item", "popularity", "category", "title")


def policy(**changes):
    settings = {"k": K, "filter_seen": True, "method": "none", "diversity": 0.0}
    return SlatePolicy(**{**settings, "num_candidates": 8, "logit_adjustment": 0.0, **changes})


def held_out(model, dataset, *, rank=0, world_size=1, batch_size=5):
    config = override(CONFIG, {"eval.batch_size": batch_size})
    return held_out_of_split(model, dataset, "val", config, rank=rank, world_size=world_size)


def tally(model, dataset, policy, **share):
    return tally_split(held_out(model, dataset, **share), dataset, policy)


def world_by_hand(model, dataset, users, *, filter_seen=True) -> World:
    """Score and filter one user after another."""
    slates, targets, all_scores = [], [], []
    model.eval()
    with torch.inference_mode():
        items = model.item_vectors()
        for user in users:
            last = [0, *user["history"][-MAX_HISTORY:]]
            queries = torch.full((1, len(last)), NO_QUERY)
            queries[0, -1] = user["query"]
            zeros = torch.zeros(1, len(last), dtype=torch.int64)
            places = torch.arange(len(last))[None]
            state = model.states(items, torch.tensor([last]), places, zeros, queries)[-1]
            seen = {*user["history"]} if filter_seen else set()
            scores = [None if i in seen else s for i, s in enumerate((items @ state).tolist())]
            ranked = sorted({*range(NUM_ITEMS)} - seen, key=lambda i: -scores[i])
            slates.append(ranked[:K])
            targets.append([item for item in user["targets"] if item not in seen])
            all_scores.append(scores)
    return World(
        slates=slates,
        targets=targets,
        embeddings=dataset.text_VH.numpy(),
        categories=dataset.catalogue.category_lists.to_pylist(),
        popularity=dataset.catalogue.popularity_V.tolist(),
        num_train_users=dataset.manifest.num_users - dataset.manifest.num_cold_users,
        num_categories=3,
        histories=[user["history"] for user in users],
        scores=all_scores,
        attributes={"title": [*range(NUM_ITEMS)]},  # each has a title of its own
    )


def of_queries(world: World, users, *, k: int) -> dict[str, float]:
    """Return the metrics of the requests with a query, as those of a world of these alone."""
    asked = [row for row, user in enumerate(users) if user["query"] != NO_QUERY]
    of_users = {
        name: [getattr(world, name)[row] for row in asked]
        for name in ("slates", "targets", "histories", "scores")
    }
    values = of_every_epoch(replace(world, **of_users), k=k)
    names = [f"{name}_at_{k}" for name in SEARCH_METRICS]
    return {name: values[name.removeprefix("query_")] for name in names}


@pytest.mark.parametrize("filter_seen", [True, False])
def test_a_split_is_judged_as_by_hand(model, dataset, users, filter_seen):
    sums = tally(model, dataset, policy(filter_seen=filter_seen))
    world = world_by_hand(model, dataset, users, filter_seen=filter_seen)
    expected = of_every_epoch(world, k=K) | of_queries(world, users, k=K)
    assert finish(sums) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("batch_size", [5, 100])
def test_ranks_together_come_to_the_same_sums(model, dataset, world_size, batch_size):
    alone = tally(model, dataset, policy(), batch_size=batch_size)
    shares = [
        tally(model, dataset, policy(), rank=r, world_size=world_size, batch_size=batch_size)
        for r in range(world_size)
    ]
    together = sum(shares[1:], shares[0])
    torch.testing.assert_close(together.flat(), alone.flat(), rtol=0, atol=1e-12)
    assert finish(together) == pytest.approx(finish(alone), abs=1e-12)


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 5), (3, 2)])
def test_a_sample_of_a_split_is_judged_as_those_users_by_hand(
    model, dataset, users, world_size, batch_size
):
    most = len(users) // 2
    sample = SplitRows(dataset.prepared, "val", most).read(0, most).to_pylist()
    assert {user["user_id"] for user in sample} < {user["user_id"] for user in users}
    config = override(CONFIG, {"eval.batch_size": batch_size, "eval.max_users": most})
    tallies = [
        tally_split(
            held_out_of_split(model, dataset, "val", config, rank=rank, world_size=world_size),
            dataset,
            policy(),
        )
        for rank in range(world_size)
    ]
    world = world_by_hand(model, dataset, sample)
    expected = of_every_epoch(world, k=K) | of_queries(world, sample, k=K)
    assert finish(sum(tallies[1:], tallies[0])) == pytest.approx(expected, abs=1e-6)


def test_every_user_is_counted_once(model, dataset, users):
    sums = tally(model, dataset, policy())
    without = sum(set(user["targets"]) <= set(user["history"]) for user in users)
    assert without >= 1
    assert int(sums.num_users_without_targets) == without
    assert int(sums.num_users) == NUM_USERS - without


def test_seen_targets_are_judged_where_seen_items_may_be_shown(model, dataset):
    sums = tally(model, dataset, policy(filter_seen=False))
    assert int(sums.num_users) == NUM_USERS
    assert int(sums.num_users_without_targets) == 0


def test_re_ranking_at_dial_0_gives_the_same_metrics(model, dataset):
    plain, dialled = (tally(model, dataset, p) for p in (policy(), policy(method="mmr")))
    assert torch.equal(plain.flat(), dialled.flat())


def test_re_ranking_for_diversity_raises_ild(model, dataset):
    plain = tally(model, dataset, policy())
    diverse = tally(model, dataset, policy(method="mmr", diversity=0.9))
    assert finish(diverse)["ild_at_4"] > finish(plain)["ild_at_4"] + 0.05


def whole_set(model, dataset, *, rank=0, world_size=1, **changes):
    share = held_out(model, dataset, rank=rank, world_size=world_size)
    shown = (each.shown(dataset, policy(**changes)) for each in share)
    return scorecard_of(shown, dataset, k=K, cutoffs=[2, K], kinds=KINDS)


def finished(scorecard, dataset):
    kinds = ("item", "popularity", "category", "title")
    return finish_split(scorecard, item_groups(kinds, dataset.catalogue))


def test_the_whole_set_of_a_split_is_judged_as_by_hand(model, dataset, users):
    figures = finished(whole_set(model, dataset), dataset)
    world = world_by_hand(model, dataset, users)
    expected = {**scorecard(world, k=K), **scorecard(world, k=2)}
    expected |= of_queries(world, users, k=K) | of_queries(world, users, k=2)
    assert figures["metrics"] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_parts_of_the_shop_are_judged_as_by_hand(model, dataset, users):
    slices = finished(whole_set(model, dataset), dataset)["slices"]
    world = world_by_hand(model, dataset, users)
    asks = [user["query"] != NO_QUERY for user in users]
    of_askers = [t if has else [] for t, has in zip(world.targets, asks, strict=True)]
    in_tail = tail_items(world.popularity)
    of_tail = [[item for item in wanted if item in in_tail] for wanted in world.targets]
    is_cold = [count == 0 for count in world.popularity]
    of_cold = [[item for item in wanted if is_cold[item]] for wanted in world.targets]
    parts = {"query=with": of_askers, "popularity=tail": of_tail, "item=cold": of_cold}
    for name, targets in parts.items():
        part = of_every_epoch(replace(world, targets=targets), k=K)
        assert slices[name].pop("num_users") == sum(map(bool, targets))
        expected = {metric: part[metric] for metric in slices[name]}
        assert slices[name] == pytest.approx(expected, abs=1e-6)


def test_the_share_of_places_of_each_group_of_items_is_as_by_hand(model, dataset, users):
    exposure = finished(whole_set(model, dataset), dataset)["exposure"]
    world = world_by_hand(model, dataset, users)
    judged = [slate for slate, wanted in zip(world.slates, world.targets, strict=True) if wanted]
    shown = [item for slate in judged for item in slate]
    cold = sum(world.popularity[item] == 0 for item in shown) / len(shown)
    assert exposure["item=cold"] == pytest.approx(cold)
    assert exposure["item=warm"] == pytest.approx(1 - cold)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_scorecards_of_ranks_come_to_the_same_figures(model, dataset, world_size):
    shares = [
        whole_set(model, dataset, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    together = finished(sum(shares[1:], shares[0]), dataset)
    alone = finished(whole_set(model, dataset), dataset)
    assert together["slices"].keys() == alone["slices"].keys()
    for key in ("slices", "fairness"):
        for name, figures in alone[key].items():
            assert together[key][name] == pytest.approx(figures, rel=1e-9, abs=1e-12)
    assert together["metrics"] == pytest.approx(alone["metrics"], rel=1e-9, abs=1e-12)


def test_the_whole_set_holds_the_metrics_of_every_epoch(model, dataset):
    figures = finished(whole_set(model, dataset), dataset)["metrics"]
    few = finish(tally(model, dataset, policy()))
    assert {name: figures[name] for name in few} == few


def test_re_ranking_leaves_auc_where_it_was(model, dataset):
    plain = finished(whole_set(model, dataset), dataset)["metrics"]
    diverse = finished(whole_set(model, dataset, method="mmr", diversity=0.9), dataset)["metrics"]
    assert diverse["auc_at_4"] == plain["auc_at_4"]
    assert diverse["ild_at_4"] > plain["ild_at_4"]


def test_fairness_is_the_gaps_between_groups_of_a_kind(model, dataset):
    whole = whole_set(model, dataset)
    figures = finished(whole, dataset)
    assert figures["fairness"]["user"] == {}  # nobody is cold here
    of_items = item_groups(("popularity",), dataset.catalogue)["popularity"]
    assert figures["fairness"]["popularity"] == item_fairness(whole.tallies[0], of_items)
