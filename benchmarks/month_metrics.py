"""What the slates of a day are worth, and what a month of them shows; month.py calls it.

Slates are judged for all users of the shop, not only for those who visit. The judge of accuracy is
the appeal that the shop is built with (shop/appeal.py): clicks reward what was shown, and the
planted truth does not depend on any model. Shapes: U users, V items of the shop, K slate length.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.tastes import tastes_served
from recdiv_core.metrics.arrays import evaluate_slates
from recdiv_core.metrics.trend import Slope, slope
from recdiv_core.report.timeline_page import METRICS, Arm
from recdiv_core.shop.appeal import mean_appeal
from recdiv_core.shop.closed_loop import OpenShop
from recdiv_core.shop.generate import planted_truth
from recdiv_core.slates.dataset import Dataset

YOUNG: Final = 7
"""Days on sale of an item that counts as new."""
OF_SLATES: Final = ("coverage", "ild", "diversity_index", "narrowed", "gini")

Slates = Sequence[Sequence[str]]


class Judge:
    """The planted truth of a shop, and what is the same on all days.

    Args:
        shop: the shop.
        k: slate length.
    """

    def __init__(self, shop: OpenShop, k: int) -> None:
        self.shop, self.k = shop, k
        self.appeal_UV = mean_appeal(shop.shoppers, shop.goods)
        self.number = {item_id: v for v, item_id in enumerate(shop.goods.item_ids.tolist())}
        rows = planted_truth(shop.shoppers).to_pylist()
        self.tastes = {
            row["user_id"]: dict(zip(row["tastes"], row["weights"], strict=True)) for row in rows
        }

    def metrics(
        self, day: int, slates: Slates, histories: Slates, dataset: Dataset, *, unseen: bool
    ) -> dict[str, float]:
        """Return the metrics of the slates of all users on a day.

        Args:
            day: its number.
            slates: item_ids of each user, best first.
            histories: item_ids of each user, oldest first.
            dataset: data set of the model; its items are those on sale.
            unseen: whether slates leave out items of the history.
        """
        item_ids = dataset.catalogue.item_ids.to_pylist()
        row = {item_id: place for place, item_id in enumerate(item_ids)}
        slates_UK = np.full((len(slates), self.k), -1)
        for user, slate in enumerate(slates):
            slates_UK[user, : len(slate)] = [row[item_id] for item_id in slate]
        category_V = dataset.catalogue.table["category"].to_pylist()
        known = [list(dict.fromkeys(row[item_id] for item_id in own)) for own in histories]
        found = evaluate_slates(
            slates_UK,
            [[0]] * len(slates),
            k=self.k,
            embeddings=dataset.text_VH.numpy(),
            categories=category_V,
            histories=[own or [-1] for own in known],
        )
        number_V = np.array([self.number[item_id] for item_id in item_ids])
        arrival_V = self.shop.arrival_day[number_V]
        shown_V = np.bincount(slates_UK[slates_UK >= 0], minlength=len(item_ids))
        is_young_V = (arrival_V > 0) & (day - arrival_V < YOUNG)
        return {
            "true_ndcg": self._true_ndcg(slates_UK, number_V, known if unseen else []),
            **{name: found.get(f"{name}_at_{self.k}", math.nan) for name in OF_SLATES},
            "true_tastes": tastes_served(slates_UK, self.shop.user_ids, category_V, self.tastes),
            "new_items": float(shown_V[is_young_V].sum() / shown_V.sum()),
        }

    def _true_ndcg(
        self,
        slates_UK: npt.NDArray[np.int64],
        number_V: npt.NDArray[np.int64],
        seen: Sequence[Sequence[int]],
    ) -> float:
        """Return the summed discounted appeal of all slates over that of the best slates."""
        gain_UV = self.appeal_UV[:, number_V].copy()
        for user, items in enumerate(seen):
            gain_UV[user, list(items)] = 0
        discount_K = 1 / np.log2(np.arange(self.k) + 2)
        own_UK = np.take_along_axis(gain_UV, np.maximum(slates_UK, 0), axis=1) * (slates_UK >= 0)
        best_UK = -np.sort(-gain_UV, axis=1)[:, : self.k]
        return float((own_UK @ discount_K).sum() / (best_UK @ discount_K).sum())

    def first_places(self, day: int, slates: Slates) -> dict[str, int]:
        """Return the number of slates with each item that is new on this day."""
        new = self.shop.goods.item_ids[self.shop.arrival_day == day].tolist()
        return {item_id: sum(item_id in slate for slate in slates) for item_id in new}


def arm_of(name: str, colour: str, rows: Sequence[Mapping[str, Any]], part: str = "") -> Arm:
    """Return the curves of an arm; `part` = a key of the rows that holds its metrics."""
    days = [(row.get(part) or {}) if part else row for row in rows]
    values = {metric: [day.get(metric, math.nan) for day in days] for metric in METRICS}
    return Arm(name, colour, values, is_points=bool(part))


def slopes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the slope per day of each metric with its interval and direction."""
    found = {name: slope([row.get(name, math.nan) for row in rows]) for name in METRICS}
    return {name: _told(trend) for name, trend in found.items() if trend is not None}


