# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Requests of a file of queries: `recommend --queries` answers each row with a slate.

A row has a query, and may have the id of a user, a history and conditions of its own. The one idea:
requests are written as a small split with the text of each query, so parts, restarts and dials work
as for the users of a data set.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.config import Config
from recdiv_core.data.door import as_stored
from recdiv_core.data.requests import REQUESTS, shard_names
from recdiv_core.errors import UserError
from recdiv_core.formats.files import TextFormat, list_files
from recdiv_core.formats.readers import cut_units, find_columns, read_unit
from recdiv_core.formats.units import FILE_STRIDE, ROW, RawBatch, ReadUnit
from recdiv_core.formats.values import as_text, normalise_queries
from recdiv_core.models.baselines import READ_QUERIES
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, QUERY, USER_ID, Manifest
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

SPLIT: Final = "_requests"
"""Folder of the requests among the slates; readers of Parquet directories skip such names."""
HISTORY: Final = "history"
WHERE: Final = "where"
"""Column of the conditions of a request, as `eligibility.read_where` reads them."""
SEPARATOR: Final = "|"
"""Text between two items of a history in a CSV file or a workbook."""
TEXT: Final = TextFormat(prefix="--queries ")
GIVEN: Final = pa.schema(
    [
        pa.field(QUERY, pa.string()),
        pa.field(USER_ID, pa.string()),
        pa.field(HISTORY, pa.list_(pa.string())),
        pa.field(WHERE, pa.string()),
    ]
)
SHOWN_ROWS: Final = 3
"""Bad rows that a message names."""


@dataclass(frozen=True, eq=False)
class SearchRequests:
    """Rows of a file of queries.

    `table` has the columns GIVEN in the order of the file; queries are normalised and not null.
    """

    table: pa.Table
    sha256: str

    @property
    def names_users(self) -> bool:
        """Whether a row names a user and has no history of its own."""
        has_user = self.table[USER_ID].is_valid()
        return pc.any(pc.and_(has_user, self.table[HISTORY].is_null())).as_py()


def read_requests(place: str, check: Callable[[str], object] | None = None) -> SearchRequests:
    """Read requests from CSV, JSON Lines, Parquet or a workbook.

    Args:
        place: path, directory, glob or URI of files with `query`, and optionally `user_id`,
            `history` (item ids, oldest first, as a list or joined by `|`) and `where`.
        check: function that raises UserError for conditions (`where`) that are wrong.

    Raises:
        UserError: a file cannot be read, a column is missing, or a row is broken, has no query or
            wrong conditions.
    """
    files = list_files(place, "--queries")
    names = {name: name for name in GIVEN.names}
    columns = find_columns(files, names, [QUERY], "--queries", TEXT)
    bad: list[tuple[str, int, str]] = []
    parts = [
        _read_batch(batch, unit, bad, check)
        for unit in cut_units(files, "--queries", TEXT)
        for batch in read_unit(unit, columns)
    ]
    if bad:
        shown = "; ".join(f"{path}: row {row}: {why}" for path, row, why in bad[:SHOWN_ROWS])
        more = f"; and {len(bad) - SHOWN_ROWS} more rows" if len(bad) > SHOWN_ROWS else ""
        raise UserError(f"--queries {shown}{more}")
    table = pa.concat_tables(parts) if parts else GIVEN.empty_table()
    if not table.num_rows:
        raise UserError(f"--queries {place} has no row")
    digest = hashlib.sha256()
    for row in table.to_pylist():
        digest.update(repr(row).encode(errors="replace"))
    return SearchRequests(table.combine_chunks(), digest.hexdigest())


def with_stored_users(
    requests: SearchRequests, manifest: Manifest, pseudonymise: str
) -> SearchRequests:
    """Return requests with user ids as the data set holds them; see `as_stored`."""
    users = as_stored(requests.table[USER_ID].combine_chunks(), manifest, pseudonymise)
    place = requests.table.column_names.index(USER_ID)
    return replace(requests, table=requests.table.set_column(place, USER_ID, users))


def check_reads_queries(config: Config, num_queries: int) -> None:
    """Refuse to answer queries with a model whose scores ignore them.

    Raises:
        UserError: the model does not read queries.
    """
    kind = config.model.kind
    has_term = num_queries > 0 or any(term in READ_QUERIES for term in config.model.blend)
    if kind in READ_QUERIES or (kind == "neural" and has_term):
        return
    raise UserError(
        f"--queries: the model does not read queries (model.kind={kind}, "
        f"model.blend={list(config.model.blend)}, {num_queries} queries in the click log); allowed "
        f"kinds: {', '.join(READ_QUERIES)}, and neural if the click log or model.blend has queries"
    )


