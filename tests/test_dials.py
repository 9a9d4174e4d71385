# ruff: noqa: F401, F811
"""Many re-ranking settings in one pass: each gives what evaluation gives under it alone."""

import json
from functools import partial

import hypothesis.strategies as st
import pytest
from hypothesis import given
from mlflow import MlflowClient

from recdiv_core.config import DIALS, Config, dial_text, override, parse_dial
from recdiv_core.errors import UserError
from recdiv_core.evaluation.evaluate import tally_dials
from recdiv_core.evaluation.systems import find_run
from recdiv_core.fronts.choice import choose
from recdiv_core.fronts.points import points
from recdiv_core.fronts.trials import hypervolumes
from recdiv_core.metrics.tally import finish
from recdiv_core.release.registry import other_reranking
from recdiv_core.rerank import RERANKERS
from recdiv_core.slates import dials
from recdiv_core.slates.dials import dial_policies, dials_of
from recdiv_core.slates.fitting import fit_baseline
from recdiv_core.slates.lifting import fit_lifts
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from recdiv_core.tracking.find import RECOMMENDED, run_of
from recdiv_core.tracking.runs import set_tags
from recdiv_core.training.dials import judge_dials
from recdiv_core.training.fit import evaluate_under
from tests.test_fit import dataset, histories, metrics, settings
from tests.test_points import of_seeds, seeded
from tests.test_trials import COVERAGE, NDCG, sweep, trial

OF_EACH = [*(f"{name} 0.7 logit 2 lift 0.8" for name in RERANKERS if name != "none"), "none"]
MANY = [*DIALS, *OF_EACH, "dpp 0.3", "dpp 0.6", "logit 0.1", "logit 0.2"]

factors = st.one_of(st.just(0.0), st.floats(0.01, 9.0))
units = st.floats(0.01, 1.0)
entries = st.tuples(
    st.sampled_from([name for name in RERANKERS if name != "none"]), units, factors, units | factors
).map(
    lambda own: (
        f"{own[0]} {own[1]}"
        + (f" logit {own[2]}" if own[2] else "")
        + (f" lift {own[3] / 9}" if own[3] else "")
    )
)


@given(entries)
def test_an_entry_is_read_as_it_is_written(text):
    assert parse_dial(dial_text(parse_dial(text))) == parse_dial(text)


BROKEN = "|mmx 0.2|msd|msd 0|msd 1.1|msd -0.1|msd nan|logit|logit 0|none 0.2|0.2|logit 0.2 msd 0.1"
BROKEN += "|lift|lift 0|lift 1.1|lift 0.2 logit 0.1|none lift 0.2"


@pytest.mark.parametrize("entry", [*BROKEN.split("|"), "msd 0.1 mmr 0.2", "logit 0.1 logit 0.2"])
def test_a_broken_entry_is_refused_with_what_is_allowed(entry):
    with pytest.raises(UserError, match=r"eval\.dials: .*allowed: METHOD DIAL, logit FACTOR"):
        override(Config(), {"eval.dials": ["logit 0.25", entry]})


def test_an_entry_is_given_once():
    with pytest.raises(UserError, match=r"'msd 0\.20' is given twice"):
        override(Config(), {"eval.dials": ["msd 0.2", "msd 0.20"]})


def test_a_rule_that_exposure_cannot_keep_is_refused():
    rules = {"rerank.rules": ["at most 2 of category"]}
    with pytest.raises(UserError, match=r"eval\.dials: 'exposure 0\.2' cannot be used with"):
        override(Config(), {**rules, "eval.dials": ["exposure 0.2"]})


def test_the_settings_of_the_run_itself_are_left_out():
    config = override(Config(), {**parse_dial("msd 0.2"), "eval.dials": ["msd 0.2", "none"]})
    assert [each.rerank.method for each in dials_of(config)] == ["none"]


def fit(config, dataset):
    """Fit a baseline with its lifts."""
    baseline = fit_baseline(config, dataset)
    fit_lifts(baseline, dataset, config)
    return baseline