def slopes_between(
    one: Sequence[Mapping[str, Any]], two: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the slopes of the differences of two arms, day by day: the arms are pairs."""
    pairs = list(zip(one, two, strict=True))
    names = [name for name in METRICS if name in one[0] and name in two[0]]
    found = {name: slope([a[name] - b[name] for a, b in pairs]) for name in names}
    return {name: _told(trend) for name, trend in found.items() if trend is not None}


def _told(trend: Slope) -> dict[str, Any]:
    return {
        "per_day": trend.per_day,
        "interval": [trend.low, trend.high],
        "direction": trend.direction,
    }


def yardstick_shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what an update keeps of a full retrain, and what it costs, over the days with both.

    Returns:
        `update_ndcg_share` (clicks of the newest window), `update_true_ndcg_share` (planted
        tastes) and `update_cost_share` (CPU seconds, summed).
    """
    both = [row for row in rows if row.get("yardstick")]
    if not both:
        return {}

    def ratio(mine: str, theirs: str) -> float:
        return sum(row[mine] for row in both) / sum(row["yardstick"][theirs] for row in both)

    return {
        "update_ndcg_share": ratio("ndcg_after", "ndcg"),
        "update_true_ndcg_share": ratio("true_ndcg_after", "true_ndcg"),
        "update_cost_share": ratio("cpu_s", "cpu_s"),
        "yardstick_days": len(both),
    }


def first_day_share(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many new items the month has, and how many had a place on their first day."""
    places = [count for row in rows for count in row["first_places"].values()]
    return {
        "new_items": len(places),
        "on_their_first_day": sum(count > 0 for count in places),
        "median_places": statistics.median(places) if places else 0,
    }


def draw_month(
    arms: Sequence[Arm], days: Sequence[int], path: Path, names: Sequence[str] = ()
) -> None:
    """Draw the arms over the month with their lines of least squares, as a small PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    names = names or ("coverage", "diversity_index", "ild", "true_ndcg")
    picture = Figure(figsize=(10.5, 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(picture)
    for place, name in enumerate(names, start=1):
        axes = picture.add_subplot(2, -(-len(names) // 2), place)
        for arm in arms:
            values = np.array(arm.values[name])
            known = np.isfinite(values)
            x, y = np.asarray(days)[known], values[known]
            if arm.is_points:
                axes.plot(x, y, "D", color=arm.colour, markersize=6, label=arm.name)
                continue
            trend = slope(arm.values[name])
            said = "" if trend is None else f"{trend.per_day:+.2g} a day"
            if trend is not None:
                said += f" [{trend.low:+.2g}, {trend.high:+.2g}]"
                axes.plot(x, np.polyval(np.polyfit(x, y, 1), x), "--", color=arm.colour, lw=1)
            axes.plot(x, y, "-o", color=arm.colour, markersize=3, label=f"{arm.name}: {said}")
        axes.set_title(METRICS[name].words, fontsize=9, loc="left")
        axes.set_xlabel("day of the month", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e5e7eb", linewidth=0.6)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.35 * (high - low))  # room for the legend
        axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= max(1.0, high)])
        axes.legend(frameon=False, fontsize=7.5, loc="upper left", ncols=1)
    picture.savefig(path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(path, optimize=True)
