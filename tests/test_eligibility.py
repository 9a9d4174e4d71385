"""What may be shown: no slate holds an ineligible item, and the places that this frees."""

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given

from recdiv_core.config import Config, override
from recdiv_core.data.catalogue import load_catalogue
from recdiv_core.data.sale_dates import ALWAYS, FOREVER, SaleDates
from recdiv_core.errors import UserError
from recdiv_core.evaluation.evaluate import tally_dials
from recdiv_core.evaluation.scorecards import finish_split, scorecard_of
from recdiv_core.metrics.tally import finish
from recdiv_core.models.baselines import SCORES
from recdiv_core.rerank import RERANKERS
from recdiv_core.schema import DAY_US, EVAL_EXAMPLE, NO_QUERY, TRAIN_EXAMPLE, read_manifest
from recdiv_core.slates.checks import check_eligible
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.eligibility import (
    Eligibility,
    count_targets,
    eligibility_of,
    request_time,
    with_whole_paths,
)
from recdiv_core.slates.fitting import fit_baseline, fit_terms
from recdiv_core.slates.loading import build_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split, put_last
from recdiv_core.training.blending import fit_blend, sample_users
from tests.worlds import write_dataset

NUM_ITEMS, NUM_USERS, K = 24, 30, 4
START = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
SMALL = {"model.dim": 8, "model.num_layers": 1, "eval.k": K, "eval.batch_size": 13}
TERMS = ["graph", "text", "item_knn", "ease", "rp3beta", "recent_popular"]
METHODS = [*sorted(RERANKERS), "rules"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, manifest):
    """Return a data set with times: user u asks at the start of day u."""
    place = tmp_path_factory.mktemp("prepared")
    times = {"unit": "ISO 8601", "first": "2023-12-01", "last": "2024-01-30"}
    counts = {"num_examples": dict.fromkeys(("train", "val"), NUM_USERS)}
    dated = manifest.model_copy(update={"has_timestamps": True, "times": times, **counts})
    write_dataset(place, dated, num_items=NUM_ITEMS, num_queries=0)
    rng = np.random.default_rng(0)
    train, held_out = [], []
    for user in range(NUM_USERS):
        items = ((NUM_ITEMS * rng.random(6) ** 2).astype(int)).tolist()
        past = [START - DAY_US * (9 - place) for place in range(4)]
        whole = {"user_id": f"u{user}", "query": NO_QUERY, "is_cold_user": False}
        train.append(
            {
                "user_id": f"u{user}",
                "items": items[:4],
                "queries": [NO_QUERY] * 4,
                "weights": [1.0] * 4,
                "times": past,
            }
        )
        now = START + DAY_US * user
        targets = list(dict.fromkeys(items[4:]))
        held_out.append(
            {
                **whole,
                "history": items[:4],
                "targets": targets,
                "history_times": past,
                "target_times": [now + 10 * DAY_US * n for n in range(len(targets))],
            }
        )
    for split, rows in (("train", train), ("val", held_out)):
        schema = TRAIN_EXAMPLE if split == "train" else EVAL_EXAMPLE
        (place / split).mkdir()
        pq.write_table(pa.Table.from_pylist(rows, schema), place / split / "part-0.parquet")
    return place


@pytest.fixture(scope="module")
def model_of(prepared):
    """Return a function from a kind of model to its config, data set and fitted model."""
    dataset = load_dataset(prepared)

    @cache
    def fitted(kind):
        if kind in SCORES:
            config = override(Config(), {**SMALL, "model.kind": kind})
            return config, dataset, fit_baseline(config, dataset)
        blend = TERMS if kind == "blend" else []
        config = override(Config(), {**SMALL, "model.blend": blend})
        with torch.random.fork_rng():
            torch.manual_seed(0)  # noqa: TID251
            model = build_model(config, dataset, fit_terms(config, dataset))
        fit_blend(model, dataset, config, sample_users(dataset))
        return config, dataset, model

    return fitted


