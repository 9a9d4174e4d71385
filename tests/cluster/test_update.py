"""Two days of `recdiv update` on a small shop: a first model, then a fine-tuned one."""

import mlflow
import pytest

from recdiv_core.config import Config, override
from recdiv_core.data.clicklog import prepare
from recdiv_core.schema import read_manifest
from tests.cluster.conftest import run
from tests.test_append import SETTINGS, write_days

pytestmark = pytest.mark.ray

FLOORS = [f"--keep={name}=0" for name in ("ndcg", "coverage", "narrowed")]
FLOORS += [f"--keep=ndcg.{group}=0" for group in ("head", "mid", "tail")]


@pytest.fixture(scope="module")
def days(ray_cluster, tmp_path_factory, mlflow_uri):
    """Return the result of a day's update by day; the second one is done twice."""
    root = tmp_path_factory.mktemp("daily")
    write_days(root)
    logs = root / "log"
    (root / "base").mkdir()
    for day in range(7):
        (logs / f"day-{day:02d}.csv").rename(root / "base" / f"day-{day:02d}.csv")
    places = {"data.clicks": str(root / "base"), "data.items": str(root / "items.csv")}
    shop = root / "shop"
    prepare(
        override(Config(), {**SETTINGS, **places, "data.out": str(shop), "data.name": "daily"}),
        on_ray=False,
    )
    settings = [
        f"run.storage={root / 'runs'}",
        f"tracking.uri={mlflow_uri}",
        "model.dim=16",
        "model.num_layers=1",
        "model.blend=[graph]",
        "train.epochs=2",
        "train.batch_size=64",
        "eval.dials=[]",
        "scaling.num_workers=1",
    ]
    found = [
        run(
            "update",
            "--name=daily",
            "--epochs=1",
            *FLOORS,
            f"data.base={shop}",  # it moves on with each day
            f"data.clicks={logs / f'day-{day:02d}.csv'}",
            *settings,
        )
        for day in (7, 8, 8)
    ]
    return root, found


def test_a_first_update_trains_a_champion(days):
    _, (first, _, _) = days
    assert (first["champion"], first["version"], first["promoted"]) == (None, 1, True)
    assert first["before"] == {}
    assert 0 <= first["after"]["ndcg"] <= 1


def test_the_next_update_judges_the_champion_and_starts_from_its_weights(days):
    root, (_, second, _) = days
    assert (second["champion"], second["version"], second["generation"]) == ("1", 2, 2)
    assert set(second["before"]) == {"ndcg", "coverage", "ild", "diversity_index", "narrowed"}
    assert {row["name"] for row in second["gate"]} >= {"ndcg", "coverage"}
    assert second["data"]["fingerprint"] == read_manifest(root / "shop").fingerprint
    text = (root / "runs" / second["run"] / "config.yaml").read_text()
    assert "champion" in text  # train.init_from


def test_the_champions_metrics_in_the_gate_are_those_before_the_training(days):
    _, (_, second, _) = days
    ndcg = next(row for row in second["gate"] if row["name"] == "ndcg")
    if ndcg["passes"] is not None:
        assert ndcg["champion"] == pytest.approx(second["before"]["ndcg"], abs=1e-6)


def test_the_same_update_again_changes_nothing(days, mlflow_uri):
    root, (_, second, again) = days
    assert again == second
    versions = mlflow.MlflowClient(mlflow_uri).search_model_versions("name = 'daily'")
    assert sorted(int(each.version) for each in versions) == [1, 2]
    assert len(list((root / "runs" / "updates").rglob("outcome.json"))) == 2
