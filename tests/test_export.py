"""Export to ONNX: the files score as the checkpoint does, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.export import client_of, client_source
from recdiv_core.config import override
from recdiv_core.data.batches import pack
from recdiv_core.errors import UserError
from recdiv_core.metrics.tally import EPOCH_METRICS
from recdiv_core.models.padded_scorer import PaddedScorer
from recdiv_core.release import export as export_module
from recdiv_core.release import onnx_model
from recdiv_core.release.export import export
from recdiv_core.release.onnx_model import OnnxModel, padded_inputs, write_onnx
from recdiv_core.release.parity import check_parity, losses, requests_of
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.inputs import checkpoint_config
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.maker import SlateMaker
from recdiv_core.slates.scoring import scoring_of
from tests.test_carry import NUM_ITEMS, NUM_USERS, save, write_splits
from tests.test_padded import examples_of
from tests.worlds import write_dataset

HISTORIES = [["i1", "i2", "i3"], [], ["i4"], ["i5", "i6", "i7", "i8", "unknown", "i2", "i3"]]
TIMES = [[1, 1, 5], [], [2], [1, 2, 2, 2, 3, 6, 6]]
DAY = 86_400_000_000
ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.ci]  # the first graph takes torch.onnx six seconds


@pytest.fixture(scope="module")
def shop(tmp_path_factory, manifest):
    """Return a prepared data set with times."""
    prepared = tmp_path_factory.mktemp("shop")
    counts = {"num_examples": dict.fromkeys(("train", "val", "test"), NUM_USERS)}
    changes = {**counts, "has_timestamps": True, "times": {"last": "1970-01-20"}}
    write_dataset(prepared, manifest.model_copy(update=changes), num_items=NUM_ITEMS, num_queries=0)
    write_splits(prepared, list(range(NUM_ITEMS)))
    (prepared / "tokens.arrow").touch()
    return prepared


@pytest.fixture(scope="module")
def checkpoint(shop, tmp_path_factory):
    """Return a conditioned blend with a logit adjustment and a lift."""
    changes = {
        "loss.conditioned": True,
        "loss.diversity_weight": 0.5,
        "rerank.logit_adjustment": 0.1,
        "rerank.lift": 0.5,
        "model.max_history": 4,
    }
    return save(tmp_path_factory.mktemp("run"), shop, **changes, **{"eval.batch_size": 8})


@pytest.fixture(scope="module")
def config(checkpoint):
    return checkpoint_config(checkpoint, {})


@pytest.fixture(scope="module")
def exported(checkpoint, config, tmp_path_factory):
    """Return the directory of an export, and the printed result."""
    out = tmp_path_factory.mktemp("exports") / "shop"
    return out, export(config, checkpoint, out, int8=False, opset=18)


@pytest.fixture(scope="module")
def popular(shop, tmp_path_factory):
    """Return a checkpoint of a baseline, whose export takes little time."""
    return save(tmp_path_factory.mktemp("popular"), shop, **{"model.kind": "popular"})


def export_popular(checkpoint, out, **changes):
    return export(checkpoint_config(checkpoint, {}), checkpoint, out, int8=False, opset=18)


def microseconds(times):
    return [[time * DAY for time in own] for own in times]


def test_an_export_holds_its_files_and_nothing_else(exported):
    out, result = exported
    names = {"model.onnx", "items.json", "model.json"}
    assert result["int8"] is None
    assert {path.name for path in out.iterdir()} == names == set(result["files"])
    assert list(out.parent.iterdir()) == [out]
    facts = json.loads((out / "model.json").read_text())
    assert set(facts["inputs"]) == {"items", "times", "dial"} == set(result["inputs"])
    assert facts["parity"]["num_users"] == NUM_USERS
    assert facts["parity"]["equal_top_k"] == 1.0
    assert facts["model"]["blend"] == ["graph"]
    assert facts["num_items"] == NUM_ITEMS


def test_items_stand_in_the_order_of_the_scores(exported, shop):
    out, _ = exported
    ids = json.loads((out / "items.json").read_text())
    assert ids == load_dataset(shop).catalogue.item_ids.to_pylist()


@pytest.mark.parametrize("rows", [[0], [1], [2], [3], [0, 1, 2, 3], [1, 1]])
def test_any_number_and_length_of_histories_scores_as_the_checkpoint_does(
    exported, checkpoint, config, shop, rows
):
    dataset = load_dataset(shop)
    model = load_model(config, dataset, checkpoint)
    index = {f"i{number}": number for number in range(NUM_ITEMS)}
    known = [[index[item] for item in HISTORIES[row] if item in index] for row in rows]
    cut = [TIMES[row][: len(own)] for row, own in zip(rows, known, strict=True)]
    flat = np.array([time * DAY for own in cut for time in own], np.int64)
    examples = replace(examples_of(known), times=flat)
    with torch.inference_mode():
        wanted = scoring_of(model, 0.3)(examples, pack(examples, max_history=4))
    bonus_V = model.lifts.bonus(0.5)
    assert bonus_V.count_nonzero()
    wanted = wanted - 0.1 * config.model.temperature * dataset.log_prior_V + bonus_V
    got = OnnxModel(exported[0] / "model.onnx").scores(padded_inputs(examples, 0.3))
    torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=0, atol=3e-5)


def test_the_client_of_the_docs_answers_as_the_registered_model_does(
    exported, checkpoint, shop, monkeypatch, tmp_path
):
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(source.strip().splitlines()) <= 28
    (tmp_path / "runs" / "export").mkdir(parents=True)
    (tmp_path / "runs" / "export" / "shop").symlink_to(exported[0])
    monkeypatch.chdir(tmp_path)
    client: dict = {}
    exec(compile(source.partition("print(")[0], "docs/export.md", "exec"), client)
    maker = SlateMaker(checkpoint, shop)
    asked = {"k": 4, "model_diversity": 0.0, "rerank_diversity": 0.0}
    wanted = maker.slates(HISTORIES, None, microseconds(TIMES), **asked)
    for history, times, slate in zip(HISTORIES, microseconds(TIMES), wanted, strict=True):
        assert client["slate"](list(zip(history, times, strict=True)), k=4) == slate.item_ids


def test_the_benchmark_times_the_client_of_the_docs_on_one_thread(exported):
    source = client_source(exported[0], "model.onnx")
    assert "options.intra_op_num_threads = 1\n" in source
    assert '/ "model.onnx", options)' in source
    assert len(client_of(exported[0], "model.onnx")([("i4", 1)], k=3)) == 3


def test_int8_is_a_second_model_that_is_judged_on_every_metric(shop, tmp_path):
    checkpoint = save(tmp_path, shop, **{"model.kind": "ease", "eval.k": 3})
    own, out = checkpoint_config(checkpoint, {}), tmp_path / "out"
    result = export(own, checkpoint, out, int8=True, opset=18)
    assert "model.int8.onnx" in result["files"]
    facts = json.loads((out / "model.json").read_text())["int8"]
    assert facts == result["int8"]
    assert 0 < facts["max_difference"] < 0.05
    assert set(facts["metrics"]) >= set(EPOCH_METRICS)
    ndcg = facts["metrics"]["ndcg"]
    assert ndcg["percent_low"] <= ndcg["percent"] <= ndcg["percent_high"]
    assert facts["worst"]["loss_percent"] == max(
        own["loss_percent"] or 0.0 for own in facts["metrics"].values()
    )


def test_a_better_metric_is_no_loss(shop, config):
    dataset = load_dataset(shop)
    cut = override(config, {"rerank.logit_adjustment": 0.0, "rerank.lift": 0.0})

    def popular(examples, packed):
        return torch.arange(NUM_ITEMS).float().repeat(len(examples.lengths), 1)

    def shifted(examples, packed):
        scores = popular(examples, packed)
        return scores + 20.0 * (torch.arange(len(scores))[:, None] % 3 == scores % 3)

    found = losses(popular, shifted, dataset, cut)
    assert found["coverage"]["other"] > found["coverage"]["reference"]
    assert found["coverage"]["loss_percent"] < 0
    assert found["gini"]["other"] < found["gini"]["reference"]
    assert found["gini"]["loss_percent"] < 0


def test_scores_that_differ_are_not_kept(shop, config):
    dataset = load_dataset(shop)

    def score(examples, packed):
        return torch.arange(NUM_ITEMS).float().repeat(len(examples.lengths), 1)

    assert check_parity(score, score, dataset, config).is_kept
    far = check_parity(score, lambda *own: score(*own) + 0.05, dataset, config)
    assert not far.is_kept
    assert far.equal_top_k == 1.0
    turned = check_parity(score, lambda *own: -score(*own), dataset, config)
    assert not turned.is_kept
    assert turned.equal_top_k < 0.5


def test_requests_are_compared_without_their_queries(shop, config):
    assert all(
        (each.queries == -1).all() for each in requests_of(load_dataset(shop), "val", config)
    )


def test_users_are_scored_by_length_and_come_back_in_order(monkeypatch):
    shapes = []

    class Model:
        def scores(self, inputs):
            shapes.append(inputs["items"].shape)
            return (inputs["items"].max(axis=1, keepdims=True) + inputs["dial"][:, None]) * 1.0

    monkeypatch.setattr(onnx_model, "ROWS_AT_ONCE", 2)
    examples = examples_of([[3, 1, 1, 1], [], [2], [5, 4, 0], [7]])
    scores = onnx_model.scoring_by_onnx(Model(), 0.5)(examples, None)
    assert scores[:, 0].tolist() == [3.5, -0.5, 2.5, 5.5, 7.5]
    assert shapes == [(2, 1), (2, 3), (1, 4)]


def test_histories_are_padded_in_front():
    examples = replace(examples_of([[3, 1], [], [2]]), times=np.array([5, 9, 7]))
    inputs = padded_inputs(examples, 0.5)
    assert inputs["items"].tolist() == [[3, 1], [-1, -1], [-1, 2]]
    assert inputs["times"].tolist() == [[5, 9], [0, 0], [0, 7]]
    assert inputs["dial"].tolist() == [0.5, 0.5, 0.5]
    assert padded_inputs(examples_of([[], []]))["items"].tolist() == [[-1], [-1]]


def test_unknown_times_count_up():
    assert padded_inputs(examples_of([[3, 1], [2]]))["times"].tolist() == [[0, 1], [0, 1]]


def test_a_model_that_reads_no_times_has_no_such_input(popular, tmp_path):
    result = export_popular(popular, tmp_path / "out")
    assert set(result["inputs"]) == {"items"}


def test_an_export_that_differs_is_refused_and_leaves_nothing(popular, tmp_path, monkeypatch):
    def other(examples, packed):
        return torch.arange(NUM_ITEMS).float().repeat(len(examples.lengths), 1)

    monkeypatch.setattr(export_module, "scoring_by_onnx", lambda *_: other)
    with pytest.raises(UserError, match=r"does not score as the checkpoint does.*nothing is"):
        export_popular(popular, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_interrupted_export_leaves_nothing(popular, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "write_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_popular(popular, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_filled_and_others_are_refused(popular, tmp_path):
    empty, full, file = tmp_path / "empty", tmp_path / "full", tmp_path / "file"
    empty.mkdir()
    full.mkdir()
    (full / "mine.txt").touch()
    file.touch()
    assert export_popular(popular, empty)["num_items"] == NUM_ITEMS
    for taken in (empty, full, file):
        with pytest.raises(UserError, match="exists already; give a new directory"):
            export_popular(popular, taken)
    assert [path.name for path in full.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("kind", "reason"), [("bm25", "reads the text of a query"), ("random", "draws by user id")]
)
def test_kinds_that_need_more_than_events_are_refused(config, checkpoint, tmp_path, kind, reason):
    with pytest.raises(UserError, match=rf"model.kind={kind} {reason}.*allowed: neural, popular"):
        export(
            override(config, {"model.kind": kind}),
            checkpoint,
            tmp_path / "out",
            int8=False,
            opset=18,
        )


@pytest.mark.parametrize("opset", [0, 17, 99])
def test_other_opsets_are_refused(config, checkpoint, tmp_path, opset):
    with pytest.raises(UserError, match=rf"--opset {opset}: allowed are 18 to"):
        export(config, checkpoint, tmp_path / "out", int8=False, opset=opset)


def test_missing_packages_are_named_as_pip_finds_them(config, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed: pip install onnx onnxscript onnxruntime"):
        export(config, checkpoint, tmp_path / "out", int8=False, opset=18)


def test_what_an_export_leaves_out_is_said(shop, checkpoint, config):
    model = load_model(config, load_dataset(shop), checkpoint)
    changes = {"rerank.method": "mmr", "rerank.diversity": 0.2}
    changes |= {"rerank.rules": ["exclude i3"], "eligible.where": {"brand": ["x"]}}
    said = export_module.not_exported(override(config, changes), model, shop)
    assert [text.partition(":")[0] for text in said] == ["re-ranking", "rules", "eligibility"]
    assert export_module.not_exported(config, model, shop) == []


def test_a_model_without_times_is_written_for_a_log_without_times(popular, shop, config, tmp_path):
    model = load_model(override(config, {"model.kind": "popular"}), load_dataset(shop), popular)
    write_onnx(PaddedScorer(model), tmp_path / "m.onnx", has_times=False, opset=20)
    assert OnnxModel(tmp_path / "m.onnx").input_names == ["items"]
