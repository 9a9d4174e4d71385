# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Inspect a directory of slates: is everybody shown the same, and who is left out.

Not what counts as sameness (sameness.py) nor the page (inspect_page.py). Slates may come from
anywhere: what is needed is user_id and item_ids. Memory: the slates of all users, and as many items
of each history.

Legend: U users, K slate length, V catalogue.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from recdiv_core.config import Config
from recdiv_core.data.plan import flatten_lists
from recdiv_core.data.requests import join_shard, shard_names
from recdiv_core.data.versions import open_version
from recdiv_core.errors import UserError
from recdiv_core.evaluation.sameness import (
    Flags,
    Integers,
    Sameness,
    Shelf,
    describe,
    latest_distinct,
    look,
    padded,
    shelves,
    starved,
)
from recdiv_core.metrics import exposure
from recdiv_core.report.inspection_page import draw
from recdiv_core.report.slate_metrics import user_segments
from recdiv_core.schema import ITEM_ID, USER_ID, check_files, read_manifest
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.files import list_parts
from recdiv_core.slates.recommend import PLAN
from recdiv_core.storage.given_paths import local_path, output_path
from recdiv_core.storage.whole_files import write_whole

logger = logging.getLogger(__name__)

SHOWN_CLUSTERS: Final = 10
SHOWN_GROUPS: Final = 5
PAGE: Final = "_inspect.html"


@dataclass(frozen=True, eq=False)
class Histories:
    """What users chose themselves, row by row of the slates.

    Attributes:
        items_UK: distinct items, the latest first, -1 behind the end.
        length_U: events.
        is_cold_U: no event in the train window.
    """

    items_UK: Integers
    length_U: Integers
    is_cold_U: Flags