def under(dataset, config, *, world_size=1):
    """Return the metrics under the config and each of its dials, from one pass."""
    baseline = fit(config, dataset)
    own = slate_policy(config, dataset, baseline.lifts)
    policies = [own, *dial_policies(config, dataset, baseline.lifts)]
    shares = [
        held_out_of_split(baseline, dataset, "val", config, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    tallies = [tally_dials(share, dataset, policies) for share in shares]
    return [finish(sum(own[1:], own[0])) for own in zip(*tallies, strict=True)]


CHANGES = {
    "plain": {},
    "repeats": {"eval.filter_seen": False, "rerank.num_candidates": 9},
    "rules": {"rerank.rules": ["at most 1 of category in 2", "exclude i3"]},
    "needs": {"rerank.rules": ["draw 3 of is_cold=true for 50 % of slates", "include i7"]},
    "own": {**parse_dial("msd 0.2"), "model.temperature": 0.5},
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_pass_gives_the_metrics_of_each_setting_alone(dataset, name, monkeypatch):
    monkeypatch.setattr(dials, "USERS_AT_ONCE", 16)  # several tiles
    texts, changes = MANY if name == "plain" else OF_EACH, CHANGES[name]
    texts = [
        text for text in texts if "rerank.rules" not in changes or not text.startswith("exposure")
    ]
    changes = {**changes, "eval.dials": texts}
    config = settings("item_knn", **changes)
    alone = partial(metrics, dataset, "item_knn", baseline=fit(config, dataset))
    own = [alone(**changes)]
    own += [alone(**{**changes, **settings_of(each)}) for each in dials_of(config)]
    assert under(dataset, config) == own
    assert len({json.dumps(each) for each in own}) > len(own) / 3  # most settings do something


def settings_of(config):
    return {
        f"rerank.{name}": getattr(config.rerank, name)
        for name in ("method", "diversity", "logit_adjustment", "lift")
    }


def test_the_metrics_do_not_depend_on_the_number_of_workers(dataset):
    config = settings("item_knn", **{"eval.dials": list(DIALS), "eval.batch_size": 11})
    alone, shared = under(dataset, config), under(dataset, config, world_size=3)
    assert shared == [pytest.approx(own, abs=1e-12) for own in alone]


def test_a_run_reports_each_setting_on_validation_and_test(dataset):
    config = settings("item_knn", **{"eval.dials": ["msd 0.4", "logit 0.5"]})
    baseline, asked = fit_baseline(config, dataset), []

    def evaluate(split, policies):
        asked.append((split, len(policies)))
        return evaluate_under(config, baseline, dataset, "val", policies)

    test, text = judge_dials(config, dataset, None, evaluate, is_first=True)
    assert asked == [("test", 3), ("val", 2)]
    first, second = json.loads(text)
    assert first["settings"] == parse_dial("msd 0.4")
    alone = metrics(dataset, "item_knn", **parse_dial("logit 0.5"))
    assert second["val"].items() >= alone.items()
    assert second["test"] == second["val"]  # the same split here
    assert test.items() >= metrics(dataset, "item_knn").items()


def test_without_settings_nothing_but_test_is_evaluated(dataset):
    config = settings("popular", **{"eval.dials": []})
    baseline, asked = fit_baseline(config, dataset), []
    evaluate = partial(evaluate_under, config, baseline, dataset, "val")
    note = lambda split, own: asked.append(split) or evaluate(own)  # noqa: E731
    _, text = judge_dials(config, dataset, None, note, is_first=True)
    assert (asked, text) == (["test"], "")


def reranked(one, text, ndcg, coverage):
    """Return a trial with one more re-ranked version."""
    own = trial(one.name, ndcg, coverage, params=one.params, point=one.point, is_plain=False)
    own = own.__class__(**{**vars(own), "dials": parse_dial(text), "ended_ms": one.ended_ms})
    return one.__class__(**{**vars(one), "reranked": (*one.reranked, own)})


def test_a_re_ranked_model_can_be_recommended():
    plain = reranked(trial("plain", 0.50, 0.40), "msd 0.2", 0.497, 0.39)
    bent = reranked(trial("bent", 0.49, 0.44), "logit 0.25", 0.486, 0.50)
    choice = choose(points(sweep(plain, bent)), (NDCG, COVERAGE))
    assert choice.reference is not None
    assert choice.recommended is not None
    assert choice.reference.run == "plain"
    assert choice.recommended.run == (
        "bent+rerank.method=none+rerank.diversity=0.0+rerank.logit_adjustment=0.25+rerank.lift=0.0"
    )
    assert choice.recommended.label == "logit 0.25"
    assert [point.run_id for point in choice.front.members] == ["plain", "bent", "bent"]


def test_the_seeds_of_a_re_ranked_model_are_one_point():
    trials = [
        reranked(seeded("a", seed, 0.5, 0.4 + seed / 10), "msd 0.2", 0.4, 0.6 + seed / 10)
        for seed in range(3)
    ]
    trained, by_msd = points(of_seeds(*trials))
    assert (len(trained.repeats), len(by_msd.repeats)) == (3, 3)
    assert trained.val["coverage_at_10"] == pytest.approx(0.5)
    assert by_msd.val["coverage_at_10"] == pytest.approx(0.7)
    assert by_msd.dials == parse_dial("msd 0.2")


def test_a_training_is_one_step_of_the_hypervolume():
    plain = reranked(trial("plain", 0.5, 0.4, ended_ms=1), "msd 0.2", 0.4, 0.5)
    wide = trial("wide", 0.2, 0.8, ended_ms=2)
    steps = hypervolumes(points(sweep(plain, wide)), (NDCG, COVERAGE))
    assert [one.run for one, _ in steps] == ["plain", "wide"]
    assert [volume for _, volume in steps] == [pytest.approx(0.24), pytest.approx(0.30)]


@pytest.fixture
def recommended(swept_shop):
    """Return a sweep that recommends its trial `bent` under another re-ranking."""
    client = MlflowClient(tracking_uri=swept_shop.sweep.uri)
    bent = run_of(swept_shop.sweep.uri, override(swept_shop.config, {"run.name": "bent"}))
    tags = client.get_run(swept_shop.sweep.run_id).data.tags
    own = [f"{key}={value}" for key, value in parse_dial("msd 0.2 logit 0.5").items()]
    text = "+".join([bent.run_id, *own])
    set_tags(swept_shop.sweep, {RECOMMENDED: text})
    yield bent, text
    set_tags(swept_shop.sweep, {RECOMMENDED: tags.get(RECOMMENDED, "")})


def test_the_id_of_a_sweep_is_its_recommended_point(swept_shop, recommended):
    find = partial(find_run, settings={}, uri=lambda: swept_shop.sweep.uri)
    found = find(swept_shop.sweep.run_id)
    assert found.config.run.name == "bent"
    assert settings_of(found.config) == parse_dial("msd 0.2 logit 0.5")
    own = find(f"{swept_shop.sweep.run_id}+rerank.diversity=0.7")
    assert settings_of(own.config) == parse_dial("msd 0.7 logit 0.5")
    assert settings_of(find(recommended[0].run_id).config) == parse_dial("none")


def test_registering_without_the_re_ranking_that_was_chosen_is_warned_of(swept_shop, recommended):
    (bent, text), uri = recommended, swept_shop.sweep.uri
    warn = partial(other_reranking, uri, bent)
    config = override(swept_shop.config, {"run.name": "bent"})
    assert text in warn(config)
    assert warn(override(config, parse_dial("msd 0.2 logit 0.5"))) == ""
    plain = run_of(uri, override(swept_shop.config, {"run.name": "plain"}))
    assert other_reranking(uri, plain, config) == ""
