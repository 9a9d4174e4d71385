# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""One request per user with the user's complete history, as a further split `requests/`.

The requests of val and test end before the held-out events; these do not. The one idea: a user has
the same shard number in all three splits, so the complete history is joined without a shuffle. The
split is written once per data set and read like the others.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.data.reading import flatten_lists, flatten_times
from recdiv_core.data.split import slices
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, TRAIN_EXAMPLE, USER_ID, Manifest
from recdiv_core.storage.claims import scratch
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

REQUESTS: Final = "requests"
"""Name of the split."""


def ensure_requests(prepared: Path, manifest: Manifest) -> None:
    """Write `requests/` if it is missing; Ray must run.

    A user's history is the history in the latest split with the user, followed by the targets of
    that split. For users in train alone it is the train events. Held-out events of other queries
    than the request's are in no split, so they are missing here.
    """
    import ray.data

    target = prepared / REQUESTS
    if target.is_dir():
        return
    with scratch(prepared) as place:
        work = place / REQUESTS
        work.mkdir()
        shards = [{"name": name} for name in shard_names(prepared)]
        written = ray.data.from_items(shards, override_num_blocks=max(1, len(shards))).map(
            cast("Any", _write_shard),
            fn_kwargs={
                "prepared": str(prepared),
                "work": str(work),
                "fragment_rows": manifest.fragment_rows,
            },
        )
        num_users = sum(row["num_users"] for row in written.iter_rows())
        logger.info("recommendations can be made for %s", counted(num_users, "user"))
        if not target.is_dir():  # another driver may have written it meanwhile
            work.rename(target)


def shard_names(prepared: Path) -> list[str]:
    """Return the file names of the shards, which are the same in all splits."""
    return sorted({p.name for s in ("train", "val", "test") for p in (prepared / s).glob("part-*")})


def _write_shard(
    row: dict[str, Any], *, prepared: str, work: str, fragment_rows: int
) -> dict[str, Any]:
    table = join_shard(Path(prepared), row["name"])
    pq.write_table(
        table, Path(work, row["name"]), fragment_rows, use_dictionary=False, write_statistics=False
    )
    return {"num_users": table.num_rows}


def join_shard(prepared: Path, name: str) -> pa.Table:
    """Return one EVAL_EXAMPLE row without targets for each user of a shard."""
    parts: list[pa.Table] = []
    known = pa.array([], pa.string())
    for split in ("test", "val", "train"):
        path = prepared / split / name
        if not path.is_file():
            continue
        table = pq.read_table(path).combine_chunks()
        table = table.filter(pc.invert(pc.is_in(table[USER_ID], known)))
        part = _from_train(table) if split == "train" else _from_held_out(table)
        known = pa.concat_arrays([known, part[USER_ID].combine_chunks()])
        parts.append(part)
    return pa.concat_tables(parts)


def _from_held_out(table: pa.Table) -> pa.Table:
    """Append the targets to the history."""
    items, lengths = flatten_lists(table["history"])
    held_out, num_held_out = flatten_lists(table["targets"])
    ends = np.cumsum(lengths + num_held_out)
    starts = ends - lengths - num_held_out
    of_history, of_targets = slices(starts, lengths)[0], slices(starts + lengths, num_held_out)[0]

    def join(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        whole = np.empty(len(before) + len(after), np.int64)
        whole[of_history], whole[of_targets] = before, after
        return whole

    times = flatten_times(table["history_times"]), flatten_times(table["target_times"])
    whole_times = None if times[0] is None or times[1] is None else join(times[0], times[1])
    return _requests(
        table[USER_ID], join(items, held_out), whole_times, ends, table["is_cold_user"]
    )


def _from_train(table: pa.Table) -> pa.Table:
    """Join the rows of each user; a further row begins with the last item of the previous one."""
    assert table.schema.names == TRAIN_EXAMPLE.names
    items, lengths = flatten_lists(table["items"])
    times = flatten_times(table["times"])
    code = table[USER_ID].combine_chunks().dictionary_encode().indices.to_numpy()
    goes_on = np.zeros(len(code), dtype=np.bool_)
    goes_on[1:] = code[1:] == code[:-1]
    starts = np.cumsum(lengths) - lengths
    is_kept = np.ones(len(items), dtype=np.bool_)
    is_kept[starts[goes_on]] = False
    first = np.flatnonzero(~goes_on)
    ends = np.cumsum(np.add.reduceat(lengths - goes_on, first)) if len(first) else first
    users = table[USER_ID].take(pa.array(first))
    is_cold = pa.chunked_array([np.zeros(len(first), bool)])
    kept_times = None if times is None else times[is_kept]
    return _requests(users, items[is_kept], kept_times, ends, is_cold)


def _requests(
    users: pa.ChunkedArray,
    items: np.ndarray,
    times: np.ndarray | None,
    ends: np.ndarray,
    is_cold: pa.ChunkedArray,
) -> pa.Table:
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    starts_of_nothing = pa.array(np.zeros(len(offsets), np.int32))
    list_type = EVAL_EXAMPLE.field("history_times").type

    def nothing(kind: pa.DataType) -> pa.ListArray:
        return pa.ListArray.from_arrays(starts_of_nothing, pa.array([], kind))

    no_times = pa.nulls(len(ends), list_type)
    columns = [
        users,
        pa.ListArray.from_arrays(offsets, pa.array(items.astype(np.int32))),
        nothing(pa.int32()),
        pa.array(np.full(len(ends), NO_QUERY, np.int32)),
        is_cold,
        no_times if times is None else pa.ListArray.from_arrays(offsets, pa.array(times)),
        no_times if times is None else nothing(pa.int64()),
    ]
    return pa.table(dict(zip(EVAL_EXAMPLE.names, columns, strict=True))).cast(EVAL_EXAMPLE)
