"""The plan of an epoch, and the reading of it: which rows each worker gets, in which order.

The one idea: an epoch is a *plan*, fixed by the seed before anything is read. Row groups of the
shards (fragments) are permuted into one global order; step t takes the next `batch_size` rows of
it; the ranks, and within a rank the accumulation parts, take equal consecutive shares of the step.
Hence the batches are the same on any number of workers, every rank takes the same number of steps,
no row is dropped or repeated, each fragment is read where it is needed, and a resumed run goes on
at the exact step. Ray Data streams a rank's part of the plan: a reader of its own reads fragments
ahead of the training and hands them over as Arrow, ragged and without padding (batches.py makes
tensors of them; no torch here, which the reader would spend its first seconds importing).

Evaluation reads whole global batches, dealt to the ranks in turn: a batch is computed alike
whoever computes it.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdiv_core.cluster.start import IDLE_ENDS_AFTER_MS
from recdiv_core.schema import USER_ID

if TYPE_CHECKING:
    from ray.data import ActorPoolStrategy, Datasource, TaskPoolStrategy
    from ray.data._internal.execution.execution_callback import ExecutionCallback

PARTS_A_TASK: Final = 16
"""Parts read at once: enough to hide a task's overhead, few enough to stream."""


NODE_LABEL: Final = "ray.io/node-id"

REST_S: Final = 0.01
"""Between two steps of Ray Data's loop, which start tasks and take what others have read."""


