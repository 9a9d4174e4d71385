"""Two days of `recdiv update` on a small shop: a first model, then a fine-tuned one."""

import contextlib
import json
import random
import subprocess
import time
from pathlib import Path

import mlflow
import pytest

from recdiv_core.config import Config, override
from recdiv_core.data.clicklog import prepare
from recdiv_core.release.registry import copy_version
from recdiv_core.schema import read_manifest
from recdiv_core.slates.checkpoint import read_config, read_progress
from tests.cluster.conftest import PATIENCE_S, kill_driver, run
from tests.test_append import SETTINGS, write_days

pytestmark = pytest.mark.ray

FLOORS = [f"--keep={name}=0" for name in ("ndcg", "coverage", "narrowed")]
FLOORS += [f"--keep=ndcg.{group}=0" for group in ("head", "mid", "tail")]


def make_shop(root):
    """Prepare the first seven days of a small shop, and leave the log of the others."""
    root.mkdir(exist_ok=True)
    write_days(root)
    (root / "base").mkdir()
    for day in range(7):
        (root / "log" / f"day-{day:02d}.csv").rename(root / "base" / f"day-{day:02d}.csv")
    places = {"data.clicks": str(root / "base"), "data.items": str(root / "items.csv")}
    more = {**SETTINGS, **places, "data.out": str(root / "shop"), "data.name": "daily"}
    prepare(override(Config(), more), on_ray=False)


def day_of(root, uri, day):
    """Return the arguments of a day's update; the data set moves on with each day."""
    return [
        "--name=daily",
        "--epochs=1",
        *FLOORS,
        f"data.base={root / 'shop'}",
        f"data.clicks={root / 'log' / f'day-{day:02d}.csv'}",
        f"run.storage={root / 'runs'}",
        f"tracking.uri={uri}",
        "model.dim=16",
        "model.num_layers=1",
        "model.blend=[graph]",
        "train.epochs=2",
        "train.batch_size=64",
        "eval.k=4",  # few items are on sale, and a slate of all of them cannot be more diverse
        "eval.dials=[msd 1]",
        "eval.objective=ild",  # so the chosen re-ranking does not hang on a few clicks
        "scaling.num_workers=1",
    ]


@pytest.fixture(scope="module")
def days(ray_cluster, tmp_path_factory, mlflow_uri):
    """Return the result of a day's update by day; the second one is done twice."""
    root = tmp_path_factory.mktemp("daily")
    make_shop(root)
    first = run("update", *day_of(root, mlflow_uri, 7))
    levels = root / "runs" / "updates" / "daily" / "levels_at_4.json"
    levels.rename(root / "levels.json")
    levels.write_text(json.dumps({"ild_at_4": 1e-6}))  # so the way with the highest ILD is chosen
    return root, [
        first,
        *(run("update", *day_of(root, mlflow_uri, 8)) for _ in "ab"),
    ]


def test_a_first_update_trains_a_champion(days):
    _, (first, _, _) = days
    assert (first["champion"], first["version"], first["promoted"]) == (None, 1, True)
    assert first["before"] == {}
    assert 0 <= first["after"]["ndcg"] <= 1


def test_the_next_update_judges_the_champion_and_starts_from_its_weights(days):
    root, (_, second, _) = days
    assert (second["champion"], second["version"], second["generation"]) == ("1", 2, 2)
    names = {"ndcg", "coverage", "ild", "diversity_index", "narrowed", "old_ndcg"}
    assert set(second["before"]) == names | {"new_items"}
    assert second["yardstick"] == {}
    assert second["day"] == read_manifest(root / "shop").times["last"]
    assert {row["name"] for row in second["gate"]} >= {"ndcg", "coverage"}
    assert second["data"]["fingerprint"] == read_manifest(root / "shop").fingerprint
    text = (root / "runs" / second["run"] / "config.yaml").read_text()
    assert "champion" in text  # train.init_from


def test_the_first_update_sets_the_levels_of_diversity_that_later_ones_hold(days):
    root, (first, second, _) = days
    levels = json.loads((root / "levels.json").read_text())
    assert set(levels) == {"coverage_at_4", "ild_at_4", "diversity_index_at_4"}
    assert first["held"] >= 1
    assert second["held"] > 1


def test_a_candidate_is_registered_with_the_re_ranking_that_was_chosen(days, mlflow_uri, tmp_path):
    root, (first, second, _) = days
    chosen = first if first["served"] else second  # the second one starts from the first one's
    assert chosen["served"]["rerank.method"] == "msd"
    config = override(Config(), {"tracking.uri": mlflow_uri})
    registered = read_config(copy_version(config, "daily", str(chosen["version"]), tmp_path))
    assert (registered.rerank.method, registered.rerank.diversity) == ("msd", 1)
    trained = max((root / "runs" / chosen["run"]).glob("checkpoint_2*"))
    assert read_config(trained).rerank.method == "none"
    (entry,) = json.loads(read_progress(trained).dials)
    assert chosen["after"]["ild"] == entry["test"]["ild_at_4"]


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
    assert len(json.loads((root / "runs" / "updates" / "daily" / "days.json").read_text())) == 2
    assert "daily: 2 updates" in Path(second["page"]).read_text()


@pytest.mark.slow
@pytest.mark.faults
def test_an_update_that_is_killed_at_any_moment_ends_as_one_that_is_not(tmp_path, start):
    """Also with a yardstick, which trains once more than the other tests do."""
    outcomes, took = [], 0.0
    for name in ("calm", "killed"):
        root = tmp_path / name
        make_shop(root)
        uri = f"sqlite:///{root}/mlflow.db"
        assert start("update", *day_of(root, uri, 7)).wait(PATIENCE_S) == 0
        if name == "killed":
            draws = random.Random(0)
            for _ in range(10):
                driver = start("update", "--yardstick", *day_of(root, uri, 8))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.wait(draws.uniform(1, took))
                    break  # the kills before it left little to do
                kill_driver(driver)
        began = time.monotonic()
        assert start("update", "--yardstick", *day_of(root, uri, 8)).wait(PATIENCE_S) == 0
        took = time.monotonic() - began
        versions = mlflow.MlflowClient(uri).search_model_versions("name = 'daily'")
        assert sorted(int(each.version) for each in versions) == [1, 2]
        homes = (root / "runs" / "updates" / "daily").glob("*/outcome.json")
        found = [json.loads(path.read_text()) for path in homes]
        last = max(found, key=lambda outcome: outcome["generation"])
        last["data"] = last["data"]["fingerprint"]  # the places differ
        outcomes.append({key: last[key] for key in last.keys() - {"prepared"}})
    assert outcomes[0] == outcomes[1]
    assert outcomes[0]["yardstick"].keys() == outcomes[0]["after"].keys() | {"old_ndcg"}
