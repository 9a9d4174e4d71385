"""The planted tastes of the built-in shop as the judge of slates; fronts.py prints the result.

Logged clicks reward what the shop showed. The generator also writes what each user likes
(`truth/` of the prepared data set). So slates can be measured against the tastes themselves: the
share of a user's tastes, by weight, that has an item in the slate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq


def planted_tastes(prepared: Path) -> dict[str, dict[str, float]]:
    """Return user_id -> category path -> weight; empty for a shop that is not built in."""
    if not (prepared / "truth").exists():
        return {}
    table = pq.read_table(prepared / "truth", columns=["user_id", "tastes", "weights"])
    return {
        row["user_id"]: dict(zip(row["tastes"], row["weights"], strict=True))
        for row in table.to_pylist()
    }


def tastes_served(
    slates_UK: npt.NDArray[np.integer],
    user_ids: Sequence[str],
    category_V: Sequence[str],
    tastes: dict[str, dict[str, float]],
) -> float:
    """Return the mean share of the users' tastes that their slates serve, in [0, 1].

    Args:
        slates_UK: item_index, -1 = no item.
        user_ids: of the rows.
        category_V: category path of each item, such as "Fashion > Shoes > Boots".
        tastes: see `planted_tastes`; a taste is a path or the start of one.
    """
    shares: list[float] = []
    for slate_K, user_id in zip(slates_UK, user_ids, strict=True):
        shown = {category_V[item] + " > " for item in slate_K if item >= 0}
        served = [
            weight
            for taste, weight in tastes[user_id].items()
            if any(path.startswith(taste + " > ") for path in shown)
        ]
        shares.append(sum(served) / sum(tastes[user_id].values()))
    return float(np.mean(shares))
