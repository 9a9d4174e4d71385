"""The gate judges a retrain against a champion of the month before, whose data set is gone."""

import shutil

import pytest

from benchmarks import nightly
from recdiv_core.config import Config, override
from recdiv_core.evaluation.systems import find_run, judged_data, on_newest
from recdiv_core.release.gate import pass_gate
from recdiv_core.schema import read_manifest
from tests.test_append import NUM_DAYS, make, write_days

SMALL = {
    "model.dim": 8,
    "model.num_layers": 1,
    "model.blend": ["graph"],
    "train.epochs": 1,
    "train.batch_size": 16,
    "eval.k": 5,
    "eval.dials": [],
}


def nowhere():
    raise AssertionError("no MLflow is asked")


def trained(prepared, place, seed):
    return nightly.train(
        override(Config(), {**SMALL, "data.prepared": str(prepared), "seed": seed}), place
    )


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    """Return checkpoints of a champion, of a retrain three appends later, and the newest data."""
    root = tmp_path_factory.mktemp("month")
    write_days(root)
    first = make(root, "shop", range(NUM_DAYS - 3)).resolve()
    nightly.encode_texts(first)
    champion = trained(first, root / "champion", 0)
    for day in range(NUM_DAYS - 3, NUM_DAYS):
        make(root, "shop", [day], base="shop")
    newest = (root / "shop").resolve()
    candidate = trained(newest, root / "candidate", 1)
    shutil.rmtree(first)  # an append removes it once no process reads it
    return first, champion, candidate, newest


def test_both_are_judged_on_the_newest_data(month):
    first, champion, candidate, newest = month
    assert not first.exists()
    sides = on_newest(
        [find_run(str(each.checkpoint), {}, nowhere) for each in (champion, candidate)]
    )
    assert judged_data(sides)["fingerprint"] == read_manifest(newest).fingerprint
    rows = pass_gate(sides[0], sides[1], {"ndcg": 0.0, "coverage": 0.0}, "test")
    found = nightly.judge(champion.checkpoint, newest)
    assert rows[0]["champion"] == pytest.approx(found["ndcg_at_5"], abs=1e-6)
    assert rows[0]["candidate"] == pytest.approx(candidate.test["ndcg_at_5"], abs=1e-6)
    assert [row["passes"] for row in rows] in ([True, True], [None, True])