@dataclass(frozen=True)
class Fragment:
    """One row group of one shard."""

    path: str
    row_group: int
    num_rows: int


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of one row group."""

    path: str
    row_group: int
    start: int
    stop: int


@dataclass(frozen=True)
class Examples:
    """Ragged examples of some users, as flat arrays.

    Attributes:
        items: item_index of all events, users one after another, oldest first.
        lengths: events of each user, >= 0.
        queries: query_index that led to each event (train), or of each user's request (eval).
        weights: of each event as a target; empty for evaluation examples.
        targets: held-out items of all users; empty for train examples.
        target_lengths: held-out items of each user; empty for train examples.
        is_hidden: of each event, whether it is hidden as an input (augment.py); None = none is.
        user_ids: of the users of evaluation examples; empty for train examples.
        is_cold: of each user, whether there is no event in the train window; None for train.
    """

    items: np.ndarray
    lengths: np.ndarray
    queries: np.ndarray
    weights: np.ndarray
    targets: np.ndarray
    target_lengths: np.ndarray
    is_hidden: np.ndarray | None = None
    user_ids: Sequence[str] = ()
    is_cold: np.ndarray | None = None


def list_fragments(prepared: Path, split: str) -> list[Fragment]:
    """List the row groups of a split, in the order of the files; reads footers only."""
    fragments: list[Fragment] = []
    for path in sorted((prepared / split).glob("part-*.parquet")):
        metadata = pq.read_metadata(path)
        fragments += [
            Fragment(str(path), group, metadata.row_group(group).num_rows)
            for group in range(metadata.num_row_groups)
        ]
    return fragments


def num_steps(num_rows: int, batch_size: int) -> int:
    """Return the steps of an epoch; the last one may be short, never dropped."""
    return -(-num_rows // batch_size)


def plan_epoch(
    fragments: Sequence[Fragment],
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    accumulation: int,
    seed: int,
    epoch: int,
) -> list[list[list[Piece]]]:
    """Plan what one rank reads in one epoch.

    Returns:
        steps x parts x pieces; every rank gets the same number of steps and parts, of which some
        are empty in a short last step.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    order = rng.permutation(len(fragments))
    shuffled = [fragments[index] for index in order]
    ends = np.cumsum([fragment.num_rows for fragment in shuffled])
    total = int(ends[-1]) if len(ends) else 0
    shares = world_size * accumulation
    steps: list[list[list[Piece]]] = []
    for start in range(0, total, batch_size):
        size = min(batch_size, total - start)
        bounds = [start + size * share // shares for share in range(shares + 1)]
        mine = range(rank * accumulation, (rank + 1) * accumulation)
        steps.append([_pieces(shuffled, ends, bounds[i], bounds[i + 1]) for i in mine])
    return steps


def _pieces(fragments: Sequence[Fragment], ends: np.ndarray, start: int, stop: int) -> list[Piece]:
    """Cut rows [start, stop) of the concatenated fragments into pieces of row groups."""
    pieces: list[Piece] = []
    index = int(np.searchsorted(ends, start, side="right"))
    while start < stop:
        fragment = fragments[index]
        first = int(ends[index]) - fragment.num_rows
        end = min(stop, int(ends[index]))
        pieces.append(Piece(fragment.path, fragment.row_group, start - first, end - first))
        start = end
        index += 1
    return pieces


def read_pieces(pieces: Sequence[Piece], files: dict[str, pq.ParquetFile]) -> pa.Table | None:
    """Read rows of row groups; `files` keeps the opened shards. None for no pieces."""
    tables: list[pa.Table] = []
    for piece in pieces:
        if piece.path not in files:
            files[piece.path] = pq.ParquetFile(piece.path)
        group = files[piece.path].read_row_group(piece.row_group)
        tables.append(group.slice(piece.start, piece.stop - piece.start))
    return pa.concat_tables(tables) if tables else None


def stream_train(
    prepared: Path,
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    accumulation: int,
    seed: int,
    start_step: int,
    epochs: int,
) -> Iterator[list[Examples]]:
    """Stream a rank's parts of every step through Ray Data, from `start_step` to the end.

    Args:
        prepared: absolute path of a prepared data set that every node sees.
        batch_size: users a step, over all ranks and parts.
        rank: this worker, 0 .. world_size - 1.
        world_size: workers.
        accumulation: parts a rank computes its share in.
        seed: of the order.
        start_step: steps done already, counted over epochs.
        epochs: epochs in all.

    Yields:
        The `accumulation` parts of each step in order; a part may hold no user.
    """
    import ray.data

    fragments = list_fragments(prepared, "train")
    steps_an_epoch = num_steps(sum(f.num_rows for f in fragments), batch_size)
    plan: list[list[Piece]] = []
    for epoch in range(start_step // steps_an_epoch, epochs):
        steps = plan_epoch(
            fragments,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            accumulation=accumulation,
            seed=seed,
            epoch=epoch,
        )
        skip = max(0, start_step - epoch * steps_an_epoch)
        plan += [part for step in steps[skip:] for part in step]
    if not plan:
        return
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [_rest_class()]
    dataset = ray.data.read_datasource(
        planned_reads(plan),
        override_num_blocks=-(-len(plan) // PARTS_A_TASK),
        # it mostly waits; of a share of a CPU, where workers leave little, Ray Data's loop asks on
        # and on whether it is free
        num_cpus=0,
        compute=_one_reader(),
        label_selector=_this_node(),
    )
    parts_of_step: list[Examples] = []
    for row in dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=4):
        parts_of_step.append(_examples_from_row(row))
        if len(parts_of_step) == accumulation:
            yield parts_of_step
            parts_of_step = []


def start_reader() -> Any:
    """Start the process that will read on this node, while its worker has other things to do.

    It takes as long to start as a small worker to build its model. Where one is idle already none
    is started, nor where it would not stay.

    Returns:
        a reference to wait for it by, or None.
    """
    if IDLE_ENDS_AFTER_MS not in os.environ:
        return None
    import ray

    return ray.remote(num_cpus=0, label_selector=_this_node())(_load_reading).remote()


def _load_reading() -> None:
    importlib.import_module("ray.data")


def _this_node() -> dict[str, str]:
    import ray

    return {NODE_LABEL: ray.get_runtime_context().get_node_id()}


def _one_reader() -> ActorPoolStrategy | TaskPoolStrategy:
    """Return how Ray Data runs the one process that reads; to start it costs more than all reading.

    Where the node keeps idle processes it does tasks, and the next run finds it. Elsewhere it is an
    actor, which stays for a run: a small machine would end it after a second without a task.
    """
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    return TaskPoolStrategy(1) if IDLE_ENDS_AFTER_MS in os.environ else ActorPoolStrategy(size=1)


def _rest_class() -> type[ExecutionCallback]:
    """Return what lets Ray Data's loop rest between its steps (ray 2.60).

    It runs in the process that trains, and as fast as it can while more is read than is taken.
    """
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class Rest(ExecutionCallback):
        def on_execution_step(self, executor: object) -> None:
            time.sleep(REST_S)

    return Rest


def track_readers_here() -> None:
    """Start, on this node, the one process of a cluster that Ray Data asks where actors are.

    Else the first reader starts it on its own node, once for the life of the cluster, and with that
    node all readers are lost, those of the workers that take its place too (ray 2.60).
    """
    from ray.data._internal.execution.node_trackers import actor_location

    actor_location.get_or_create_actor_location_tracker()


def plan_parts(fragments: Sequence[Fragment], num_rows: int) -> list[list[Piece]]:
    """Cut the rows of all fragments, in order, into parts of `num_rows`; the last may be short."""
    ends = np.cumsum([fragment.num_rows for fragment in fragments])
    total = int(ends[-1]) if len(ends) else 0
    return [
        _pieces(fragments, ends, start, min(start + num_rows, total))
        for start in range(0, total, num_rows)
    ]


def read_eval(
    prepared: Path, split: str, *, batch_size: int, rank: int, world_size: int
) -> Iterator[Examples]:
    """Read one rank's evaluation batches: every `world_size`-th of the fixed global batches."""
    files: dict[str, pq.ParquetFile] = {}
    parts = plan_parts(list_fragments(prepared, split), batch_size)
    for pieces in parts[rank::world_size]:
        table = read_pieces(pieces, files)
        assert table is not None
        yield eval_examples(table)


def train_examples(table: pa.Table | None) -> Examples:
    """Flatten rows of TRAIN_EXAMPLE; None gives no users."""
    if table is None:
        empty = np.zeros(0, np.int64)
        return Examples(empty, empty, empty, np.zeros(0, np.float32), empty, empty)
    items, lengths = flatten_lists(table["items"])
    return Examples(
        items=items,
        lengths=lengths,
        queries=flatten_lists(table["queries"])[0],
        weights=flatten_lists(table["weights"])[0].astype(np.float32),
        targets=np.zeros(0, np.int64),
        target_lengths=np.zeros(0, np.int64),
    )


def eval_examples(table: pa.Table) -> Examples:
    """Flatten rows of EVAL_EXAMPLE."""
    items, lengths = flatten_lists(table["history"])
    targets, target_lengths = flatten_lists(table["targets"])
    return Examples(
        items=items,
        lengths=lengths,
        queries=table["query"].to_numpy().astype(np.int64),
        weights=np.zeros(0, np.float32),
        targets=targets,
        target_lengths=target_lengths,
        user_ids=table[USER_ID].to_pylist(),
        is_cold=table["is_cold_user"].to_numpy(),
    )


def flatten_lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a column of lists, one after another, and the length of each list."""
    array = column.combine_chunks()
    lengths = np.asarray(array.value_lengths(), dtype=np.int64)
    values = array.flatten().to_numpy(zero_copy_only=False)
    return values if values.dtype == np.float32 else values.astype(np.int64), lengths


def planned_reads(plan: Sequence[Sequence[Piece]]) -> Datasource:
    """Return a Ray Data source with one row a part, PARTS_A_TASK of them a read task.

    The driver sends no data: a task gets its pieces and reads the row groups itself. (Ray's own
    `from_arrow` would first start a task of a whole CPU, which a small machine never has free
    beside its training workers.)
    """
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class PlannedReads(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            return [
                ReadTask(
                    partial(_read_parts, plan[start : start + PARTS_A_TASK]),
                    BlockMetadata(
                        num_rows=min(PARTS_A_TASK, len(plan) - start),
                        size_bytes=None,
                        exec_stats=None,
                        input_files=None,
                    ),
                )
                for start in range(0, len(plan), PARTS_A_TASK)
            ]

    return PlannedReads()


def _read_parts(parts: Sequence[Sequence[Piece]]) -> list[pa.Table]:
    """Read parts as one table of a row each, of flat arrays; runs in a Ray Data task."""
    files: dict[str, pq.ParquetFile] = {}
    read = [train_examples(read_pieces(pieces, files)) for pieces in parts]
    types = {name: pa.list_(pa.int32()) for name in ("items", "lengths", "queries")}
    types["weights"] = pa.list_(pa.float32())
    columns = {
        name: _list_array([getattr(examples, name) for examples in read], kind)
        for name, kind in types.items()
    }
    return [pa.table(columns)]


def _list_array(rows: Sequence[np.ndarray], kind: pa.ListType) -> pa.ListArray:
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int32)
    values = np.concatenate(rows).astype(kind.value_type.to_pandas_dtype())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _examples_from_row(row: pa.Table) -> Examples:
    names = ("items", "lengths", "queries", "weights")
    flat: dict[str, Any] = {name: flatten_lists(row[name])[0] for name in names}
    empty = np.zeros(0, np.int64)
    return Examples(**flat, targets=empty, target_lengths=empty)
