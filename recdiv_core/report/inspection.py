# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Inspect a directory of slates: is everybody shown the same, and which categories are left out.

Not the counts (evaluation/sameness.py) nor the page (inspection_page.py). Slates may come from any
system: all they need is user_id and item_ids. A row with a column `query` is a request, and a user
may make several. Memory: all slates, and as many items of each history.

Legend: U users or requests, K slate length, V catalogue.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from recdiv_core.config import Config
from recdiv_core.data.door import as_stored
from recdiv_core.data.reading import flatten_lists
from recdiv_core.data.requests import join_shard, shard_names
from recdiv_core.data.shards import check_staged
from recdiv_core.data.versions import open_version
from recdiv_core.errors import UserError
from recdiv_core.evaluation.sameness import (
    Integers,
    describe,
    latest_distinct,
    look,
    shelves,
    starved,
)
from recdiv_core.metrics import exposure
from recdiv_core.report.inspection_page import inspection_page
from recdiv_core.report.slate_metrics import Histories, user_segments
from recdiv_core.schema import ITEM_ID, QUERY, USER_ID, check_files, read_manifest
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.files import list_parts
from recdiv_core.slates.given import padded
from recdiv_core.slates.recommend import PLAN
from recdiv_core.slates.search_requests import SPLIT
from recdiv_core.storage.given_paths import local_path, output_path
from recdiv_core.storage.whole_files import write_whole
from recdiv_core.wording import DERIVED_CATEGORIES, counted

logger = logging.getLogger(__name__)

SHOWN_CLUSTERS: Final = 10
SHOWN_GROUPS: Final = 5
PAGE: Final = "_inspect.html"


