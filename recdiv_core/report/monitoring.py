"""Monitor a shop: judge the newest day of the log and the newest slates, and raise alarms.

evaluation/alarms.py has the signals. All events of the prepared data set count, held-out ones too.
Memory: an array per event of the log. Shapes: N events, V catalogue, G categories.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recdiv_core.config import Config
from recdiv_core.data.catalogue import Catalogue, load_catalogue, load_tokens
from recdiv_core.data.reading import flatten_lists
from recdiv_core.data.sale_dates import ALWAYS, sale_dates
from recdiv_core.data.shards import check_staged, list_shards, staged_file
from recdiv_core.data.versions import open_version
from recdiv_core.errors import UserError
from recdiv_core.evaluation.alarms import (
    FACTORS,
    FEWEST_DAYS,
    LIMITS,
    Signal,
    judge_day,
    judge_slates,
    judge_texts,
)
from recdiv_core.evaluation.days import LATER, count_days, count_new_texts, top_share
from recdiv_core.models.text_encoder import load_tokenizer, resolve_encoder
from recdiv_core.report.inspection import judge_directory
from recdiv_core.schema import DAY_US, ITEM_ID, Manifest, check_files, read_manifest
from recdiv_core.slates.dataset import Dataset, as_labels, load_dataset
from recdiv_core.slates.files import list_parts
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

EPOCH: Final = datetime.date(1970, 1, 1)


@dataclass(frozen=True, eq=False)
class Shop:
    """A prepared data set without its text vectors: what the log alone is judged with.

    Attributes:
        prepared: directory of the data set.
        manifest: its manifest.
        catalogue: its items.
    """

    prepared: Path
    manifest: Manifest
    catalogue: Catalogue


def monitor(
    config: Config,
    *,
    slates: Path | None = None,
    before: Path | None = None,
    day: str = "",
    num_days: int = 28,
    limits: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Judge a day of the log against the days before it, and slates against those before.

    Args:
        config: `data.prepared` is read.
        slates: newest slates, as `recommend` writes them; None = judge the log alone.
        before: slates before, for comparison; given if and only if `slates` is.
        day: date in UTC, such as 2026-05-31; empty = the last whole day of the log.
        num_days: days before it to compare with.
        limits: replaces entries of LIMITS.

    Returns:
        `{"prepared", "day", "days_before", "fired", "signals", "not_judged"}`: the names of the
        signals that fired, all signals by name, and by name what was not judged with the reason.

    Raises:
        UserError: no data set, an unknown limit or day, slates without slates before.
    """
    limits = {**LIMITS, **_checked(limits or {})}
    if (slates is None) != (before is None):
        raise UserError("SLATES and --before: give both, or neither")
    prepared = open_version(config.data.prepared)
    manifest = read_manifest(prepared)
    check_files(prepared, manifest)
    parts = None if slates is None or before is None else (list_parts(slates), list_parts(before))
    shop = Shop(prepared, manifest, load_catalogue(prepared))
    torch.set_num_threads(config.scaling.threads_per_worker)
    judged, num_before, signals, not_judged = _judge_log(shop, day, num_days, limits)
    if slates is not None and before is not None and parts is not None:
        dataset = load_dataset(prepared)  # needs the text vectors, which a training makes
        signals += _judge_slates(dataset, (slates, parts[0]), (before, parts[1]), limits)
    else:
        not_judged["slates"] = "no slates are given"
    fired = [signal for signal in signals if signal.fired]
    for signal in fired:
        logger.warning("%s: %s", signal.name, signal.message)
    if not fired:
        logger.info("quiet: none of %d signals fired", len(signals))
    return {
        "prepared": str(prepared),
        "day": judged,
        "days_before": num_before,
        "fired": [signal.name for signal in fired],
        "signals": {signal.name: signal.as_json() for signal in signals},
        "not_judged": not_judged,
    }


def _checked(limits: Mapping[str, float]) -> Mapping[str, float]:
    for name, limit in limits.items():
        if name not in LIMITS:
            raise UserError(f"--limit {name}: allowed are {', '.join(LIMITS)}")
        least = 1 if name in FACTORS else 0
        if not limit >= least:
            allowed = "a factor of 1 or more" if least else "allowed is 0 or more"
            raise UserError(f"--limit {name}={limit:g}: {allowed}")
    return limits


def _judge_log(
    shop: Shop, day: str, num_days: int, limits: Mapping[str, float]
) -> tuple[str, int, list[Signal], dict[str, str]]:
    """Return the judged date, the number of days before it, its signals, and what is not judged."""
    events = read_events(shop.prepared, shop.manifest)
    if events is None:
        if day:
            raise UserError(f"--day {day}: the log of data.prepared={shop.prepared} has no times")
        return "", 0, [], {"log": "the click log has no times"}
    number, prices = _judged_day(day, events[0]), _log_prices(shop.catalogue)
    days = count_days(*events, _parts(shop.catalogue), prices, number, num_days)
    item_ids = shop.catalogue.table[ITEM_ID].to_pylist()
    signals = judge_day(days, shop.catalogue.categories, item_ids, limits)
    num_before, not_judged = len(days.events_D), dict[str, str]()
    if not signals:
        not_judged["log"] = (
            f"{counted(num_before, 'day')} with events before, {FEWEST_DAYS} are needed"
        )
    elif np.isnan(prices).all():
        not_judged["prices"] = "the catalogue has no prices"
    if signals:
        more, reason = _judge_texts(shop, events[0], events[2], number, num_days, limits)
        signals += more
        not_judged |= {"unknown_tokens": reason} if reason else {}
    return _date(number), num_before, signals, not_judged


