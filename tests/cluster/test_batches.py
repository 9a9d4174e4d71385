"""The training stream on a real Ray: what the plan promises is what the ranks read."""

import pytest

from recdiv_core.data.plan import (
    list_fragments,
    plan_epoch,
    read_pieces,
    stream_train,
    train_examples,
)
from recdiv_core.schema import TRAIN_EXAMPLE
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


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared")
    rows = train_rows(101)
    write_shards(directory / "train", rows, TRAIN_EXAMPLE, num_shards=3, fragment_rows=8)
    return directory


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_reads_its_parts_of_the_plan_in_order(ray_cluster, prepared, rank):
    assert streamed(prepared, rank, 0) == planned(prepared, rank)


def test_a_stream_goes_on_in_the_middle_of_an_epoch(ray_cluster, prepared):
    assert streamed(prepared, 0, 15) == planned(prepared, 0)[15:]


def test_a_finished_run_reads_nothing(ray_cluster, prepared):
    assert streamed(prepared, 0, 22) == []
