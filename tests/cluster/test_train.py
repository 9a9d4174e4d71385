"""One training run through the real command line: tracked, repeatable, the same on any workers."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from recdiv_core.config import flatten, from_tree
from recdiv_core.schema import read_manifest
from tests.cluster.conftest import LONG, figures_of, run

pytestmark = pytest.mark.ray

WEIGHTS_TOLERANCE = 1e-5
"""Sums of float32 taken in another order, over a few steps of AdamW."""
FIT_TOLERANCE = 1e-3
"""The fit of the blend on few users magnifies such differences: 8e-7 became 6e-5."""


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
        atol = FIT_TOLERANCE if name.startswith("blend.") else WEIGHTS_TOLERANCE
        torch.testing.assert_close(theirs[name], tensor, atol=atol, rtol=0, msg=name)


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


@pytest.mark.slow
def test_a_name_that_is_not_ascii_names_a_run(shop):
    arguments = shop.arguments("run.name=\u043e\u0431\u0443\u0432\u044c", "train.epochs=1")
    assert Path(run("train", *arguments)["checkpoint"]).is_relative_to(shop.storage)


def test_a_name_is_refused_with_other_settings(shop, trained, capsys):
    with pytest.raises(SystemExit) as refused:
        run("train", *shop.arguments("run.name=undisturbed", *LONG, "seed=1"))
    assert refused.value.code == 2
    message = capsys.readouterr().err
    assert "run.name=undisturbed exists" in message
    assert "seed was 0, is 1" in message


EVERYTHING = (
    "loss.relevance=sampled_softmax",
    "loss.negatives=mixed",
    "loss.num_negatives=64",
    "loss.diversity_warmup=0.5",
    "loss.diversity={ild: 1, coverage: 1, calibration: 1, brand_entropy: 1, price_entropy: 1}",
)
"""What draws random numbers, or looks at more than a rank's own share of a batch."""


def test_workers_and_accumulation_do_not_change_what_is_learnt(shop):
    ways = {
        "one": ["scaling.num_workers=1"],
        "two": ["scaling.num_workers=2", "train.accumulation=2"],
    }
    same = ["model.dropout=0", "train.epochs=1", "loss.diversity_weight=0.3", *EVERYTHING]
    results = {
        name: run("train", *shop.arguments(f"run.name={name}", *same, *way))
        for name, way in ways.items()
    }
    assert_same_training(results["one"], results["two"])


CONDITIONED = (
    *("loss.conditioned=true", "loss.diversity_weight=0.8", "loss.diversity={exposure: 1}"),
    # 17 users fit the weights of a blend badly, and then the learned score decides no place
    "model.blend=[]",
)


@pytest.fixture(scope="module")
def conditioned(shop):
    """Return the output of `train` for a conditioned model whose last epoch is kept."""
    # at this rate the model gets worse, so that the best epoch is not the last
    fast = ("train.learning_rate=0.5", "train.batch_size=16", "train.warmup_steps=0")
    last = ("train.epochs=3", "train.select=last", "train.patience=1", "model.dropout=0")
    return run("train", *shop.arguments("run.name=conditioned", *CONDITIONED, *fast, *last))


def test_the_last_epoch_stands_for_a_run_where_that_is_asked(shop, conditioned):
    metrics = conditioned["metrics"]
    assert metrics["best/epoch"] == metrics["epoch"] == 3
    curve = shop.curve(conditioned["mlflow_run_id"], "val/ndcg_at_10")
    assert max(value for _, value in curve) > metrics["best/val/ndcg_at_10"] == curve[-1][1]


def test_a_run_without_epochs_judges_the_weights_that_it_is_given(shop, conditioned):
    given = ("train.epochs=0", f"train.init_from={conditioned['checkpoint']}")
    judged = run("train", *shop.arguments("run.name=judged", *given, *CONDITIONED))
    expected = figures_of(conditioned["metrics"], "test/")
    assert figures_of(judged["metrics"], "test/") == pytest.approx(expected, abs=1e-6)


def test_a_conditioned_model_is_judged_at_any_dial(conditioned):
    place = ["--checkpoint", conditioned["checkpoint"]]
    at_0 = run("evaluate", *place)["metrics"]
    at_1 = run("evaluate", *place, "model.diversity=1")["metrics"]
    of_training = figures_of(conditioned["metrics"], "test/")
    assert {name: at_0[name] for name in of_training} == pytest.approx(of_training, abs=1e-6)
    assert at_1["gini_at_10"] != at_0["gini_at_10"]
