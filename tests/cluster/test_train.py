"""One training run through the real command line: tracked, repeatable, the same on any workers."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from recdiv_core.config import flatten, from_tree
from recdiv_core.schema import read_manifest
from tests.cluster.conftest import LONG, run

pytestmark = pytest.mark.ray

WEIGHTS_TOLERANCE = 1e-5
"""Sums of float32 taken in another order, over a few steps of AdamW."""


def weights(checkpoint):
    return torch.load(Path(checkpoint) / "model.pt", weights_only=True)


def assert_same_training(one, other):
    figures, others = one["metrics"], other["metrics"]
    assert [name for name in figures if name.startswith("val/")]
    for name in figures:
        if name.startswith(("val/", "test/")):
            assert others[name] == pytest.approx(figures[name], abs=1e-4), name
    theirs = weights(other["checkpoint"])
    for name, tensor in weights(one["checkpoint"]).items():
        torch.testing.assert_close(theirs[name], tensor, atol=WEIGHTS_TOLERANCE, rtol=0, msg=name)


def test_a_run_is_tracked(shop, trained):
    result = trained
    assert result.keys() == {"run", "checkpoint", "mlflow_run_id", "metrics"}
    (logged,) = shop.runs("tags.`recdiv.run_name` = 'undisturbed'")
    assert (logged.info.run_id, logged.info.status) == (result["mlflow_run_id"], "FINISHED")
    assert logged.data.tags["recdiv.manifest"] == read_manifest(shop.prepared).fingerprint
    tree = yaml.safe_load((Path(result["checkpoint"]) / "config.yaml").read_text())
    config = flatten(from_tree(tree))
    assert set(logged.data.params) == set(config)
    assert logged.data.params["model.dim"] == "16"
    assert json.loads(logged.data.params["loss.diversity"]) == config["loss.diversity"]
    losses = shop.curve(logged.info.run_id, "train/loss")
    assert [epoch for epoch, _ in losses] == [1, 2, 3, 4]
    assert losses[-1][1] < losses[0][1]
    assert [epoch for epoch, _ in shop.curve(logged.info.run_id, "val/ndcg_at_10")] == [1, 2, 3, 4]
    assert len(shop.curve(logged.info.run_id, "test/ndcg_at_10")) == 1


def test_the_same_command_answers_at_once(shop, trained):
    arguments = shop.arguments("run.name=undisturbed", *LONG)
    before = sorted(Path(trained["checkpoint"]).parent.iterdir())
    assert run("train", *arguments) == trained
    assert sorted(Path(trained["checkpoint"]).parent.iterdir()) == before


def test_a_name_is_refused_with_other_settings(shop, trained, capsys):
    with pytest.raises(SystemExit) as refused:
        run("train", *shop.arguments("run.name=undisturbed", *LONG, "seed=1"))
    assert refused.value.code == 2
    message = capsys.readouterr().err
    assert "run.name=undisturbed exists" in message
    assert "seed was 0, is 1" in message


def test_workers_and_accumulation_do_not_change_what_is_learnt(shop):
    ways = {
        "one": ["scaling.num_workers=1"],
        "two": ["scaling.num_workers=2"],
        "parts": ["scaling.num_workers=1", "train.accumulation=2"],
    }
    same = ["model.dropout=0", "train.epochs=1", "loss.diversity_weight=0.3"]
    results = {
        name: run("train", *shop.arguments(f"run.name={name}", *same, *way))
        for name, way in ways.items()
    }
    assert_same_training(results["one"], results["two"])
    assert_same_training(results["one"], results["parts"])
