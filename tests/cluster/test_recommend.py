"""Slates for every user: those that evaluation judges, whole whoever is killed."""

import os
import signal
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recdiv_core.config import override
from recdiv_core.settings import parse_overrides
from recdiv_core.slates.checkpoint import read_config
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from tests.cluster.conftest import family_of, kill_driver, run, wait_until

pytestmark = pytest.mark.ray

# one user a batch, so that there are several parts and time to kill somebody
SMALL = ("eval.batch_size=1", "rerank.method=dpp")
GRID = ("--dial", ",".join(f"{dial / 20:g}" for dial in range(21)))


def slates_in(place: Path) -> list[dict]:
    """Read the slates of all parts, in the order of the parts."""
    return pq.read_table(place).to_pylist()  # as a user would read them


def grid_in(place: Path) -> dict[str, list[dict]]:
    return {path.name: slates_in(path) for path in sorted(place.glob("diversity=*"))}


def arguments(trained, out: Path, *more: str) -> list[str]:
    return ["--checkpoint", trained["checkpoint"], "--out", str(out), *more]


@pytest.fixture(scope="module")
def undisturbed(trained, tmp_path_factory) -> dict[str, list[dict]]:
    """Return the slates of a grid that nobody disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "slates"
    made = run("recommend", *arguments(trained, out, *GRID, *SMALL))
    grid = grid_in(out)
    assert made["num_parts"] > 3
    assert len(grid) == len(made["dials"]) == 21
    return grid


def test_every_user_gets_one_slate_and_nobody_what_was_seen(shop, undisturbed):
    rows = pq.read_table(shop.prepared / "requests").to_pylist()
    catalogue = pq.read_table(shop.prepared / "catalogue.parquet")["item_id"].to_pylist()
    seen = {row["user_id"]: {catalogue[item] for item in row["history"]} for row in rows}
    splits = [pq.read_table(shop.prepared / name) for name in ("train", "val", "test")]
    assert seen.keys() == {user for split in splits for user in split["user_id"].to_pylist()}
    for slates in undisturbed.values():
        assert sorted(slate["user_id"] for slate in slates) == sorted(seen)
        for slate in slates:
            assert len(set(slate["item_ids"])) == len(slate["scores"]) == 10
            assert not seen[slate["user_id"]] & set(slate["item_ids"])


def test_slates_of_a_split_are_those_that_are_judged(trained, tmp_path):
    settings = ("rerank.method=msd", "rerank.diversity=0.3", "rerank.lift=0.5")
    out = tmp_path / "slates"
    made = run("recommend", *arguments(trained, out, "--users", "test", *settings))
    checkpoint = Path(trained["checkpoint"])
    config = override(read_config(checkpoint), parse_overrides(settings))
    dataset = load_dataset(Path(config.data.prepared))
    expected = {}
    model = load_model(config, dataset, checkpoint)
    for held_out in held_out_of_split(model, dataset, "test", config):
        slates, _ = held_out.slates(dataset, slate_policy(config, dataset, model.lifts))
        ids = dataset.catalogue.table["item_id"].to_pylist()
        for user, slate in zip(held_out.examples.user_ids, slates.tolist(), strict=True):
            expected[user] = [ids[item] for item in slate]
    assert {row["user_id"]: row["item_ids"] for row in slates_in(out)} == expected
    assert made["num_users"] == len(expected)


@pytest.mark.faults
@pytest.mark.slow
def test_a_killed_driver_loses_no_user_and_repeats_none(trained, undisturbed, tmp_path, start):
    out = tmp_path / "slates"
    last = out / "diversity=1"
    driver = start("recommend", *arguments(trained, out, *GRID, *SMALL))
    wait_until(lambda: list(last.glob("part-*.parquet")))
    kill_driver(driver)
    before = {path.name: path.stat().st_mtime_ns for path in last.glob("part-*.parquet")}
    made = run("recommend", *arguments(trained, out, *GRID, *SMALL))
    assert 0 < len(before) < made["num_parts"]
    assert grid_in(out) == undisturbed
    assert {name: (last / name).stat().st_mtime_ns for name in before} == before
    assert {path.name for path in out.rglob("*") if path.is_file()} == {
        "_recommend.json",
        *(f"part-{part:05d}.parquet" for part in range(made["num_parts"])),
    }
    again = run("recommend", *arguments(trained, out, *GRID, *SMALL))
    assert again == {**made, "users_per_s": None}


@pytest.mark.faults
@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(trained, undisturbed, tmp_path):
    out = tmp_path / "slates"
    killed = []

    def kill_in_the_middle() -> None:
        wait_until(lambda: list((out / "diversity=0").glob(".part-*")))
        victim = next(p for p, line in family_of(os.getpid()) if "_Recommender)).submit" in line)
        victim.send_signal(signal.SIGKILL)
        killed.append(victim.pid)

    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    run("recommend", *arguments(trained, out, *GRID, *SMALL))
    killer.join()
    assert killed
    assert grid_in(out) == undisturbed
    assert not list(out.rglob(".part-*"))
