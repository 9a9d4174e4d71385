"""Every name in `data.columns` is looked for in the log or in the catalogue, and does something."""

import json
from pathlib import Path

import numpy as np
import pytest

from recdiv_core.config import ColumnsConfig, Config, override
from recdiv_core.data import events, items
from recdiv_core.errors import UserError
from recdiv_core.formats import readers
from recdiv_core.formats.files import list_files
from recdiv_core.schema import (
    CATALOGUE_OPTIONAL,
    CATALOGUE_REQUIRED,
    CLICK_LOG_REQUIRED,
)

LOG = events.READ
ITEMS = (*CATALOGUE_REQUIRED, *CATALOGUE_OPTIONAL)

EVENT = {
    "user_id": "u1",
    "item_id": "i1",
    "timestamp": "2024-01-01T00:00:00",
    "event": "cart",
    "query": "shoe",
    "session_id": "s1",
    "position": 3,
    "rating": 2.0,
}
ITEM = {
    "item_id": "i1",
    "title": "red shoe",
    "category": "Shoes",
    "brand": "Acme",
    "colour": "red",
    "price": 9.5,
    "rating": 4.5,
    "image": "shoe.png",
    "available_from": "2023-01-01",
    "available_until": "2025-01-01",
}


def renamed(row: dict[str, object], name: str) -> dict[str, object]:
    return {"theirs" if key == name else key: value for key, value in row.items()}


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole_log(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Return what is taken of a log in which every column has its own name."""
    return read_log(tmp_path_factory.mktemp("log"), EVENT)


@pytest.fixture(scope="module")
def whole_items(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Return what is taken of a catalogue in which every column has its own name."""
    return read_items(tmp_path_factory.mktemp("items"), ITEM)


def read_log(tmp_path: Path, row: dict[str, object], **columns: str) -> list[object]:
    """Return all that is taken of a log of an event, and of the same with a low rating."""
    low = row | {name: 1.0 for name, value in row.items() if value == EVENT["rating"]}
    path = write(tmp_path / "log.jsonl", row, low)
    values = {f"data.columns.{name}": theirs for name, theirs in columns.items()}
    config = override(Config(), {"data.min_rating": 2.0, "data.events": ["click", "cart"]} | values)
    catalogue = items.read_catalogue(
        list_files(str(write(tmp_path / "items.jsonl", ITEM)), "data.items"), Config()
    )
    log = events.open_log(list_files(str(path), "data.clicks"), catalogue.item_ids, config)
    (batch,) = readers.read_unit(log.units[0], log.columns)
    kept, rejected, counts, seen = events.classify_rows(batch, log, catalogue.item_ids, config)
    positions = np.asarray(seen.positions_N).tolist()
    return [kept.to_pylist(), rejected.num_rows, dict(counts.dropped), positions]


def read_items(tmp_path: Path, row: dict[str, object], **columns: str) -> list[object]:
    values = {f"data.columns.{name}": theirs for name, theirs in columns.items()}
    files = list_files(str(write(tmp_path / "items.jsonl", row)), "data.items")
    return items.read_catalogue(files, override(Config(), values)).table.to_pylist()


def test_every_name_is_of_a_column_of_the_log_or_of_the_catalogue():
    assert set(ColumnsConfig.model_fields) == {*LOG, *ITEMS}
    assert set(events.READ) == set(LOG)
    assert set(EVENT) == set(LOG)
    assert set(ITEM) == set(ITEMS)


@pytest.mark.parametrize("name", LOG)
def test_a_column_of_the_log_is_found_under_its_name(
    tmp_path: Path, whole_log: list[object], name: str
):
    found = read_log(tmp_path, renamed(EVENT, name), **{name: "theirs"})
    assert found == whole_log


@pytest.mark.parametrize("name", ITEMS)
def test_a_column_of_the_catalogue_is_found_under_its_name(
    tmp_path: Path, whole_items: list[object], name: str
):
    found = read_items(tmp_path, renamed(ITEM, name), **{name: "theirs"})
    assert found == whole_items


@pytest.mark.parametrize("name", sorted({*LOG} - {*CLICK_LOG_REQUIRED}))
def test_a_column_of_the_log_that_is_called_otherwise_is_missed(
    tmp_path: Path, whole_log: list[object], name: str
):
    assert read_log(tmp_path, renamed(EVENT, name)) != whole_log


@pytest.mark.parametrize("name", CATALOGUE_OPTIONAL)
def test_a_column_of_the_catalogue_that_is_called_otherwise_is_missed(
    tmp_path: Path, whole_items: list[object], name: str
):
    assert read_items(tmp_path, renamed(ITEM, name)) != whole_items


@pytest.mark.parametrize("name", CLICK_LOG_REQUIRED)
def test_a_required_column_that_is_called_otherwise_is_asked_for(tmp_path: Path, name: str):
    with pytest.raises(UserError, match=rf"data\.columns\.{name}"):
        read_log(tmp_path, renamed(EVENT, name))
