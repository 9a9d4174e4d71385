"""Reading ahead on a real Ray: what the plan promises is what the ranks read."""

import os
import signal

import pytest
import ray

from recdiv_core.data import plan
from recdiv_core.data.plan import plan_windows
from recdiv_core.data.reading import list_fragments, read_window
from recdiv_core.data.streaming import stream_windows
from recdiv_core.schema import TRAIN_EXAMPLE
from tests.cluster.conftest import family_of, wait_until
from tests.test_batches import train_rows, write_shards
from tests.worlds import read_train

pytestmark = pytest.mark.ray

PLAN = {"batch_size": 10, "world_size": 2, "accumulation": 2, "seed": 3, "epochs": 2}


def numbers(steps):
    return [
        [(part.items.tolist(), part.lengths.tolist(), part.weights.tolist()) for part in parts]
        for parts in steps
    ]


def planned(prepared, rank):
    """Return the parts of both epochs' steps, read without Ray."""
    return numbers(read_train(prepared, rank=rank, **PLAN))


def streamed(prepared, rank, start_step):
    return numbers(stream(prepared, rank, start_step))


def stream(prepared, rank, start_step):
    fragments = list_fragments(prepared, "train")
    return stream_windows(plan_windows(fragments, rank=rank, start_step=start_step, **PLAN))


def processes_of(task):
    """Return the processes under this test's Ray whose title says this: pid -> process."""
    return {
        process.pid: process
        for process, line in family_of(os.getpid())
        if line.startswith(f"ray::{task}")
    }


@pytest.fixture
def small_windows(monkeypatch):
    """Make windows of 40 users, so that an epoch has several."""
    monkeypatch.setattr(plan, "WINDOW_USERS", 40)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared")
    rows = train_rows(101)
    write_shards(directory / "train", rows, TRAIN_EXAMPLE, num_shards=3, fragment_rows=8)
    return directory


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_reads_its_parts_of_the_plan_in_order(ray_cluster, prepared, rank, small_windows):
    assert streamed(prepared, rank, 0) == planned(prepared, rank)


def test_a_stream_goes_on_in_the_middle_of_an_epoch(ray_cluster, prepared, small_windows):
    assert streamed(prepared, 0, 15) == planned(prepared, 0)[15:]


def test_a_finished_run_reads_nothing(ray_cluster, prepared):
    assert streamed(prepared, 0, 22) == []


def test_the_process_that_has_read_reads_again(ray_cluster, prepared, small_windows):
    streamed(prepared, 0, 0)
    before = {process.pid for process, _ in family_of(os.getpid())}
    assert len(streamed(prepared, 1, 0)) == 22
    assert {process.pid for process, _ in family_of(os.getpid())} <= before


def test_a_reader_that_is_killed_is_replaced(ray_cluster, tmp_path, prepared, monkeypatch):
    def die_once(window):
        if not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return read_window(window)

    monkeypatch.setattr("recdiv_core.data.streaming.read_window", die_once)
    assert streamed(prepared, 0, 0) == planned(prepared, 0)
    assert (tmp_path / "died").exists()


def test_a_stream_that_is_left_early_holds_no_process(ray_cluster, prepared, small_windows):
    steps = stream(prepared, 0, 0)
    next(steps)
    steps.close()
    wait_until(lambda: not processes_of("read_window"))
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]