def inspect(
    config: Config, slates: Path, *, before: Path | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Inspect slates, beside earlier ones of the same shop where `before` gives them.

    Args:
        config: `data.prepared`.
        slates: directory that `recommend` wrote, or one of like parts.
        before: another one, older: has it narrowed since?
        out: page to write; None = `_inspect.html` beside the slates.

    Returns:
        `{"slates", "num_users", "k", "verdict", "figures", "segments", "near_identical",
        "same_slates", "starved", "before", "page"}`; shares are in [0, 1].

    Raises:
        UserError: no slates there, items or data that are not of this shop.
    """
    page = output_path(out or local_path(slates, "SLATES") / PAGE, "--out").absolute()
    prepared = open_version(config.data.prepared)
    check_files(prepared, read_manifest(prepared))
    found = {place: list_parts(place) for place in (slates, before) if place is not None}
    dataset = load_dataset(prepared)
    torch.set_num_threads(config.scaling.threads_per_worker)
    own, shown, own_shelves = _inspect_one(dataset, slates, found[slates])
    earlier = None
    if before is not None:
        earlier = _inspect_one(dataset, before, found[before])[0]["figures"]
    categories = dataset.catalogue.categories
    result = {
        "slates": str(slates),
        **own,
        "near_identical": _clusters(dataset, *shown),
        "same_slates": shown[1].group_sizes[:SHOWN_GROUPS].tolist(),
        "starved": [
            {"category": categories[s.category], "demand": s.demand, "exposure": s.exposure}
            for s in starved(own_shelves)
        ],
        "before": earlier,
        "page": str(page),
    }
    write_whole(page, draw(result, own_shelves, categories))
    logger.info("%s", result["verdict"])
    return result


def _inspect_one(
    dataset: Dataset, place: Path, parts: Sequence[Path]
) -> tuple[dict[str, Any], tuple[Integers, Sameness], list[Shelf]]:
    """Return figures and segments; the slates and what was found in them; demand and exposure."""
    user_ids, slates_UK = read_slates(parts, dataset.catalogue.table[ITEM_ID])
    histories = read_histories(dataset.prepared, _users_of(place), user_ids, slates_UK.shape[1])
    num_items = len(dataset.catalogue)
    exposure_V = np.bincount(slates_UK[slates_UK >= 0], minlength=num_items)
    seen = look(slates_UK, histories.items_UK, dataset.traits, dataset.text_VH.numpy(), exposure_V)
    groups = user_segments(histories.length_U, histories.is_cold_U)
    everybody = np.ones(len(slates_UK), dtype=np.bool_)
    figures = describe(seen, everybody)
    counts = torch.from_numpy(exposure_V)
    k = slates_UK.shape[1]
    verdict = figures.pop("verdict")
    figures |= {
        "coverage": exposure.coverage(counts),
        "gini": exposure.gini(counts),
        "personalisation": exposure.personalisation(counts, len(slates_UK), k),
    }
    segments = {name: describe(seen, users) for name, users in groups.items() if name != "all"}
    own = {
        "num_users": figures.pop("num_users"),
        "k": k,
        "verdict": verdict,
        "figures": figures,
        "segments": segments,
    }
    found = shelves(exposure_V, dataset.catalogue.popularity_V, dataset.categories)
    return own, (slates_UK, seen), found


def read_slates(parts: Sequence[Path], item_ids: pa.ChunkedArray) -> tuple[pa.Array, Integers]:
    """Read the parts of a directory of slates.

    Returns:
        user_ids; slates_UK item_index, -1 behind the end.

    Raises:
        UserError: columns that are missing, an item that the catalogue has not, a user twice, no
            user at all.
    """
    tables = [_read_part(path) for path in parts]
    table = pa.concat_tables(tables).combine_chunks()
    if not table.num_rows:
        raise UserError(f"SLATES {parts[0].parent} holds no user")
    lists = table["item_ids"].combine_chunks()
    flat = lists.flatten()
    items = pc.index_in(flat, item_ids.combine_chunks())
    if items.null_count:
        unknown = flat.filter(pc.is_null(items))
        raise UserError(
            f"SLATES {parts[0].parent}: {len(unknown)} items are not in the catalogue of "
            f"data.prepared, the first one {unknown[0].as_py()!r}"
        )
    users = table[USER_ID].combine_chunks()
    if len(users.unique()) < len(users):
        raise UserError(f"SLATES {parts[0].parent}: {len(users) - len(users.unique())} users twice")
    lengths = np.asarray(lists.value_lengths(), dtype=np.int64)
    return users, padded(items.to_numpy().astype(np.int64), lengths, int(lengths.max(initial=1)))


def _read_part(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, columns=[USER_ID, "item_ids"])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as slates: {error}") from None


def _users_of(place: Path) -> str:
    """Return whom slates are of; a directory of other origin: of everybody."""
    for plan in (place / PLAN, place.parent / PLAN):
        if plan.is_file():
            return str(json.loads(plan.read_text(encoding="utf-8")).get("users", "all"))
    return "all"


def read_histories(prepared: Path, users: str, user_ids: pa.Array, k: int) -> Histories:
    """Read the histories of users, in their order; who is not in the data has none.

    Args:
        prepared: data set.
        users: `all`, or a split.
        user_ids: whose.
        k: distinct items to keep.
    """
    found = Histories(
        np.full((len(user_ids), k), -1, dtype=np.int64),
        np.zeros(len(user_ids), dtype=np.int64),
        np.ones(len(user_ids), dtype=np.bool_),
    )
    for name in shard_names(prepared):
        if users == "all":
            table = join_shard(prepared, name)
        elif (prepared / users / name).is_file():
            table = pq.read_table(prepared / users / name)
        else:
            continue
        row = pc.index_in(table[USER_ID].combine_chunks(), user_ids)
        is_asked = np.asarray(row.is_valid())
        rows = row.drop_null().to_numpy()
        items, lengths = flatten_lists(table["history"])
        found.items_UK[rows] = latest_distinct(items, lengths, k)[is_asked]
        found.length_U[rows] = lengths[is_asked]
        found.is_cold_U[rows] = table["is_cold_user"].to_numpy()[is_asked]
    return found


def _clusters(dataset: Dataset, slates_UK: Integers, found: Sameness) -> list[dict[str, Any]]:
    """Return the clusters that most slates hold two of, with titles."""
    clusters_UK = np.sort(np.where(slates_UK >= 0, found.cluster_V[slates_UK], -1), axis=1)
    is_again = (clusters_UK[:, 1:] == clusters_UK[:, :-1]) & (clusters_UK[:, 1:] >= 0)
    user, place = np.nonzero(is_again)
    pairs = np.unique(np.stack([user, clusters_UK[user, place + 1]]), axis=1)
    names, num_slates = np.unique(pairs[1], return_counts=True)
    order = np.argsort(-num_slates, kind="stable")[:SHOWN_CLUSTERS]
    titles = dataset.catalogue.table["title"]
    return [
        {
            "titles": [
                str(titles[int(item)])
                for item in np.flatnonzero(found.cluster_V == names[place])[:SHOWN_GROUPS]
            ],
            "num_items": int((found.cluster_V == names[place]).sum()),
            "num_slates": int(num_slates[place]),
        }
        for place in order
    ]
