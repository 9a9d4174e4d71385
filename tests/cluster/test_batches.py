"""The training stream on a real Ray: what the plan promises is what the ranks read."""

import os

import psutil
import pytest
import ray

from recdiv_core.cluster.start import IDLE_ENDS_AFTER_MS
from recdiv_core.data.plan import (
    list_fragments,
    plan_epoch,
    read_pieces,
    start_reader,
    stream_train,
    train_examples,
)
from recdiv_core.schema import TRAIN_EXAMPLE
from tests.cluster.conftest import family_of, wait_until
from tests.test_batches import train_rows, write_shards

pytestmark = pytest.mark.ray

PLAN = {"batch_size": 10, "world_size": 2, "accumulation": 2, "seed": 3}


def planned(prepared, rank):
    """Return (items, lengths) of each part of both epochs' steps, read without Ray."""
    fragments = list_fragments(prepared, "train")
    return [
        [numbers(train_examples(read_pieces(pieces, {}))) for pieces in parts]
        for epoch in range(2)
        for parts in plan_epoch(fragments, rank=rank, epoch=epoch, **PLAN)
    ]


def numbers(examples):
    return examples.items.tolist(), examples.lengths.tolist(), examples.weights.tolist()


def streamed(prepared, rank, start_step):
    steps = stream_train(prepared, rank=rank, start_step=start_step, epochs=2, **PLAN)
    return [[numbers(examples) for examples in parts] for parts in steps]


def ray_processes():
    """Return what runs under this test's Ray: pid -> name."""
    return {process.pid: line for process, line in family_of(os.getpid())}


def reading_actors():
    return {pid for pid, name in ray_processes().items() if "MapWorker" in name}


def idle_processes():
    return {process for process, line in family_of(os.getpid()) if line.startswith("ray::IDLE")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared")
    rows = train_rows(101)
    write_shards(directory / "train", rows, TRAIN_EXAMPLE, num_shards=3, fragment_rows=8)
    return directory


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_reads_its_parts_of_the_plan_in_order(ray_cluster, prepared, rank):
    assert streamed(prepared, rank, 0) == planned(prepared, rank)


def test_an_actor_reads_where_ray_ends_idle_processes(ray_cluster, prepared, monkeypatch):
    monkeypatch.delenv(IDLE_ENDS_AFTER_MS)
    before = reading_actors()
    stream = stream_train(prepared, rank=0, start_step=0, epochs=2, **PLAN)
    first = [numbers(examples) for examples in next(stream)]
    assert reading_actors() - before
    assert [first, *([numbers(e) for e in parts] for parts in stream)] == planned(prepared, 0)


def test_the_process_that_has_read_reads_again(ray_cluster, prepared):
    streamed(prepared, 0, 0)
    before, actors = ray_processes(), reading_actors()
    stream = stream_train(prepared, rank=1, start_step=0, epochs=2, **PLAN)
    next(stream)
    assert reading_actors() <= actors  # of earlier readings, ending
    assert len(list(stream)) == 21
    assert set(ray_processes()) <= set(before)


def test_the_process_that_was_started_ahead_reads(ray_cluster, prepared):
    streamed(prepared, 0, 0)  # what Ray Data starts once is there
    psutil.wait_procs([process for process in idle_processes() if not process.kill()])
    assert not idle_processes()
    ray.get(start_reader())
    wait_until(idle_processes)
    before = idle_processes()
    assert streamed(prepared, 0, 0) == planned(prepared, 0)
    wait_until(idle_processes)
    assert idle_processes() == before


def test_a_stream_goes_on_in_the_middle_of_an_epoch(ray_cluster, prepared):
    assert streamed(prepared, 0, 15) == planned(prepared, 0)[15:]


def test_a_finished_run_reads_nothing(ray_cluster, prepared):
    assert streamed(prepared, 0, 22) == []
