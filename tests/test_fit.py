"""Baselines fitted on a small prepared data set, judged by the code that judges trained models."""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recdiv_core.config import Config, override
from recdiv_core.errors import UserError
from recdiv_core.evaluation.evaluate import tally_split
from recdiv_core.metrics.tally import finish
from recdiv_core.models.baselines import SCORES
from recdiv_core.schema import CATALOGUE, EVAL_EXAMPLE
from recdiv_core.slates.checkpoint import Progress, save_checkpoint
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.fitting import FITS, fit_baseline
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.matrix_size import check_size
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from tests.test_train_events import write_train
from tests.worlds import write_dataset

NUM_ITEMS, NUM_USERS, K = 30, 60, 5

each_kind = pytest.mark.parametrize("kind", SCORES)


@pytest.fixture(scope="module")
def histories():
    """Return users of three tastes, with a popular item in each."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, 11)
    return [
        (user % 3 * 10 + rng.choice(10, rng.integers(3, 8), p=shares / shares.sum())).tolist()
        for user in range(NUM_USERS)
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, manifest, histories):
    """Return a prepared data set with these histories, the last event held out."""
    prepared = tmp_path_factory.mktemp("prepared")
    write_dataset(prepared, manifest, num_items=NUM_ITEMS, num_queries=0)
    train = [own[:-1] for own in histories]
    write_train(prepared, train, num_shards=3)
    counts = Counter(item for own in train for item in own)
    items = pq.read_table(prepared / "catalogue.parquet").to_pylist()
    counted = [row | {"popularity": counts[row["item_index"]]} for row in items]
    pq.write_table(pa.Table.from_pylist(counted, CATALOGUE), prepared / "catalogue.parquet")
    (prepared / "val").mkdir()
    rows = [
        {"user_id": f"u{u}", "history": own[:-1], "targets": own[-1:], "query": -1} | {
            "is_cold_user": False
        }
        for u, own in enumerate(histories)
    ]  # fmt: skip
    rows.append(
        {"user_id": "new", "history": [], "targets": [1], "query": -1, "is_cold_user": True}
    )
    pq.write_table(pa.Table.from_pylist(rows, EVAL_EXAMPLE), prepared / "val" / "part-0.parquet")
    return load_dataset(prepared)


def settings(kind, **changes):
    fit = {"model.baseline.ridge": 2.0, "model.baseline.shrinkage": 1.0}
    return override(Config(), {"model.kind": kind, "eval.k": K, **fit, **changes})


def tallies(dataset, kind, *, world_size=1, batch_size=100, baseline=None, **changes):
    config = override(settings(kind, **changes), {"eval.batch_size": batch_size})
    baseline = baseline or fit_baseline(config, dataset)
    policy = slate_policy(config, dataset, baseline.lifts)
    shares = [
        held_out_of_split(baseline, dataset, "val", config, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    return [tally_split(share, dataset, policy) for share in shares]


def metrics(dataset, kind, **changes):
    parts = tallies(dataset, kind, **changes)
    return finish(sum(parts[1:], parts[0]))


@pytest.fixture(scope="module")
def baselines(dataset):
    """Return the fitted baseline of each kind."""
    return {kind: fit_baseline(settings(kind), dataset) for kind in SCORES}


@pytest.fixture(scope="module")
def plain(dataset, baselines):
    """Return the metrics of each kind, by one worker in one batch."""
    return {kind: metrics(dataset, kind, baseline=own) for kind, own in baselines.items()}


@each_kind
@pytest.mark.parametrize(("world_size", "batch_size"), [(3, 7), (1, 16)])
def test_metrics_depend_on_neither_workers_nor_batches(
    dataset, baselines, plain, kind, world_size, batch_size
):
    how = {"world_size": world_size, "batch_size": batch_size, "baseline": baselines[kind]}
    assert metrics(dataset, kind, **how) == pytest.approx(plain[kind], abs=1e-12)


@each_kind
def test_a_fit_does_not_depend_on_the_shards(
    dataset, baselines, kind, histories, tmp_path, manifest
):
    write_dataset(tmp_path, manifest, num_items=NUM_ITEMS, num_queries=0)
    write_train(tmp_path, [own[:-1] for own in histories], num_shards=1)
    (tmp_path / "catalogue.parquet").write_bytes(
        (dataset.prepared / "catalogue.parquet").read_bytes()
    )
    one = fit_baseline(settings(kind), load_dataset(tmp_path)).weights
    several = baselines[kind].weights
    assert one.keys() == several.keys()
    assert all(torch.equal(one[name], several[name]) for name in one)


@each_kind
def test_a_checkpoint_judges_as_what_was_saved(dataset, baselines, plain, kind, tmp_path):
    config, baseline = settings(kind), baselines[kind]
    made = {"config": config, "manifest": dataset.manifest, "progress": Progress(is_finished=True)}
    save_checkpoint(tmp_path, **made, weights=baseline.weights, training={})
    read = load_model(config, dataset, tmp_path)
    assert metrics(dataset, kind, baseline=read) == plain[kind]


def test_every_baseline_of_the_table_can_be_fitted():
    assert list(FITS) == list(SCORES)


def test_popular_counts_the_train_events(dataset, histories):
    counts = Counter(item for own in histories for item in own[:-1])
    expected = sorted(range(NUM_ITEMS), key=lambda item: (-counts[item], item))[:K]
    config = settings("popular", **{"eval.filter_seen": False})
    policy, baseline = slate_policy(config, dataset), fit_baseline(config, dataset)
    share = held_out_of_split(baseline, dataset, "val", config)
    made = [held_out.slates(dataset, policy)[0] for held_out in share]
    assert all(slate == expected for slates in made for slate in slates.tolist())


def test_recent_popular_counts_users_where_slates_leave_out_their_own_items(dataset, histories):
    share = {"model.baseline.recent_share": 1}
    made = fit_baseline(settings("recent_popular", **share), dataset).weights["popular_V"]
    counts = Counter(item for own in histories for item in set(own[:-1]))
    log_users = math.log(1 + len(histories))
    expected = [math.log(1 + counts[item]) - log_users for item in range(NUM_ITEMS)]
    assert made.tolist() == pytest.approx(expected, abs=1e-6)


def test_recent_popular_of_the_whole_history_is_popular(dataset):
    all_events = {"model.baseline.recent_share": 1, "eval.filter_seen": False}
    whole = fit_baseline(settings("recent_popular", **all_events), dataset)
    popular = fit_baseline(settings("popular"), dataset)
    orders = [
        each.weights["popular_V"].argsort(descending=True, stable=True) for each in (whole, popular)
    ]
    assert torch.equal(*orders)


def test_random_spreads_most_and_popular_least(dataset):
    short = {"eval.k": 2, "eval.filter_seen": False}
    figures = {kind: metrics(dataset, kind, **short) for kind in SCORES}
    coverage = {kind: values["coverage_at_2"] for kind, values in figures.items()}
    gini = {kind: values["gini_at_2"] for kind, values in figures.items()}
    assert max(coverage, key=coverage.__getitem__) == "random"
    assert min(gini, key=gini.__getitem__) == "random"
    assert coverage["popular"] == min(coverage.values()) == 2 / NUM_ITEMS
    assert gini["popular"] == max(gini.values())


@pytest.mark.parametrize("kind", ["item_knn", "ease"])
def test_likeness_of_items_beats_popularity_where_users_have_tastes(dataset, kind):
    ndcg = f"ndcg_at_{K}"
    plain = metrics(dataset, "popular", **{"eval.filter_seen": False})[ndcg]
    assert metrics(dataset, kind, **{"eval.filter_seen": False})[ndcg] > 1.2 * plain


@each_kind
def test_re_ranking_works_on_top(dataset, baselines, plain, kind):
    dial = {"rerank.method": "mmr", "rerank.diversity": 0.9, "rerank.num_candidates": 25}
    spread = metrics(dataset, kind, baseline=baselines[kind], **dial)[f"ild_at_{K}"]
    assert spread > plain[kind][f"ild_at_{K}"]


@pytest.mark.parametrize("kind", ["popular", "item_knn", "ease"])
def test_logit_adjustment_spreads_the_slates(dataset, kind):
    adjusted = metrics(dataset, kind, **{"rerank.logit_adjustment": 5.0})
    assert adjusted[f"novelty_at_{K}"] > metrics(dataset, kind)[f"novelty_at_{K}"]


def test_ease_refuses_a_matrix_larger_than_memory_and_names_what_fits(dataset):
    with pytest.raises(UserError, match=r"30 x 30 items.*max_items=20, or .*item_knn"):
        check_size(settings("ease"), dataset.manifest, memory=12 * 29 * 29)
    fits = {"model.baseline.max_items": 20}
    check_size(settings("ease", **fits), dataset.manifest, memory=12 * 29 * 29)
    check_size(settings("graph"), dataset.manifest, memory=1)


def test_ease_in_a_blend_refuses_a_matrix_larger_than_memory(dataset):
    more = settings("neural", **{"model.baseline.max_items": 30})
    with pytest.raises(UserError, match=r"ease in model.blend inverts a matrix of 30 x 30"):
        check_size(more, dataset.manifest, memory=12 * 29 * 29)
    without = settings("neural", **{"model.baseline.max_items": 30, "model.blend": ["graph"]})
    check_size(without, dataset.manifest, memory=1)


def test_an_encoder_gives_the_vectors_of_a_text_profile(dataset):
    own = {"model.baseline.text_vectors": "encoder"}
    weights = fit_baseline(settings("text", **own), dataset).weights
    assert torch.equal(weights["text_VH"], dataset.text_VH)