def inspect(
    config: Config, slates: Path, *, before: Path | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Inspect slates, and compare them with older slates of the same shop where `before` is given.

    Args:
        config: `data.prepared` is read.
        slates: Directory that `recommend` wrote, or one with the same kind of files.
        before: Directory of older slates.
        out: Page to write; None = `_inspect.html` in the directory of the slates.

    Returns:
        `{"slates", "of", "num_users", "k", "verdict", "figures", "segments", "near_identical",
        "same_slates", "starved", "before", "page"}`; shares are in [0, 1]. `of` says what a slate
        is for and `num_users` counts: users or requests.

    Raises:
        UserError: there are no slates, or they do not belong to this shop.
    """
    parts = list_parts(local_path(slates, "SLATES"))
    page = output_path(out or slates / PAGE, "--out").absolute()
    prepared = open_version(config.data.prepared)
    check_files(prepared, read_manifest(prepared))
    parts_before = None if before is None else list_parts(before)
    dataset = load_dataset(prepared)
    torch.set_num_threads(config.scaling.threads_per_worker)
    now, clusters, same_slates, exposure_V = judge_directory(dataset, slates, parts)
    earlier = None
    if before is not None and parts_before is not None:
        earlier = judge_directory(dataset, before, parts_before)[0]["figures"]
    categories = dataset.catalogue.categories
    note = DERIVED_CATEGORIES if dataset.manifest.categories_from == "texts" else ""
    found = shelves(exposure_V, dataset.catalogue.popularity_V, dataset.categories)
    result = {
        "slates": str(slates),
        **now,
        "near_identical": clusters,
        "same_slates": same_slates,
        "starved": [
            {"category": categories[s.category], "demand": s.demand, "exposure": s.exposure}
            for s in starved(found)
        ],
        "before": earlier,
        "page": str(page),
    }
    write_whole(page, inspection_page(result, found, categories, note))
    logger.info("%s", result["verdict"])
    return result


def judge_directory(
    dataset: Dataset, directory: Path, parts: Sequence[Path]
) -> tuple[dict[str, Any], list[dict[str, Any]], list[int], Integers]:
    """Judge the slates of a directory.

    Returns:
        metrics and segments, near-identical items, sizes of same slates, exposure [V].
    """
    user_ids, slates_UK, of = read_slates(parts, dataset.catalogue.table[ITEM_ID])
    num_users, k = slates_UK.shape
    requests = _requests_of(directory)
    if requests is not None:
        histories = read_request_histories(requests, num_users, k)
    else:
        user_ids = as_stored(user_ids, dataset.manifest)
        histories = read_histories(dataset.prepared, _users_of(directory), user_ids, k)
    exposure_V = np.bincount(slates_UK[slates_UK >= 0], minlength=len(dataset.catalogue))
    if not exposure_V.any():
        raise UserError(
            f"SLATES {directory}: {counted(num_users, 'slate')}, all empty: nothing to inspect"
        )
    found = look(slates_UK, histories.items_UK, dataset.traits, dataset.text_VH.numpy(), exposure_V)
    groups = user_segments(histories)
    metrics = describe(found, np.ones(num_users, dtype=np.bool_))
    counts = torch.from_numpy(exposure_V)
    now = {
        "of": of,
        "num_users": metrics.pop("num_users"),
        "k": k,
        "verdict": metrics.pop("verdict"),
        "figures": metrics
        | {
            "coverage": exposure.coverage(counts),
            "gini": exposure.gini(counts),
            "personalisation": exposure.personalisation(counts, num_users, k),
        },
        "segments": {
            name: describe(found, users) for name, users in groups.items() if name != "all"
        },
    }
    sizes = found.group_sizes[:SHOWN_GROUPS].tolist()
    return now, _clusters(dataset, slates_UK, found.cluster_V), sizes, exposure_V


def read_slates(parts: Sequence[Path], item_ids: pa.ChunkedArray) -> tuple[pa.Array, Integers, str]:
    """Read the parts of a directory of slates.

    Returns:
        user_ids; slates_UK with item_index, -1 behind the end; what the rows are for: `users`, or
        `requests` if each has a query.

    Raises:
        UserError: a column is missing, an item is not in the catalogue, a user has several slates
            without a query, or there is no slate.
    """
    directory = parts[0].parent
    table = pa.concat_tables([_read_part(path) for path in parts]).combine_chunks()
    if not table.num_rows:
        raise UserError(f"SLATES {directory} holds no slate")
    lists = table["item_ids"].combine_chunks()
    flat = lists.flatten()
    items = pc.index_in(flat, item_ids.combine_chunks())
    if items.null_count:
        unknown = flat.filter(pc.is_null(items))
        raise UserError(
            f"SLATES {directory}: {counted(len(unknown), 'listed item')} not in the catalogue of "
            f"data.prepared, e.g. {unknown[0].as_py()!r}"
        )
    users = table[USER_ID].combine_chunks()
    of = "requests" if QUERY in table.column_names else "users"
    repeated = pc.sum(pc.greater(users.value_counts().field("counts"), 1)).as_py()
    if repeated and of == "users":
        raise UserError(
            f"SLATES {directory}: {counted(repeated, 'user')} with several slates; give each user "
            "one, or the column query if a row answers a query"
        )
    lengths = np.asarray(lists.value_lengths(), dtype=np.int64)
    slates_UK = padded(items.to_numpy().astype(np.int64), lengths, int(lengths.max(initial=1)))
    return users, slates_UK, of


def _read_part(path: Path) -> pa.Table:
    try:
        columns = [USER_ID, "item_ids"]
        more = [QUERY] if QUERY in pq.read_schema(path).names else []
        return pq.read_table(path, columns=[*columns, *more])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as slates: {error}") from None


def _plan_place(directory: Path) -> Path | None:
    """Return where `recommend` began these slates; None = another system made them."""
    places = (directory, directory.parent)  # of a grid of dials
    return next((place for place in places if (place / PLAN).is_file()), None)


def _users_of(directory: Path) -> str:
    """Return the split whose users have the slates; `all` for slates of another system."""
    place = _plan_place(directory)
    if place is None:
        return "all"
    return str(json.loads((place / PLAN).read_text(encoding="utf-8")).get("users", "all"))


def _requests_of(directory: Path) -> pa.Table | None:
    """Return the requests that `recommend --queries` answered; None = slates are for users."""
    place = _plan_place(directory)
    if place is None or not (place / SPLIT).is_dir():
        return None
    return pq.read_table(place / SPLIT, columns=["history", "is_cold_user"])


def read_request_histories(requests: pa.Table, num_slates: int, k: int) -> Histories:
    """Return the histories of requests, which are in the order of their slates.

    Raises:
        UserError: there are fewer slates than requests.
    """
    if num_slates < requests.num_rows:
        raise UserError(
            f"SLATES: {num_slates} of {counted(requests.num_rows, 'request')} answered; the same "
            "`recdiv recommend` makes the others"
        )
    items, lengths = flatten_lists(requests["history"])
    is_cold_U = requests["is_cold_user"].to_numpy()
    return Histories(latest_distinct(items, lengths, k), lengths, is_cold_U)


def read_histories(prepared: Path, users: str, user_ids: pa.Array, k: int) -> Histories:
    """Read the histories of users, in their order; a user who is not in the data has none.

    `k` distinct items of each user are kept. A user may be there several times.
    """
    distinct = user_ids.unique()
    found = Histories(
        np.full((len(distinct), k), -1, dtype=np.int64),
        np.zeros(len(distinct), dtype=np.int64),
        np.ones(len(distinct), dtype=np.bool_),
    )
    if users == "all":
        check_staged(prepared)
    for name in shard_names(prepared):
        if users == "all":
            table = join_shard(prepared, name, has_times=False)
        elif (prepared / users / name).is_file():
            table = pq.read_table(prepared / users / name)
        else:
            continue
        row = pc.index_in(table[USER_ID].combine_chunks(), distinct)
        is_asked = np.asarray(row.is_valid())
        rows = row.drop_null().to_numpy()
        items, lengths = flatten_lists(table["history"])
        found.items_UK[rows] = latest_distinct(items, lengths, k)[is_asked]
        found.length_U[rows] = lengths[is_asked]
        found.is_cold_U[rows] = table["is_cold_user"].to_numpy()[is_asked]
    place_U = pc.index_in(user_ids, distinct).to_numpy()
    return Histories(found.items_UK[place_U], found.length_U[place_U], found.is_cold_U[place_U])


def _clusters(dataset: Dataset, slates_UK: Integers, cluster_V: Integers) -> list[dict[str, Any]]:
    """Return the clusters that most slates hold two items of, with titles."""
    clusters_UK = np.sort(np.where(slates_UK >= 0, cluster_V[slates_UK], -1), axis=1)
    is_again = (clusters_UK[:, 1:] == clusters_UK[:, :-1]) & (clusters_UK[:, 1:] >= 0)
    user, column = np.nonzero(is_again)
    pairs = np.unique(np.stack([user, clusters_UK[user, column + 1]]), axis=1)
    names, num_slates = np.unique(pairs[1], return_counts=True)
    titles = dataset.catalogue.table["title"]
    found: list[dict[str, Any]] = []
    for index in np.argsort(-num_slates, kind="stable")[:SHOWN_CLUSTERS]:
        items = np.flatnonzero(cluster_V == names[index])
        found.append(
            {
                "titles": [str(titles[int(item)]) for item in items[:SHOWN_GROUPS]],
                "num_items": len(items),
                "num_slates": int(num_slates[index]),
            }
        )
    return found