def _judge_texts(
    shop: Shop,
    day_N: np.ndarray,
    item_N: np.ndarray,
    judged: int,
    num_days: int,
    limits: Mapping[str, float],
) -> tuple[list[Signal], str]:
    """Return the signal of the texts of new items, or the reason why there is none."""
    encoder = shop.manifest.encoder.name
    source = resolve_encoder(encoder)
    if not Path(source).is_dir():
        return [], f"the encoder {encoder} is not on this machine"
    tokenizer = load_tokenizer(source)
    unknown = cast("int | None", tokenizer.unk_token_id)
    if unknown is None:
        return [], "the encoder has no unknown token"
    dates = sale_dates(shop.catalogue.table)
    sold_from_V = np.where(dates.from_V == ALWAYS, LATER, dates.from_V // DAY_US)
    tokens_2V = _count_tokens(shop, unknown, tokenizer.all_special_ids)
    texts = count_new_texts(day_N, item_N, sold_from_V, tokens_2V, judged, num_days)
    found = judge_texts(*texts, limits)
    return found, "" if found else "no item is new on this day"


def _count_tokens(shop: Shop, unknown: int, special: Sequence[int]) -> np.ndarray:
    """Return the number of unknown tokens, and of all but special tokens, [2, V] int64."""
    tokens = load_tokens(shop.prepared)
    flat_M, lengths_V = tokens.flat, tokens.lengths
    item_M = np.repeat(np.arange(len(lengths_V)), lengths_V)
    is_unknown_M = flat_M == unknown
    is_text_M = is_unknown_M | ~np.isin(flat_M, special)
    size = len(lengths_V)
    masks = (is_unknown_M, is_text_M)
    return np.stack([np.bincount(item_M[mask], minlength=size) for mask in masks])


def _date(number: int) -> str:
    return str(EPOCH + datetime.timedelta(days=number))


def read_events(
    prepared: Path, manifest: Manifest
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Read day, number of the user and item_index of all events; None for a log without times.

    The staged events are read, because examples leave out held-out events: repeated ones, and
    those of other queries than the request's.

    Raises:
        UserError: the data set keeps no events, because an earlier version of recdiv made it.
    """
    if not manifest.has_timestamps:
        return None
    check_staged(prepared)
    shards = [staged_file(prepared, shard) for shard in list_shards(prepared)]
    days, users, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    num_users = 0
    for path in shards:
        table = pq.read_table(path, columns=["items", "times"]).combine_chunks()
        item_N, lengths = flatten_lists(table["items"])
        days.append(flatten_lists(table["times"])[0] // DAY_US)
        items.append(item_N)
        users.append(np.repeat(np.arange(num_users, num_users + table.num_rows), lengths))
        num_users += table.num_rows
    return np.concatenate(days), np.concatenate(users), np.concatenate(items)


def _judged_day(day: str, day_N: np.ndarray) -> int:
    """Return the number of the day to judge; the last day of a log may not be whole.

    Raises:
        UserError: no date, or a day without an event.
    """
    if not len(day_N):
        raise UserError("data.prepared holds no event")
    if not day:
        found = np.unique(day_N)
        return int(found[-2] if len(found) > 1 else found[-1])
    try:
        number = (datetime.date.fromisoformat(day) - EPOCH).days
    except ValueError:
        raise UserError(f"--day {day}: allowed is a date such as 2026-05-31") from None
    if number not in day_N:
        first, last = _date(int(day_N.min())), _date(int(day_N.max()))
        raise UserError(f"--day {day}: no event; the log has days from {first} to {last}")
    return number


def _parts(catalogue: Catalogue) -> np.ndarray:
    """Return the share of each category in each item, [V, G] float64; rows sum to 1."""
    num_items = len(catalogue)
    items = torch.arange(num_items)
    item_N, label_N, part_N = (
        each.numpy() for each in as_labels(catalogue.category_lists).spread(items, torch.float64)
    )
    parts_VG = np.zeros((num_items, len(catalogue.categories)))
    np.add.at(parts_VG, (item_N, label_N), part_N)
    return parts_VG


def _log_prices(catalogue: Catalogue) -> np.ndarray:
    """Return the log of each item's price, [V] float64; NaN = unknown or not above 0."""
    table = catalogue.table
    if "price" not in table.column_names:
        return np.full(len(table), np.nan)
    price_V = table["price"].cast(pa.float64()).to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(price_V > 0, np.log(price_V), np.nan)


def _judge_slates(
    dataset: Dataset,
    now: tuple[Path, list[Path]],
    before: tuple[Path, list[Path]],
    limits: Mapping[str, float],
) -> list[Signal]:
    parts_VG = _parts(dataset.catalogue)
    found: list[tuple[dict[str, float], np.ndarray]] = []
    for directory, parts in (now, before):
        judged, _, _, exposure_V = judge_directory(dataset, directory, parts)
        figures = judged["figures"]
        shares = {
            "narrowed": figures["narrowed"],
            "same_slates": figures["same_slate"],
            "coverage": figures["coverage"],
            "top_shown": top_share(exposure_V),
        }
        found.append((shares, exposure_V @ parts_VG))
    (new, new_G), (old, old_G) = found
    return judge_slates(new, old, new_G, old_G, dataset.catalogue.categories, limits)
