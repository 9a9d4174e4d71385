"""One arm of the month of the closed loop: its days, in a directory that a later call continues.

month.py runs the arms and tells what they show. A day is whole once its row is in rows.json; a day
that was interrupted is lived again, with the same random numbers.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks import nightly
from benchmarks.month_metrics import Judge
from recdiv_core.config import Config, override
from recdiv_core.data.append import append
from recdiv_core.data.clicklog import prepare
from recdiv_core.data.versions import point
from recdiv_core.shop.closed_loop import OpenShop, clicks, draw_day, new_items, open_shop
from recdiv_core.shop.goods import DAY_MS, START_MS
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.storage.whole_files import write_json
from recdiv_core.updating.hold import choose_serving, levels_of, reached
from recdiv_core.updating.plan import Plan, training_config
from tune_spaces import FURTHER, WARM


@dataclass(frozen=True)
class Size:
    """Size of the shop and of the month.

    Attributes:
        users: number of users.
        items: number of items, those included that arrive later.
        before: days of the log with random slates, before any model.
        burn_in: days of the loop at w = 0, before the month.
        days: days of the month.
        visits: mean visits of a user per day.
        discovery: share of the visits of the month that also browse a shelf.
        every: days between two yardsticks; 0 = none.
        unseen: whether slates leave out items that the user has clicked.
        seed: random seed of the shop and of the trainings.
    """

    users: int = 500
    items: int = 1000
    before: int = 30
    burn_in: int = 7
    days: int = 30
    visits: float = 0.3
    discovery: float = 0.1
    every: int = 5
    unseen: bool = False
    seed: int = 0


QUICK: Final = Size(burn_in=2, days=8, every=2)
COMMON: Final = {
    "data.name": "month",
    "data.num_shards": 1,
    "split.val_days": 2,
    "split.test_days": 1,
    "train.warmup_steps": 20,
    "scaling.num_workers": 1,
}
ARMS: Final[Mapping[str, Mapping[str, Any]]] = {
    "with": {
        "loss.diversity_weight": 0.65,
        "loss.diversity": {"category_entropy": 1.0, "coverage": 24.0},
        "rerank.method": "msd",
        "rerank.diversity": 0.15,
        "rerank.rules": ["draw 1 of is_new=true for 20 % of slates"],
    },
    "without": {"loss.diversity_weight": 0.0, "eval.dials": []},
}
PLAN: Final = Plan("month", False, 1, 0.5, {}, 1.0)
"""The defaults of `recdiv update`: one epoch at half the learning rate."""


class Loop:
    """One arm of the month, in its directory.

    Args:
        home: directory of the arm.
        size: of the month.
        name: of the arm.
        source: directory with the log, data set and model that the arm starts from.
        first_day: first day of the arm, counted from the first day of the log.
    """

    def __init__(self, home: Path, size: Size, name: str, source: Path, first_day: int) -> None:
        self.home, self.size, self.name, self.first_day = home, size, name, first_day
        self.shop = shop_of(size)
        self.config = override(config_of(size), ARMS[name])
        self.judge = Judge(self.shop, self.config.eval.k)
        self.rows: list[dict[str, Any]] = []
        path = home / "rows.json"
        if path.is_file():
            self.rows = json.loads(path.read_text())
            if self.rows:  # a day that was interrupted may have moved on
                point(self.home / "shop", self.home / self.rows[-1]["data"])
        else:
            self._start(source)

    @property
    def day(self) -> int:
        """Number of the next day, counted from the first day of the log."""
        return self.first_day + len(self.rows)

    @property
    def model(self) -> Path:
        """Checkpoint of the champion of the next day."""
        return self.home / f"model-{self.day}"

    def _start(self, source: Path) -> None:
        """Copy the log, the data set and the model of the days before, and train it further."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        for name in ("log", "items"):
            shutil.copytree(source / name, self.home / name)
        version = (source / "shop").resolve()
        shutil.copytree(version, self.home / "shop.versions" / version.name)
        (self.home / "shop").symlink_to(Path("shop.versions") / version.name)
        further = {**FURTHER, "train.init_from": str(source / f"model-{self.first_day}")}
        trained = self._train(self.config, further, self.model.name)
        write_json(self.home / "levels.json", levels_of(trained.ways[0].val, self.config.eval.k))
        write_json(self.home / "rows.json", [])

    def _train(
        self, config: Config, settings: Mapping[str, Any], name: str, data: str = "shop"
    ) -> nightly.Trained:
        place = self.home / name
        shutil.rmtree(place, ignore_errors=True)
        prepared = (self.home / data).resolve()
        return nightly.train(override(config, {**settings, "data.prepared": str(prepared)}), place)

    def step(self) -> dict[str, Any]:
        """Live a day: make slates, let users click, update the model at night; keep a row."""
        day = draw_day(self.shop, self.day)
        model = self.model
        metrics, slates = self.slates(model, "shop")
        chosen = [slates[user] for user in day.users]
        log = clicks(self.shop, day, numbers(self.judge, chosen))
        pq.write_table(log, self.home / "log" / f"day-{self.day:03d}.parquet")
        row: dict[str, Any] = {
            "day": self.day,
            **metrics,
            "clicks": len(log) / len(day.users),
            "first_places": self.judge.first_places(self.day, slates),
        }
        cpu = time.process_time()
        self._append()
        took = {"append": time.process_time() - cpu}
        prepared = (self.home / "shop").resolve()
        row["ndcg"] = ndcg(nightly.judge(model, prepared), self.config)
        cpu = time.process_time()
        tuned = training_config(self.config, PLAN, model, "month")
        trained = self._train(tuned, {}, f"model-{self.day + 1}")
        served = self._serve(trained)
        took["train"] = time.process_time() - cpu
        row["served"] = served
        row |= {"ndcg_after": ndcg(trained.test, self.config), "cpu_s": sum(took.values())}
        row["took_s"] = took
        number = len(self.rows) + 1
        if self.name == "with" and self.size.every and number % self.size.every == 0:
            row["true_ndcg_after"] = self.slates(trained.checkpoint, "shop", 1)[0]["true_ndcg"]
            row["yardstick"] = self.yardstick()
        row["data"] = str(prepared.relative_to(self.home.resolve()))
        self.rows.append(row)
        write_json(self.home / "rows.json", self.rows, indent=1)
        shutil.rmtree(model)
        return row

    def _serve(self, trained: nightly.Trained) -> dict[str, Any]:
        """Choose the re-ranking of a candidate that holds the levels of the first day."""
        levels = json.loads((self.home / "levels.json").read_text())
        objective = self.config.eval.objective_at_k
        chosen = choose_serving(trained.ways, levels, objective)
        if chosen.settings:
            nightly.serve_with(trained.checkpoint, chosen.settings)
        return {**chosen.settings, "reached": reached(chosen.val, levels)}

    def _append(self) -> None:
        """Append the clicks of the day, and the items that are new on the next day."""
        number = self.day
        given = {
            "data.base": str(self.home / "shop"),
            "data.clicks": str(self.home / "log" / f"day-{number:03d}.parquet"),
        }
        fresh = new_items(self.shop, number + 1, number + 1)
        if len(fresh):
            given["data.items"] = str(self.home / "items" / f"day-{number + 1:03d}.parquet")
            pq.write_table(fresh, given["data.items"])
        append(override(self.config, given))

    def slates(
        self, model: Path, data: str, later: int = 0
    ) -> tuple[dict[str, float], list[list[str]]]:
        """Return the slates of all users and their metrics, by a model on a data set."""
        prepared = (self.home / data).resolve()
        histories, times = read_histories(self.home / "log", self.shop, self.day + later)
        day = self.day + later
        slates = nightly.make_slates(model, prepared, histories, times, date_of(day))
        unseen = self.config.eval.filter_seen
        dataset = load_dataset(prepared)
        return self.judge.metrics(day, slates, histories, dataset, unseen=unseen), slates

    def yardstick(self) -> dict[str, float]:
        """Prepare and train from scratch on the same days; return metrics and CPU seconds."""
        for name in ("scratch", "scratch.versions"):
            place = self.home / name
            place.unlink() if place.is_symlink() else shutil.rmtree(place, ignore_errors=True)
        cpu = time.process_time()
        prepare(override(self.config, given_of(self.home, "scratch")), on_ray=False)
        took = time.process_time() - cpu
        nightly.copy_texts((self.home / "shop").resolve(), (self.home / "scratch").resolve())
        cpu = time.process_time()
        base = train_base(
            self.config, (self.home / "scratch").resolve(), self.home / "scratch-base"
        )
        further = {**FURTHER, "train.init_from": str(base.checkpoint)}
        trained = self._train(self.config, further, "scratch-model", "scratch")
        took += time.process_time() - cpu
        metrics, _ = self.slates(trained.checkpoint, "scratch", 1)
        return {"ndcg": ndcg(trained.test, self.config), **metrics, "cpu_s": took}


