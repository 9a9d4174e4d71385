"""A checkpoint judged by itself: the figures of its training, on any number of workers."""

import json

import pytest

from tests.cluster.conftest import figures_of, run

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_figures_are_those_of_the_training(trained, tmp_path, num_workers: int):
    place = ["--checkpoint", trained["checkpoint"], "--out", str(tmp_path / "metrics.json")]
    # small batches: each worker has several to do
    more = [f"scaling.num_workers={num_workers}", "eval.batch_size=8"]
    judged = run("evaluate", *place, *more)
    assert judged.keys() >= {"checkpoint", "split", "num_users", "metrics"}
    of_training = figures_of(trained["metrics"], "test/")
    assert len(of_training) == 14
    assert {name: judged["metrics"][name] for name in of_training} == pytest.approx(
        of_training, abs=1e-6
    )
    assert len(judged["metrics"]) > 30
    warm, cold = judged["slices"].get("user=warm", {}), judged["slices"].get("user=cold", {})
    assert warm.get("num_users", 0) + cold.get("num_users", 0) == judged["num_users"]
    assert judged["fairness"].keys() == {"user", "query", "popularity", "category"}
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == {name: judged[name] for name in ("split", "k", "num_users", "metrics")}


def test_re_ranking_diversifies_the_slates_of_a_checkpoint(trained):
    place = ["--checkpoint", trained["checkpoint"], "--split", "val"]
    plain = run("evaluate", *place)["metrics"]
    spread = run("evaluate", *place, "rerank.method=mmr", "rerank.diversity=0.7")
    assert spread["metrics"]["ild_at_10"] > plain["ild_at_10"]
    of_training = figures_of(trained["metrics"], "best/val/")
    assert {name: plain[name] for name in of_training} == pytest.approx(of_training, abs=1e-6)
