"""A checkpoint judged by itself: the figures of its training, on any number of workers."""

import itertools
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.evaluation.evaluate import evaluate
from recdiv_core.schema import EVAL_EXAMPLE, read_manifest
from recdiv_core.settings import parse_overrides
from recdiv_core.slates.inputs import checkpoint_config
from tests.cluster.conftest import figures_of, run

pytestmark = pytest.mark.ray


def test_figures_are_those_of_the_training(trained, tmp_path):
    place = ["--checkpoint", trained["checkpoint"], "--out", str(tmp_path / "metrics.json")]
    # small batches: each worker has several to do
    more = ["scaling.num_workers=2", "eval.batch_size=8"]
    judged = run("evaluate", *place, *more)
    assert judged.keys() >= {"checkpoint", "split", "num_users", "metrics"}
    of_training = figures_of(trained["metrics"], "test/")
    assert len(of_training) == 29  # 26 metrics, six of them of queries, and of how many users
    assert of_training["num_judged"] == judged["num_users"]
    assert {name: judged["metrics"][name] for name in of_training} == pytest.approx(
        of_training, abs=1e-6
    )
    assert len(judged["metrics"]) > 30
    warm, cold = judged["slices"].get("user=warm", {}), judged["slices"].get("user=cold", {})
    assert warm.get("num_users", 0) + cold.get("num_users", 0) == judged["num_users"]
    kinds = {"user", "query", "item", "popularity", "category"}
    kinds |= {"query_seen", "query_history", "query_popularity", "query_script"}
    assert {"intent_coverage_at_10", "zero_results_at_10"} <= judged["metrics"].keys()
    assert judged["fairness"].keys() == kinds
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == {name: judged[name] for name in ("split", "k", "num_users", "metrics")}


@pytest.fixture
def users_101(shop, tmp_path) -> Path:
    """Return the shop with 101 users held out: the last two items that each met, in training."""
    prepared = tmp_path / "prepared"
    shutil.copytree(shop.prepared, prepared)
    rows = pq.read_table(prepared / "train", columns=["items"]).to_pylist()
    held_out = [
        {
            "user_id": str(index),
            "history": row["items"][:-2],
            "targets": [*{*row["items"][-2:]}],
            "query": index % 3 - 1,  # some ask for nothing
            "is_cold_user": index % 5 == 0,
        }
        for index, row in enumerate(itertools.islice(itertools.cycle(rows), 101))
    ]
    for path in (prepared / "test").iterdir():
        path.unlink()
    table = pa.Table.from_pylist(held_out, EVAL_EXAMPLE)
    pq.write_table(table, prepared / "test" / "part-00000.parquet", row_group_size=16)
    manifest = read_manifest(prepared)
    counts = {**manifest.num_examples, "test": 101}
    changed = manifest.model_copy(update={"num_examples": counts})
    (prepared / "manifest.json").write_text(changed.model_dump_json())
    return prepared


def test_no_figure_depends_on_the_number_of_workers(trained, users_101):
    checkpoint = Path(trained["checkpoint"])
    # 26 batches, the last of one user; two workers at once, so that Ray starts no more processes
    settings = [
        f"data.prepared={users_101}",
        "eval.batch_size=4",
        "eval.cutoffs=[1,5]",
        "scaling.cpus_per_worker=1",
    ]
    alone, *shared = (
        evaluate(
            checkpoint_config(checkpoint, parse_overrides([*settings, f"scaling.num_workers={n}"])),
            checkpoint,
        )
        for n in (1, 2, 5)
    )
    assert alone["num_users"] + alone["num_users_without_targets"] == 101
    assert len(alone["metrics"]) > 90
    for judged in shared:
        assert judged["num_users"] == alone["num_users"]
        assert judged["metrics"] == pytest.approx(alone["metrics"], rel=1e-9, abs=1e-12)
        for part in ("slices", "fairness"):
            assert judged[part].keys() == alone[part].keys()
            for name, figures in alone[part].items():
                assert judged[part][name] == pytest.approx(figures, rel=1e-9, abs=1e-12)


def test_re_ranking_diversifies_the_slates_of_a_checkpoint(trained):
    place = ["--checkpoint", trained["checkpoint"], "--split", "val"]
    plain = run("evaluate", *place)["metrics"]
    spread = run("evaluate", *place, "rerank.method=mmr", "rerank.diversity=0.7")
    assert spread["metrics"]["ild_at_10"] > plain["ild_at_10"]
    of_training = figures_of(trained["metrics"], "best/val/")
    assert {name: plain[name] for name in of_training} == pytest.approx(of_training, abs=1e-6)


def test_slates_that_are_given_are_judged_as_the_model_that_made_them(trained, shop, tmp_path):
    out, checkpoint = tmp_path / "slates", trained["checkpoint"]
    run("recommend", "--checkpoint", checkpoint, "--out", str(out), "--users", "test")
    expected = run("evaluate", "--checkpoint", checkpoint)
    own = [f"data.prepared={shop.prepared}", "scaling.num_workers=2", "eval.batch_size=8"]
    found = run("evaluate", "--slates", str(out), *own)
    assert found.keys() == {*expected, "slates", "matching"}
    left_out = expected["metrics"].keys() - found["metrics"].keys()
    assert left_out == {"auc_at_10", "freed_at_10"}  # these need scores
    assert found["metrics"] == pytest.approx(
        {name: expected["metrics"][name] for name in found["metrics"]}, rel=1e-9, abs=1e-9
    )
    assert found["matching"]["num_users_without_slate"] == 0
    assert found["slices"].keys() == expected["slices"].keys()
