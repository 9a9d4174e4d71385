"""What benchmarks/models.py prints for a log."""

import pytest

from benchmarks.models import below, best_fitted, compared, logs

GRAPH = ({"model.kind": "graph"}, {"ndcg_at_10": 0.3}, {"ndcg_at_10": 0.2})
EASE = ({"model.kind": "ease"}, {"ndcg_at_10": 0.2}, {"ndcg_at_10": 0.4})


def test_validation_chooses_the_baseline_and_test_is_printed():
    assert best_fitted([EASE, GRAPH]) == GRAPH
    model = {"ndcg_at_10": 0.25, "hit_at_10": 0.5, "coverage_at_10": 0.75}
    other = {"ndcg_at_10": 0.35, "hit_at_10": 0.5, "coverage_at_10": 0.25}
    assert compared([model, other], [EASE, GRAPH]) == {
        "ndcg": pytest.approx(0.3),
        "hit": 0.5,
        "coverage": 0.5,
        "best_baseline": 0.2,
        "best_baseline_settings": {"model.kind": "graph"},
        "ratio": pytest.approx(1.5),
    }


def test_metrics_of_a_run_lose_their_prefix():
    result = {"metrics": {"test/ndcg_at_10": 0.1, "best/val/ndcg_at_10": 0.2, "epoch": 3}}
    assert below("test/", result) == {"ndcg_at_10": 0.1}
    assert below("best/val/", result) == {"ndcg_at_10": 0.2}


def test_a_log_without_files_has_no_result(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "users.parquet").touch()
    found = logs(tmp_path / "nowhere", tmp_path)
    assert found["beauty"] is None
    assert found["completejourney"]["data.clicks"] == f"{tmp_path}/raw/clicks.parquet"
