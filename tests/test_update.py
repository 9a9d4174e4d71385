"""A day's update without Ray: its settings, its alarms and its files (updating/day.py)."""

import argparse
import json
from dataclasses import replace

import pytest

import pipelines.update
from recdiv_core.config import Config, override
from recdiv_core.errors import UserError
from recdiv_core.slates.checkpoint import Progress, save_checkpoint
from recdiv_core.training.run_files import OtherSettingsError
from recdiv_core.updating import day
from recdiv_core.updating.alarms import alarms, described
from recdiv_core.updating.day import judged, once, update
from recdiv_core.updating.plan import Plan, training_config

PLAN = Plan("shop", retrains=False, epochs=2, rate_share=0.5, floors={}, largest_drop=0.3)
CALL = override(Config(), {"train.learning_rate": 0.01, "train.epochs": 9, "data.base": "old"})


@pytest.fixture
def champion(tmp_path, manifest):
    config = override(Config(), {"model.dim": 8, "train.epochs": 30, "train.init_from": "before"})
    save_checkpoint(
        tmp_path,
        config=config,
        manifest=manifest,
        progress=Progress(is_finished=True),
        weights={},
        training={},
    )
    return tmp_path


def test_a_fine_tuning_has_the_champions_model_and_few_epochs(champion):
    config = training_config(CALL, PLAN, champion, "shop-0001")
    assert config.train.init_from == str(champion)
    assert (config.train.epochs, config.train.learning_rate) == (2, 0.005)
    assert (config.model.dim, config.run.name, config.data.base) == (8, "shop-0001", "")


def test_rules_of_the_champion_stay_until_a_call_has_others(tmp_path, manifest):
    old, new = "at most 2 of category", "draw 1 of is_cold=true for 20 % of slates"
    save_checkpoint(
        tmp_path,
        config=override(Config(), {"rerank.rules": [old], "rerank.method": "mmr"}),
        manifest=manifest,
        progress=Progress(is_finished=True),
        weights={},
        training={},
    )
    assert training_config(CALL, PLAN, tmp_path, "one").rerank.rules == (old,)
    call = override(CALL, {"rerank.rules": [new]})
    other = training_config(call, PLAN, tmp_path, "two").rerank
    assert (other.rules, other.method) == ((new,), "mmr")


def test_without_a_champion_the_candidate_is_trained_from_scratch(champion):
    again = Plan("shop", retrains=True, epochs=2, rate_share=0.5, floors={}, largest_drop=0.3)
    for config in (
        training_config(CALL, PLAN, None, "one"),
        training_config(CALL, again, champion, "two"),
    ):
        assert (config.train.init_from, config.train.epochs) == ("", 9)
        assert config.model.dim == Config().model.dim


def test_a_step_is_done_once(tmp_path):
    calls = []

    def step():
        calls.append(1)
        return {"version": len(calls)}

    assert once(tmp_path, "registered", step) == {"version": 1}
    assert once(tmp_path, "registered", step) == {"version": 1}
    assert json.loads((tmp_path / "registered.json").read_text()) == {"version": 1}


def test_a_step_that_fails_leaves_no_result(tmp_path):
    def fail():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        once(tmp_path, "before", fail)
    assert once(tmp_path, "before", lambda: {"ndcg": 1.0}) == {"ndcg": 1.0}


def test_a_candidate_that_fails_the_gate_is_an_alarm():
    rows = [{"name": "ndcg", "passes": False}, {"name": "coverage", "passes": True}]
    found = alarms({"before": {}, "gate": rows}, [], 0.3)
    assert found == [{"alarm": "the candidate did not pass the gate", "floors": ["ndcg"]}]
    assert described(found[0]) == "the candidate did not pass the gate (floors ndcg)"


def test_a_quiet_day_has_no_alarm():
    rows = [{"name": "ndcg", "passes": None}, {"name": "coverage", "passes": True}]
    assert not alarms({"before": {"ndcg": 0.19}, "gate": rows}, [0.2, 0.21], 0.3)
    assert not alarms({"before": {}, "gate": []}, [0.2], 0.3)


def test_the_share_of_places_with_new_items_stands_beside_the_metrics():
    found = {"metrics": {"ndcg_at_10": 0.1}, "exposure": {"item=cold": 0.02, "item=warm": 0.98}}
    assert judged(found, 10) == {"ndcg": 0.1, "new_items": 0.02}
    assert judged({**found, "exposure": {}}, 10) == {"ndcg": 0.1}


def test_an_update_needs_a_base_and_a_directory():
    with pytest.raises(UserError, match=r"data\.base is not set"):
        update(Config(), PLAN)
    remote = override(CALL, {"run.storage": "s3://bucket/runs"})
    with pytest.raises(UserError, match=r"run\.storage=s3://bucket/runs"):
        update(remote, PLAN)


@pytest.mark.parametrize(
    ("option", "value"), [("epochs", 0), ("rate_share", 0.0), ("rate_share", 1.5), ("max_drop", -1)]
)
def test_an_option_out_of_range_is_shown_with_what_is_allowed(option, value):
    given = argparse.Namespace(**{"epochs": 1, "rate_share": 0.1, "max_drop": 0.3, option: value})
    with pytest.raises(UserError) as error:
        pipelines.update.main(CALL, given)
    assert f"--{option.replace('_', '-')} {value}" in str(error.value)
    assert str(error.value).endswith("allowed are 1 or more, (0, 1] and [0, 1]")


@pytest.mark.parametrize("name", ["", "a/b", "..", "a:b"])
def test_a_wrong_name_is_refused_before_the_append(tmp_path, name):
    call = override(CALL, {"run.storage": str(tmp_path / "runs"), "data.base": "no data set"})
    with pytest.raises(UserError, match="--name"):
        update(call, replace(PLAN, name=name))
    assert not any(tmp_path.iterdir())


def test_an_update_that_was_begun_with_other_settings_names_a_way_out(tmp_path, monkeypatch):
    def refuse(config):
        raise OtherSettingsError("run.name=x", "train.epochs was 1, is 2")

    monkeypatch.setattr(day, "train", refuse)
    call = override(CALL, {"run.storage": str(tmp_path), "run.name": "shop-0001"})
    with pytest.raises(UserError) as begun:
        day._trained(call, "shop", tmp_path)
    (tmp_path / "registered.json").touch()
    with pytest.raises(UserError) as registered:
        day._trained(call, "shop", tmp_path)
    for error in (begun, registered):
        assert "train.epochs was 1, is 2. Give the same settings" in str(error.value)
        assert "run.name" not in str(error.value)
    assert f"or remove {tmp_path / 'shop-0001'} first" in str(begun.value)
    assert "remove" not in str(registered.value)