def date_of(day: int) -> str:
    """Return the date of a day of the shop: the time of its requests."""
    return str(np.datetime64(START_MS + day * DAY_MS, "ms").astype("datetime64[D]"))


def shop_of(size: Size) -> OpenShop:
    """Return the shop of a month."""
    return open_shop(
        size.users, size.items, seed=size.seed, visits=size.visits, discovery=size.discovery
    )


def config_of(size: Size) -> Config:
    """Return the settings that the arms share."""
    return override(Config(), {**COMMON, "eval.filter_seen": size.unseen, "seed": size.seed})


def given_of(home: Path, out: str) -> dict[str, str]:
    """Return the settings of a preparation of all files."""
    return {
        "data.clicks": str(home / "log"),
        "data.items": str(home / "items"),
        "data.out": str(home / out),
    }


def ndcg(metrics: Mapping[str, float], config: Config) -> float:
    """Return NDCG at the slate length."""
    return metrics[f"ndcg_at_{config.eval.k}"]


def numbers(judge: Judge, slates: Sequence[Sequence[str]]) -> npt.NDArray[np.int64]:
    """Return slates as numbers of the shop's items, [N, K]; -1 = no item."""
    found = np.full((len(slates), judge.k), -1)
    for row, slate in enumerate(slates):
        found[row, : len(slate)] = [judge.number[item_id] for item_id in slate]
    return found


def read_histories(
    log: Path, shop: OpenShop, before: int
) -> tuple[list[list[str]], list[list[int]]]:
    """Return the items of each user before a day, oldest first, and their times in microseconds."""
    place = {user_id: row for row, user_id in enumerate(shop.user_ids)}
    items: list[list[str]] = [[] for _ in place]
    times: list[list[int]] = [[] for _ in place]
    for path in (log / f"day-{number:03d}.parquet" for number in range(before)):
        columns = pq.read_table(path, columns=["user_id", "item_id", "timestamp"]).to_pydict()
        for user_id, item_id, time_ms in zip(*columns.values(), strict=True):
            items[place[user_id]].append(item_id)
            times[place[user_id]].append(1000 * time_ms)
    return items, times


def train_base(config: Config, prepared: Path, place: Path) -> nightly.Trained:
    """Train the base model of the space `tradeoff`, at w = 0."""
    shutil.rmtree(place, ignore_errors=True)
    plain = {"loss.diversity_weight": 0.0, "rerank.method": "none", "rerank.diversity": 0.0}
    return nightly.train(override(config, {**plain, **WARM, "data.prepared": str(prepared)}), place)