@st.composite
def eligibilities(draw):
    """Return lists and dates of a random catalogue; often few or no items are left."""
    share = draw(st.sampled_from([0.1, 0.5, 0.9]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    is_open_V = rng.random(NUM_ITEMS) < share
    from_V = np.where(rng.random(NUM_ITEMS) < 0.5, ALWAYS, START + DAY_US * rng.integers(-3, 33))
    until_V = START + DAY_US * rng.integers(-3, 33, NUM_ITEMS)
    until_V = np.where(rng.random(NUM_ITEMS) < 0.5, FOREVER, until_V)
    dates = SaleDates(from_V, until_V) if draw(st.booleans()) else None
    return Eligibility(is_open_V, dates)


def may_see(eligible, item, at):
    """Slow twin: whether an item may be shown at a time."""
    if not eligible.is_open_V[item]:
        return False
    dates = eligible.dates
    return dates is None or bool(dates.from_V[item] <= at <= dates.until_V[item])


def reranked(config, method):
    """Return the config with a re-ranker, or with rules that ask for items and cap categories."""
    if method == "rules":
        rules = [
            "include i3",
            "at most 2 of category",
            "exclude i5",
            "at least 2 distinct category",
        ]
        return override(
            config, {"rerank.rules": rules, "rerank.method": "mmr", "rerank.diversity": 0.3}
        )
    return override(config, {"rerank.method": method, "rerank.diversity": 0.4})


kinds = st.sampled_from(["neural", "blend", *SCORES])


@given(kinds, st.sampled_from(METHODS), eligibilities(), st.booleans())
def test_a_slate_never_holds_an_ineligible_item_and_is_as_long_as_it_can_be(
    model_of, kind, method, eligible, filter_seen
):
    config, dataset, model = model_of(kind)
    config = override(reranked(config, method), {"eval.filter_seen": filter_seen})
    policy = replace(slate_policy(config, dataset), eligible=eligible)
    user = 0
    for held_out in held_out_of_split(model, dataset, "val", config):
        histories = np.split(held_out.examples.items, np.cumsum(held_out.examples.lengths)[:-1])
        slates_BK, _ = held_out.slates(dataset, policy)
        for slate, history in zip(slates_BK.tolist(), histories, strict=True):
            allowed = {i for i in range(NUM_ITEMS) if may_see(eligible, i, START + DAY_US * user)}
            allowed -= set(history.tolist()) if filter_seen else set()
            allowed -= {5} if method == "rules" else set()
            shown = [item for item in slate if item >= 0]
            assert set(shown) <= allowed
            assert len(set(shown)) == len(shown) == min(K, len(allowed))
            user += 1
    assert user == NUM_USERS


def freed_by_hand(scores_V, history, eligible, at, k):
    """Slow twin: whether an ineligible item has each of the first k places of all unseen items."""
    unseen = [item for item in range(NUM_ITEMS) if item not in history]
    best = sorted(unseen, key=lambda item: (-scores_V[item], item))[:k]
    return [not may_see(eligible, item, at) for item in best]


@given(st.sampled_from(["neural", "item_knn", "blend"]), eligibilities(), st.booleans())
def test_freed_places_equal_their_slow_twin(model_of, kind, eligible, is_adjusted):
    config, dataset, model = model_of(kind)
    config = override(config, {"rerank.logit_adjustment": 0.5 * is_adjusted})
    policy = replace(slate_policy(config, dataset), eligible=eligible)
    user = 0
    for held_out in held_out_of_split(model, dataset, "val", config):
        scores_BV = held_out.scores_BV.clone()
        if policy.logit_adjustment:
            scores_BV -= policy.logit_adjustment * dataset.log_prior_V
        histories = np.split(held_out.examples.items, np.cumsum(held_out.examples.lengths)[:-1])
        freed_BK = held_out.shown(dataset, policy).background.freed_BK
        for row, history in enumerate(histories):
            at = START + DAY_US * user
            expected = freed_by_hand(scores_BV[row].tolist(), history, eligible, at, K)
            assert freed_BK[row].tolist() == expected
            user += 1


@given(eligibilities())
def test_all_ways_of_evaluation_agree(model_of, eligible):
    config, dataset, model = model_of("item_knn")
    policies = [
        replace(slate_policy(override(config, changes), dataset), eligible=eligible)
        for changes in (
            {"rerank.logit_adjustment": 0.5},
            {},
            {"rerank.method": "mmr", "rerank.diversity": 0.5},
        )
    ]
    together = tally_dials(held_out_of_split(model, dataset, "val", config), dataset, policies)
    for policy, tally in zip(policies, together, strict=True):
        share = held_out_of_split(model, dataset, "val", config)
        shown = (held_out.shown(dataset, policy) for held_out in share)
        card = scorecard_of(shown, dataset, k=K, cutoffs=[2], kinds=[], is_limited=True)
        whole = finish_split(card, {})["metrics"]
        few = finish(tally)
        assert {name: whole[name] for name in few} == pytest.approx(few, rel=1e-12)
        assert 0 <= whole["auc_at_4"] <= 1
        assert whole["freed_at_4"] >= whole["freed_at_2"] / 2


def test_an_ineligible_target_is_a_miss_behind_all_items():
    is_out_BT = torch.tensor([[True, False, True], [False, False, False]])
    above_BT = torch.tensor([[torch.nan, 2.0, torch.nan], [1.0, 0.5, 0.0]], dtype=torch.float64)
    above_BT, rankable_B = put_last(is_out_BT, above_BT, torch.tensor([7, 5]))
    assert above_BT.tolist() == [[7.5, 2.0, 7.5], [1.0, 0.5, 0.0]]
    assert rankable_B.tolist() == [9, 5]


def test_without_a_limit_nothing_changes(model_of):
    config, dataset, model = model_of("blend")
    policy = slate_policy(config, dataset)
    assert policy.eligible is None
    (tally,) = tally_dials(held_out_of_split(model, dataset, "val", config), dataset, [policy])
    assert not [name for name in finish(tally) if name.startswith("freed")]
    free = replace(policy, eligible=Eligibility(np.ones(NUM_ITEMS, bool), None))
    (same,) = tally_dials(held_out_of_split(model, dataset, "val", config), dataset, [free])
    values = finish(same)
    assert values.pop(f"freed_at_{K}") == 0
    assert values == finish(tally)


def test_a_blend_is_fitted_on_what_may_be_shown(prepared, model_of, tmp_path):
    config, dataset, _ = model_of("blend")
    (tmp_path / "block.txt").write_text("i0\ni1\ni2\n")
    limited = override(config, {"eligible.block": str(tmp_path / "block.txt")})
    weights = []
    for own in (config, limited):
        with torch.random.fork_rng():
            torch.manual_seed(0)  # noqa: TID251
            model = build_model(own, dataset, fit_terms(own, dataset))
        fit_blend(model, dataset, own, sample_users(dataset))
        weights.append(model.blend.weight_T2)
    assert not torch.equal(*weights)


def eligible_under(prepared, **values):
    config = override(Config(), {f"eligible.{key}": value for key, value in values.items()})
    return eligibility_of(config, load_catalogue(prepared), read_manifest(prepared))


def open_items(prepared, **values):
    return np.flatnonzero(eligible_under(prepared, **values).is_open_V).tolist()


LISTS = {
    "lines.txt": "i1\n\n i3 \ni999\ni1\n",
    "lines.csv": "i1\ni3\ni999\n",
    "named.csv": "stock,item_id\n4,i1\n5,i3\n6,i999\n",
    "rows.jsonl": '{"item_id": "i1"}\n{"item_id": "i3"}\n{"item_id": "i999"}\n',
}


@pytest.mark.parametrize("name", [*LISTS, "table.parquet"])
def test_lists_of_any_format_block_or_allow_items(prepared, tmp_path, name, caplog):
    path = tmp_path / name
    if name in LISTS:
        path.write_text(LISTS[name])
    else:
        pq.write_table(pa.table({"item_id": ["i1", "i3", "i999", None]}), path)
    assert open_items(prepared, only=str(path)) == [1, 3]
    blocked = open_items(prepared, block=str(path))
    assert blocked == [item for item in range(NUM_ITEMS) if item not in (1, 3)]
    check_eligible(override(Config(), {"eligible.block": str(path)}), prepared)
    assert "eligible.block: 1 ids are not in the catalogue: i999" in caplog.text


def test_both_lists_and_attributes_count_together(prepared, tmp_path):
    (tmp_path / "only.txt").write_text("i1\ni2\ni3\n")
    (tmp_path / "block.txt").write_text("i2\n")
    lists = {"only": str(tmp_path / "only.txt"), "block": str(tmp_path / "block.txt")}
    assert open_items(prepared, **lists) == [1, 3]
    assert open_items(prepared, **lists, where={"category": ["A"]}) == [3]


def refused(prepared, **values):
    with pytest.raises(UserError) as error:
        check_eligible(
            override(Config(), {f"eligible.{key}": value for key, value in values.items()}),
            prepared,
        )
    return str(error.value)


def test_mistakes_are_named(prepared, tmp_path):
    (tmp_path / "two.csv").write_text("sku,stock\ni1,4\n")
    (tmp_path / "none.txt").write_text("x1\nx2\n")
    assert "eligible.block=gone.csv does not exist" in refused(prepared, block="gone.csv")
    message = refused(prepared, only=str(tmp_path / "two.csv"))
    assert "has no column 'item_id'; it has sku, stock" in message
    message = refused(prepared, only=str(tmp_path / "none.txt"))
    assert message == (
        "eligible.only: no item of the catalogue is left to be shown; "
        "eligible.only: 2 ids are not in the catalogue: x1, x2"
    )
    assert "eligible.where.region: the catalogue has no attribute" in refused(
        prepared, where={"region": ["eu"]}
    )
    assert "eligible.where.category: no item" in refused(prepared, where={"category": "D"})


def with_column(prepared, tmp_path, name, values):
    """Return a copy of the catalogue with another column."""
    table = pq.read_table(prepared / "catalogue.parquet").append_column(name, pa.array(values))
    manifest = (prepared / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(manifest)
    pq.write_table(table, tmp_path / "catalogue.parquet")
    catalogue = load_catalogue(tmp_path)
    return lambda allowed: eligibility_of(
        override(Config(), {f"eligible.where.{name}": allowed}),
        catalogue,
        read_manifest(prepared),
    )


def test_an_item_without_a_value_needs_the_empty_text(prepared, tmp_path):
    values = ["eu|us", "us", None, "eu"] + ["asia"] * (NUM_ITEMS - 4)
    under = with_column(prepared, tmp_path, "region", values)
    assert np.flatnonzero(under(["eu"]).is_open_V).tolist() == [0, 3]
    assert np.flatnonzero(under(["eu", ""]).is_open_V).tolist() == [0, 2, 3]
    assert under(["eu", "mars"]).notes == ("eligible.where.region: no item has mars",)


@pytest.mark.parametrize(
    ("values", "allowed"), [([0, 12, 18, None], [0, 12]), ([True, True, False, None], True)]
)
def test_numbers_and_truth_values_are_values_too(prepared, tmp_path, values, allowed):
    under = with_column(prepared, tmp_path, "age", values + values[3:] * (NUM_ITEMS - 4))
    assert np.flatnonzero(under(allowed).is_open_V).tolist() == [0, 1]


def test_dates_of_the_catalogue_count_unless_they_are_off(prepared, tmp_path):
    values = [datetime(2024, 1, 10, tzinfo=UTC), *[None] * (NUM_ITEMS - 1)]
    with_column(prepared, tmp_path, "available_from", values)
    assert eligible_under(tmp_path, dates=False) is None
    eligible = eligible_under(tmp_path)
    assert eligible.count_at(np.array([START])) == NUM_ITEMS - 1
    assert eligible.count_at(np.array([START, START + 9 * DAY_US])) == NUM_ITEMS


@given(eligibilities(), st.lists(st.integers(-5, 35), min_size=1, max_size=5))
def test_items_of_some_requests_are_counted_like_their_slow_twin(eligible, asked):
    times = [START + DAY_US * day for day in asked]
    expected = sum(any(may_see(eligible, item, t) for t in times) for item in range(NUM_ITEMS))
    assert eligible.count_at(np.array(times)) == expected


@given(eligibilities())
def test_ineligible_targets_are_counted_at_the_time_of_their_request(prepared, eligible):
    rows = pq.read_table(prepared / "val").to_pylist()
    expected = sum(
        not may_see(eligible, item, row["target_times"][0])
        for row in rows
        for item in row["targets"]
    )
    assert count_targets(prepared, "val", eligible)["num_ineligible_targets"] == expected


def test_requests_without_a_time_are_made_at_the_end_of_the_log(prepared):
    manifest = read_manifest(prepared)
    end = int(datetime(2024, 1, 31, tzinfo=UTC).timestamp()) * 1_000_000 - 1
    assert request_time(Config(), manifest) == end
    given_at = override(Config(), {"eligible.at": "2024-01-05T00:00:00"})
    assert request_time(given_at, manifest) == START + 4 * DAY_US
    assert request_time(Config(), manifest.model_copy(update={"has_timestamps": False})) is None
    with pytest.raises(UserError, match=r"eligible\.at=soon is no time"):
        request_time(override(Config(), {"eligible.at": "soon"}), manifest)


def test_paths_of_lists_are_whole_for_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = override(Config(), {"eligible.block": "a/*.csv", "eligible.only": "s3://b/c.csv"})
    found = with_whole_paths(config).eligible
    assert (found.block, found.only) == (str(tmp_path / "a" / "*.csv"), "s3://b/c.csv")