def _read_batch(
    batch: RawBatch,
    unit: ReadUnit,
    bad: list[tuple[str, int, str]],
    check: Callable[[str], object] | None,
) -> pa.Table:
    """Return the rows of a batch as GIVEN, and append the bad ones to `bad`."""
    table = batch.table
    bad += [(unit.path, at % FILE_STRIDE, reason) for at, _, reason in batch.broken]
    queries = normalise_queries(as_text(table[QUERY]))
    for at in table[ROW].filter(queries.is_null()).to_pylist():
        bad.append((unit.path, at % FILE_STRIDE, "the query is empty"))
    own = {QUERY: queries}
    own |= {name: as_text(table[name]) for name in (USER_ID, WHERE) if name in table.column_names}
    if HISTORY in table.column_names:
        own[HISTORY] = _as_lists(table[HISTORY])
    if WHERE in own and check is not None:
        wrong = _wrong_texts(own[WHERE], check)
        for at, text in zip(table[ROW].to_pylist(), own[WHERE].to_pylist(), strict=True):
            if text in wrong:
                bad.append((unit.path, at % FILE_STRIDE, wrong[text]))
    columns = [
        own[field.name] if field.name in own else pa.nulls(table.num_rows, field.type)
        for field in GIVEN
    ]
    return pa.table(columns, schema=GIVEN)


def _wrong_texts(texts: pa.Array, check: Callable[[str], object]) -> dict[str, str]:
    """Return the conditions that are wrong, and why."""
    wrong: dict[str, str] = {}
    for text in texts.unique().drop_null().to_pylist():
        try:
            check(text)
        except UserError as error:
            wrong[text] = str(error)
    return wrong


def _as_lists(column: pa.ChunkedArray) -> pa.Array:
    """Return histories as lists; text is cut at SEPARATOR, and nothing stays null."""
    kind = GIVEN.field(HISTORY).type
    array = column.combine_chunks()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return array.cast(kind)
    return pc.split_pattern(as_text(array), SEPARATOR).cast(kind)


def write_requests(
    requests: SearchRequests, out: Path, prepared: Path, item_ids: pa.Array, fragment_rows: int
) -> None:
    """Write requests as the split SPLIT of `out`: EVAL_EXAMPLE, the text of the query, conditions.

    The history is the row's own, else the complete history of its user, else empty. Items that the
    catalogue does not have are left out, and counted in a warning. `requests/` of the data set must
    exist if a row names a user without a history.
    """
    table = requests.table
    wanted = table[USER_ID].filter(table[HISTORY].is_null()).drop_null().unique()
    of_users = _histories_of_users(prepared, wanted)
    if lacking := len(wanted) - len(of_users):
        logger.warning("--queries: %s without a history in data.prepared", counted(lacking, "user"))
    index_of = {item_id: index for index, item_id in enumerate(item_ids.to_pylist())}
    rows: list[dict[str, Any]] = []
    num_unknown = 0
    nothing: dict[str, Any] = {HISTORY: [], "history_times": []}
    for row in table.to_pylist():
        own = of_users.get(row[USER_ID], nothing)
        if row[HISTORY] is not None:
            known = [index_of[item] for item in row[HISTORY] if item in index_of]
            num_unknown += len(row[HISTORY]) - len(known)
            own = {HISTORY: known, "history_times": None if known else []}
        request = {"targets": [], "query": NO_QUERY, "is_cold_user": not own[HISTORY]}
        rows.append({USER_ID: row[USER_ID] or "", **own, **request, "target_times": None})
    if num_unknown:
        said = counted(num_unknown, "item")
        logger.warning("--queries: %s of histories not in the catalogue: left out", said)
    if any(row["history_times"] is None for row in rows):  # all times are known, or none counts
        for row in rows:
            row["history_times"] = None
    written = pa.Table.from_pylist(rows, EVAL_EXAMPLE).append_column("text", table[QUERY])
    if table[WHERE].null_count < len(table):
        written = written.append_column(WHERE, table[WHERE].fill_null(""))
    (out / SPLIT).mkdir(exist_ok=True)
    path = out / SPLIT / "part-00000.parquet"
    fresh = path.with_name(f".{path.name}")
    pq.write_table(written, fresh, fragment_rows)
    fresh.replace(path)


def _histories_of_users(prepared: Path, users: pa.ChunkedArray) -> Mapping[str, dict[str, Any]]:
    """Return the complete histories of some users, with their times."""
    found: dict[str, dict[str, Any]] = {}
    if not len(users):
        return found
    columns = [USER_ID, HISTORY, "history_times"]
    for name in shard_names(prepared):
        table = pq.read_table(prepared / REQUESTS / name, columns=columns)
        for row in table.filter(pc.is_in(table[USER_ID], users)).to_pylist():
            found[row.pop(USER_ID)] = row
    return found
