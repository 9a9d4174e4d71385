# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Read the slates of another system from files, and match them with a split.

Each held-out user has exactly one slate, which may be empty, so all systems are compared on the
same users. Unknown users, unknown items and repeated items are counted and logged. recdiv's own
slates come from making.py.

Legend: U users of the file that are held out, K slate length, V catalogue, N items listed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from recdiv_core.config import Config
from recdiv_core.data.batches import pad_targets
from recdiv_core.data.door import as_stored
from recdiv_core.data.reading import read_eval
from recdiv_core.errors import UserError
from recdiv_core.formats.files import TextFormat, list_files
from recdiv_core.formats.readers import cut_units, read_header, read_unit
from recdiv_core.formats.units import FILE_STRIDE, RawBatch, ReadUnit
from recdiv_core.metrics.slate_batch import Background
from recdiv_core.schema import NO_QUERY, USER_ID, read_manifest
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.scoring import Shown, without_seen
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

ITEM_IDS: Final = "item_ids"
SEPARATOR: Final = "|"
"""Text between two items of a slate in a CSV file or a workbook."""
COLUMNS: Final = {USER_ID: USER_ID, ITEM_IDS: ITEM_IDS}
DIAL: Final = "diversity"
"""Name of the folders in which `recommend` writes the slates of several dials."""
TEXT: Final = TextFormat(prefix="--slates ")


@dataclass(frozen=True)
class Matching:
    """Counts of how the file fits the split.

    Attributes:
        num_users: users with a slate in the file.
        num_unknown_users: users of the file that the split does not hold out; they are left out.
        num_users_without_slate: held-out users that the file lacks; they get empty slates.
        num_short_slates: slates with fewer than k known, distinct items.
        num_unknown_items: listed items that the catalogue does not have; they are left out.
        num_repeated_items: repetitions of an item within a slate; they are left out.
    """

    num_users: int
    num_unknown_users: int
    num_users_without_slate: int
    num_short_slates: int
    num_unknown_items: int
    num_repeated_items: int


@dataclass(frozen=True, eq=False)
class GivenSlates:
    """The slates of held-out users.

    Attributes:
        row_of: user_id -> row of `slates_UK`.
        slates_UK: int64 item_index, best first; -1 after the end.
        matching: counts of how the file fits the split.
    """

    row_of: Mapping[str, int]
    slates_UK: npt.NDArray[np.int64]
    matching: Matching

    def of_users(self, user_ids: Sequence[str]) -> torch.Tensor:
        """Return the slates of users, [B, K]; a user who is not in the file gets an empty slate."""
        row_B = np.array([self.row_of.get(user_id, -1) for user_id in user_ids], dtype=np.int64)
        slates_BK = self.slates_UK[np.maximum(row_B, 0)]
        slates_BK[row_B < 0] = -1
        return torch.from_numpy(slates_BK)


def read_given_slates(
    place: str | Path,
    prepared: Path,
    item_ids: pa.Array,
    split: str,
    *,
    k: int,
    pseudonymise: str = "",
) -> GivenSlates:
    """Read slates, match them with a split, and log unknown or repeated entries.

    `place` is a path, directory, glob or URI of files with `user_id` and `item_ids`. The first `k`
    known, distinct items of a slate are kept.

    Raises:
        UserError: the file cannot be read as slates, a user has several slates, or no user or item
            of the file is in the data.
    """
    table = read_table(place)
    users = as_stored(table[USER_ID].combine_chunks(), read_manifest(prepared), pseudonymise)
    table = table.set_column(0, USER_ID, users)
    found = select_slates(table, item_ids, held_out_users(prepared, split), k=k, name=str(place))
    for message in problems(found.matching, k=k):
        logger.warning("--slates %s: %s", place, message)
    return found


