# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""One request per user with the user's complete history, as a further split `requests/`.

The requests of val and test end before the held-out events; these do not. The one idea: a user has
the same shard number in the staged events and in all splits, so there is no shuffle. The split is
written once per data set and read like the others.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.data.shards import check_staged, staged_file
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, USER_ID, Manifest
from recdiv_core.storage.claims import scratch
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

REQUESTS: Final = "requests"
"""Name of the split."""


def ensure_requests(prepared: Path, manifest: Manifest) -> None:
    """Write `requests/` if it is missing; Ray must run.

    It has the users of the splits. A history has all events of its user, also those that are in no
    example: held-out events that repeat an item, or that have another query than the request.

    Raises:
        UserError: the data set keeps no events.
    """
    import ray.data

    target = prepared / REQUESTS
    if target.is_dir():
        return
    check_staged(prepared)
    with scratch(prepared) as place:
        work = place / REQUESTS
        work.mkdir()
        shards = [{"name": name} for name in shard_names(prepared)]
        written = ray.data.from_items(shards, override_num_blocks=max(1, len(shards))).map(
            cast("Any", _write_shard),
            fn_kwargs={
                "prepared": str(prepared),
                "work": str(work),
                "has_times": manifest.has_timestamps,
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
    row: dict[str, Any], *, prepared: str, work: str, has_times: bool, fragment_rows: int
) -> dict[str, Any]:
    table = join_shard(Path(prepared), row["name"], has_times=has_times)
    pq.write_table(
        table, Path(work, row["name"]), fragment_rows, use_dictionary=False, write_statistics=False
    )
    return {"num_users": table.num_rows}


def join_shard(prepared: Path, name: str, *, has_times: bool) -> pa.Table:
    """Return one EVAL_EXAMPLE row without targets for each user of a shard.

    Without times, the staged events have order numbers in their place, which are left out.
    """
    in_train, held_out = _users(prepared, name, "train"), _users(prepared, name, "val", "test")
    shard = int(Path(name).stem.removeprefix("part-"))
    staged = pq.read_table(staged_file(prepared, shard), columns=[USER_ID, "items", "times"])
    users = pa.concat_arrays([in_train, held_out]).unique()
    staged = staged.filter(pc.is_in(staged[USER_ID], users)).combine_chunks()
    num_users = staged.num_rows
    nothing = pa.array([[]] * num_users, pa.list_(pa.int32()))
    columns = {
        USER_ID: staged[USER_ID],
        "history": staged["items"],
        "targets": nothing,
        "query": pa.array(np.full(num_users, NO_QUERY)),
        "is_cold_user": pc.invert(pc.is_in(staged[USER_ID], in_train)),
        "history_times": staged["times"] if has_times else pa.nulls(num_users),
        "target_times": nothing if has_times else pa.nulls(num_users),
    }
    return pa.table(columns).select(EVAL_EXAMPLE.names).cast(EVAL_EXAMPLE)


def _users(prepared: Path, name: str, *splits: str) -> pa.Array:
    """Return the users of a shard in some splits."""
    paths = [path for split in splits if (path := prepared / split / name).is_file()]
    parts = [pq.read_table(path, columns=[USER_ID])[USER_ID] for path in paths]
    return pa.concat_arrays([pa.array([], pa.string()), *(p.combine_chunks() for p in parts)])
