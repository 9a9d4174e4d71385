# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""One request for every user that a slate can be made for: with all that the data set knows of it.

Not the held-out requests of val and test, which stop before what they hold out. The one idea: the
shards of the three splits were cut from the same users, so that a user's latest history is found in
files of one number, and no shuffle is needed. Written once a data set, beside it, as a further
split that is read like the others.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.data.reading import flatten_lists
from recdiv_core.data.split import slices
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, TRAIN_EXAMPLE, USER_ID, Manifest
from recdiv_core.storage.claims import scratch

logger = logging.getLogger(__name__)

REQUESTS: Final = "requests"
"""Name of the split."""


def ensure_requests(prepared: Path, manifest: Manifest) -> None:
    """Write `requests/` where it is missing; Ray must run.

    A user's history is that of the latest split that holds the user, and behind it what that split
    holds out; of a user who is in train alone, the train events. (Held-out events that a split left
    out, those of other queries than its request, are not known here.)
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
        logger.info("%d users may be recommended to", num_users)
        if not target.is_dir():  # another driver may have been quicker
            work.rename(target)


def shard_names(prepared: Path) -> list[str]:
    """Return the names of the shards' files, which are the same in all splits."""
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
    """Return the requests of the users of one shard, each user once: EVAL_EXAMPLE, no targets."""
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
    """Put what is held out behind the history."""
    items, lengths = flatten_lists(table["history"])
    held_out, num_held_out = flatten_lists(table["targets"])
    ends = np.cumsum(lengths + num_held_out)
    starts = ends - lengths - num_held_out
    whole = np.empty(len(items) + len(held_out), np.int32)
    whole[slices(starts, lengths)[0]] = items
    whole[slices(starts + lengths, num_held_out)[0]] = held_out
    return _requests(table[USER_ID], whole, ends, table["is_cold_user"])


def _from_train(table: pa.Table) -> pa.Table:
    """Join the rows of a long user, each of which begins with the last item of the row before."""
    assert table.schema.names == TRAIN_EXAMPLE.names
    items, lengths = flatten_lists(table["items"])
    code = table[USER_ID].combine_chunks().dictionary_encode().indices.to_numpy()
    goes_on = np.zeros(len(code), dtype=np.bool_)
    goes_on[1:] = code[1:] == code[:-1]
    starts = np.cumsum(lengths) - lengths
    is_kept = np.ones(len(items), dtype=np.bool_)
    is_kept[starts[goes_on]] = False
    first = np.flatnonzero(~goes_on)
    ends = np.cumsum(np.add.reduceat(lengths - goes_on, first)) if len(first) else first
    users = table[USER_ID].take(pa.array(first))
    return _requests(users, items[is_kept], ends, pa.chunked_array([np.zeros(len(first), bool)]))


def _requests(
    users: pa.ChunkedArray, items: np.ndarray, ends: np.ndarray, is_cold: pa.ChunkedArray
) -> pa.Table:
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    values = pa.array(items, pa.int32())
    nothing = pa.ListArray.from_arrays(
        pa.array(np.zeros(len(offsets), np.int32)), pa.array([], pa.int32())
    )
    columns = [
        users,
        pa.ListArray.from_arrays(pa.array(offsets), values),
        nothing,
        pa.array(np.full(len(ends), NO_QUERY, np.int32)),
        is_cold,
    ]
    return pa.table(dict(zip(EVAL_EXAMPLE.names, columns, strict=True))).cast(EVAL_EXAMPLE)