def read_table(place: str | Path) -> pa.Table:
    """Read `user_id` (string) and `item_ids` (lists of strings).

    Raises:
        UserError: the place is missing, a file is damaged or of an unknown format, a line is no
            row, or a column is missing or of the wrong type.
    """
    files = list_files(str(place), "--slates")
    grid = sorted(
        {value or "" for file in files for name, value in file.partitions if name == DIAL}
    )
    if grid:
        raise UserError(f"--slates {place} is a grid: give one of {DIAL}={f', {DIAL}='.join(grid)}")
    for file in files:
        header = read_header(file, "--slates", TEXT)
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise UserError(
                f"--slates {file.path} has no column {' and '.join(missing)}; it has "
                f"{', '.join(header)}"
            )
    batches = [
        _slates_of(batch, unit)
        for unit in cut_units(files, "--slates", TEXT)
        for batch in read_unit(unit, COLUMNS)
    ]
    return pa.concat_tables(batches).combine_chunks()


def _slates_of(batch: RawBatch, unit: ReadUnit) -> pa.Table:
    for position, _, reason in batch.broken:
        raise UserError(f"--slates {unit.path}: row {position % FILE_STRIDE}: {reason}")
    table = batch.table
    users, lists = table[USER_ID], table[ITEM_IDS]
    if unit.format in ("csv", "xlsx"):
        lists = pc.split_pattern(lists.cast(pa.string()), SEPARATOR)
    try:
        lists = lists.cast(pa.list_(pa.string()))
        return pa.table({USER_ID: users.cast(pa.string()), ITEM_IDS: lists})
    except pa.ArrowException:
        raise UserError(
            f"--slates {unit.path}: expected user_id as text and item_ids as lists of text, got "
            f"{users.type} and {lists.type}"
        ) from None


def held_out_users(prepared: Path, split: str) -> pa.Array:
    """Return the user ids of a split.

    Raises:
        UserError: the split holds no user.
    """
    files = sorted((prepared / split).glob("part-*.parquet"))
    columns = [pq.read_table(file, columns=[USER_ID])[USER_ID] for file in files]
    users = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    if not len(users):
        raise UserError(f"--split {split}: data.prepared={prepared} holds no {split} user")
    return users.combine_chunks()


def select_slates(
    table: pa.Table, item_ids: pa.Array, users: pa.Array, *, k: int, name: str
) -> GivenSlates:
    """Match slates with a catalogue and held-out users.

    For `table` see `read_table`.

    Raises:
        UserError: a user has several slates, or no user or item of the file is in the data.
    """
    own = _of_held_out(table, users, name)
    lists = own[ITEM_IDS].combine_chunks()
    lengths_U = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), dtype=np.int64)
    items_N = _item_numbers(lists.flatten(), item_ids, name)
    user_N = np.repeat(np.arange(len(lengths_U)), lengths_U)
    is_unknown_N = items_N < 0
    is_again_N = _is_again(user_N, items_N) & ~is_unknown_N
    is_kept_N = ~is_unknown_N & ~is_again_N
    kept_U = np.bincount(user_N[is_kept_N], minlength=len(lengths_U))
    return GivenSlates(
        {user_id: row for row, user_id in enumerate(own[USER_ID].to_pylist())},
        padded(items_N[is_kept_N], kept_U, k),
        Matching(
            num_users=table.num_rows,
            num_unknown_users=table.num_rows - own.num_rows,
            num_users_without_slate=len(users) - own.num_rows,
            num_short_slates=int((kept_U < k).sum()),
            num_unknown_items=int(is_unknown_N.sum()),
            num_repeated_items=int(is_again_N.sum()),
        ),
    )


def _of_held_out(table: pa.Table, users: pa.Array, name: str) -> pa.Table:
    """Return the rows of held-out users, one row for each."""
    if not table.num_rows:
        raise UserError(f"--slates {name} holds no user")
    own = table.filter(pc.is_in(table[USER_ID], users)).combine_chunks()
    if not own.num_rows:
        raise UserError(
            f"--slates {name}: {counted(table.num_rows, 'user')}, none held out in this split of "
            "data.prepared; compare its user_id with that of the click log"
        )
    num_repeated = pc.sum(pc.greater(own[USER_ID].value_counts().field("counts"), 1)).as_py()
    if num_repeated:
        raise UserError(
            f"--slates {name}: {counted(num_repeated, 'user')} with several slates; give each user "
            "one"
        )
    return own


