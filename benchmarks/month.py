"""A month of the built-in shop with its feedback loop on: what is shown decides what is clicked.

    python -m benchmarks.month runs/month
    python -m benchmarks.month runs/month --minutes 6
    python -m benchmarks.month runs/month-quick --quick

Each day every visiting user gets a slate of the current champion, and clicks by planted tastes and
position (recdiv_core/shop/closed_loop.py). Each night the model is updated with the steps of
`recdiv update`, in this process (nightly.py). The arms see the same visits and random numbers:

    with       a trial of the space `tradeoff`: w = 0.65, its mix for broad slates, and `msd 0.15`;
               the rule `draw 1 of is_new=true for 20 % of slates` introduces new items
    without    the same model and updates with w = 0, no re-ranking and no rule

Before the month the loop runs for a week with a model trained at w = 0. Both arms start from that
week's last model and its log, with the five further epochs of `tradeoff`. On some days the
yardstick of the arm `with` is measured: a preparation and a training from scratch on the same days.
Slates may hold items that the user has clicked (`eval.filter_seen=false`), so a loop can close;
with --unseen they may not. Costs are CPU seconds of this process. No gate is asked: every candidate
becomes the champion. A directory that holds a part of the month is continued; --minutes ends the
call after the day in which so much time has passed. Prints one JSON line, and writes month.html and
month.png.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from benchmarks import month_metrics, nightly
from benchmarks.month_arm import ARMS, QUICK, Loop, Size, config_of, given_of, shop_of, train_base
from recdiv_core.config import override
from recdiv_core.data.clicklog import prepare
from recdiv_core.report import plots
from recdiv_core.report.timeline_page import timeline_page
from recdiv_core.shop.closed_loop import clicks, draw_day, new_items, random_slates

logger = logging.getLogger("benchmarks.month")


def make_base(home: Path, size: Size) -> None:
    """Write the days before the loop, prepare them and train the first model, once."""
    if (home / f"model-{size.before}").is_dir():
        return
    shutil.rmtree(home, ignore_errors=True)
    for name in ("log", "items"):
        (home / name).mkdir(parents=True)
    shop = replace(shop_of(size), discovery=1.0)
    config = config_of(size)
    for number in range(size.before):
        day = draw_day(shop, number)
        log = clicks(shop, day, random_slates(shop, day, config.eval.k))
        pq.write_table(log, home / "log" / f"day-{number:03d}.parquet")
    pq.write_table(new_items(shop, 0, size.before), home / "items" / "day-000.parquet")
    prepare(override(config, given_of(home, "shop")), on_ray=False)
    prepared = (home / "shop").resolve()
    nightly.encode_texts(prepared)
    trained = train_base(config, prepared, home / "unfinished")
    trained.checkpoint.rename(home / f"model-{size.before}")


def run(home: Path, size: Size, names: Sequence[str], *, minutes: float) -> list[Loop]:
    """Continue the arms, day by day in turn, until the month or the time ends."""
    started = time.monotonic()
    home.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    make_base(home / "base", size)
    early = Loop(home / "burn-in", size, "without", home / "base", size.before)
    while len(early.rows) < size.burn_in:
        if time.monotonic() - started > 60 * minutes:
            return []
        tell(early.step(), "before the month")
    first_day = size.before + size.burn_in
    loops = [Loop(home / name, size, name, early.home, first_day) for name in names]
    while any(len(loop.rows) < size.days for loop in loops):
        if time.monotonic() - started > 60 * minutes:
            break
        loop = min(loops, key=lambda each: len(each.rows))
        tell(loop.step(), loop.name)
    return loops


def tell(row: Mapping[str, Any], name: str) -> None:
    """Log a day."""
    shown = {key: round(row[key], 4) for key in ("true_ndcg", *month_metrics.OF_SLATES)}
    logger.info("%s: day %d: %s", name, row["day"], shown)


def summary(loops: Sequence[Loop], size: Size) -> dict[str, Any]:
    """Return the result of the days that all arms have."""
    num_days = min((len(loop.rows) for loop in loops), default=0)
    rows = {loop.name: loop.rows[:num_days] for loop in loops}
    result: dict[str, Any] = {"days": num_days, "size": asdict(size)}
    if "with" in rows:
        result |= month_metrics.yardstick_shares(rows["with"])
    result["slopes"] = {name: month_metrics.slopes(own) for name, own in rows.items()}
    result["first_day"] = {name: month_metrics.first_day_share(own) for name, own in rows.items()}
    if len(rows) > 1 and num_days:
        result["between"] = month_metrics.slopes_between(rows["with"], rows["without"])
    return result


def draw(home: Path, loops: Sequence[Loop], result: Mapping[str, Any]) -> None:
    """Write the page and the picture."""
    num_days = result["days"]
    colours = {"with": plots.ACCURATE, "without": plots.KNEE}
    names = {"with": "with regularisers", "without": "without"}
    arms = [
        month_metrics.arm_of(names[loop.name], colours[loop.name], loop.rows[:num_days])
        for loop in loops
    ]
    own = loops[0].rows[:num_days]
    arms.append(month_metrics.arm_of("retrained from scratch", plots.INK, own, "yardstick"))
    days = list(range(1, num_days + 1))
    size = result["size"]
    page = timeline_page(
        [str(day) for day in days],
        arms,
        title="A month with the feedback loop on",
        meta=f"built-in shop, {size['users']} users, {size['items']} items, {num_days} days",
        notes=["What is shown decides what is clicked. Both arms see the same visits."],
    )
    (home / "month.html").write_text(page, encoding="utf-8")
    month_metrics.draw_month(arms, days, home / "month.png")


def main() -> None:
    """Continue the month and print what it shows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("home", type=Path, help="directory of the month")
    parser.add_argument("--quick", action="store_true", help="8 days")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many")
    parser.add_argument("--unseen", action="store_true", help="leave out items of the history")
    parser.add_argument("--users", type=int, default=Size.users)
    parser.add_argument("--items", type=int, default=Size.items)
    parser.add_argument("--discovery", type=float, default=Size.discovery)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(message)s")
    logger.setLevel(logging.INFO)
    size = replace(
        QUICK if args.quick else Size(),
        users=args.users,
        items=args.items,
        discovery=args.discovery,
        unseen=args.unseen,
        seed=args.seed,
    )
    with contextlib.redirect_stdout(sys.stderr):
        loops = run(args.home.absolute(), size, list(ARMS), minutes=args.minutes)
        result = summary(loops, size)
        if result.get("days"):
            draw(args.home, loops, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