def _item_numbers(listed: pa.Array, item_ids: pa.Array, name: str) -> npt.NDArray[np.int64]:
    """Return the item_index of each listed item, -1 = not in the catalogue."""
    items_N = np.asarray(pc.fill_null(pc.index_in(listed, item_ids), -1), dtype=np.int64)
    if len(items_N) and items_N.max() < 0:
        raise UserError(
            f"--slates {name}: no item of it is in the catalogue (the first is "
            f"{listed[0].as_py()!r}, the first of the catalogue {item_ids[0].as_py()!r})"
        )
    return items_N


def _is_again(user_N: np.ndarray, items_N: np.ndarray) -> np.ndarray:
    """Return [N] bool: the item occurs earlier in the same slate."""
    order_N = np.lexsort((np.arange(len(items_N)), items_N, user_N))
    is_again_N = np.zeros(len(items_N), dtype=np.bool_)
    same = (np.diff(user_N[order_N]) == 0) & (np.diff(items_N[order_N]) == 0)
    is_again_N[order_N[1:][same]] = True
    return is_again_N


def padded(
    values: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], width: int
) -> npt.NDArray[np.int64]:
    """Return ragged lists as rows of length `width`; long lists are cut, short ones end in -1."""
    user = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows = np.full((len(lengths), width), -1, dtype=np.int64)
    is_kept = place < width
    rows[user[is_kept], place[is_kept]] = values[is_kept]
    return rows


def problems(matching: Matching, *, k: int) -> list[str]:
    """Return a line for each count above 0, with the consequence.

    >>> problems(Matching(5, 2, 0, 0, 1, 0), k=10)
    ['2 users not held out in this split: left out', \
'1 listed item not in the catalogue: left out']
    """
    said = {
        "num_unknown_users": ("user", "not held out in this split: left out"),
        "num_users_without_slate": ("held-out user", "without a slate: counted as shown nothing"),
        "num_short_slates": ("slate", f"with fewer than eval.k={k} known items"),
        "num_unknown_items": ("listed item", "not in the catalogue: left out"),
        "num_repeated_items": ("listed item", "again in the same slate: the first one counts"),
    }
    counts: dict[str, int] = asdict(matching)
    return [
        f"{counted(counts[name], noun)} {text}"
        for name, (noun, text) in said.items()
        if counts[name]
    ]


def no_hit(metrics: Mapping[str, float], split: str, k: int) -> str:
    """Return a warning if no slate has a held-out item; else empty.

    Slates that are made of complete histories leave these items out.

    >>> no_hit({"hit_at_10": 0.25}, "test", 10)
    ''
    >>> no_hit({"hit_at_10": 0.0}, "test", 10)[:59]
    'no slate has an item that the test split holds out. Slates '
    """
    if metrics.get(f"hit_at_{k}", 1.0):
        return ""
    return (
        f"no slate has an item that the {split} split holds out. Slates for complete histories "
        f"leave such items out; make them for the histories before it, as `recommend --users "
        f"{split}` does"
    )


def shown_of_split(
    given: GivenSlates,
    dataset: Dataset,
    split: str,
    config: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Shown]:
    """Yield one rank's share of a split with the given slates, batch by batch.

    The targets follow `eval.filter_seen`, as for our own models, so both are compared on the same
    items. The rank of a target among all items is unknown, because there are no scores.
    """
    device = dataset.text_VH.device
    for examples in read_eval(
        dataset.prepared,
        split,
        batch_size=config.eval.batch_size,
        rank=rank,
        world_size=world_size,
        most=config.eval.max_users,
    ):
        user_S = torch.from_numpy(np.repeat(np.arange(len(examples.lengths)), examples.lengths))
        item_S = torch.from_numpy(examples.items)
        targets_BT = pad_targets(examples)
        if config.eval.filter_seen:
            targets_BT = without_seen(targets_BT, user_S, item_S, len(dataset.catalogue))
        yield Shown(
            examples,
            given.of_users(examples.user_ids).to(device),
            targets_BT.to(device),
            Background(
                user_S.to(device),
                item_S.to(device),
                has_query_B=torch.from_numpy(examples.queries != NO_QUERY).to(device),
            ),
        )
