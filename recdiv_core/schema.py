"""Column names, Arrow schemas and the layout of a prepared data set.

data/ reads and writes it. A prepared data set is a self-contained directory; its schema version is
checked before anything else is read.

    manifest.json        what is here, from what, how split (class Manifest)
    catalogue.parquet    CATALOGUE + any further attribute column, sorted by item_index
    tokens.arrow         TOKENS: row i = tokens of the item with item_index i (Arrow IPC file)
    queries.arrow        QUERIES: row i = query_index i (Arrow IPC file; no rows without queries)
    train/part-*.parquet TRAIN_EXAMPLE; row groups of `fragment_rows` rows
    val/ test/           EVAL_EXAMPLE; row groups of `fragment_rows` rows
    vectors/             text vectors, stored output of frozen layers; made by train, tune, evaluate
    stage/               all events, one row per user, with what an append needs (staging.py)
    tokeniser.json       tokeniser of the encoder, for appends; absent = only transformers has it
    forgotten.json       salted hashes of users that were removed (door.py); absent = none
    log.json             files of the log in order, its columns, and the origin of the catalogue
    quarantine/          rejected rows as JSON text, each with its reason and source file
    audit.json           leakage audit
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
from pydantic import BaseModel, ConfigDict

from recdiv_core.config import Pooling
from recdiv_core.errors import UserError

SCHEMA_VERSION: Final = 3
ENDING: Final = ".versions"
"""Ending of the directory of a data set's versions, see data/versions.py."""

USER_ID: Final = "user_id"
ITEM_ID: Final = "item_id"
TIMESTAMP: Final = "timestamp"
EVENT: Final = "event"
QUERY: Final = "query"
ITEM_INDEX: Final = "item_index"
AVAILABLE_FROM: Final = "available_from"
AVAILABLE_UNTIL: Final = "available_until"

CLICK_LOG_REQUIRED: Final = (USER_ID, ITEM_ID, TIMESTAMP)
CATALOGUE_REQUIRED: Final = (ITEM_ID, "title")
CATALOGUE_OPTIONAL: Final = (
    "category",
    "brand",
    "colour",
    "price",
    "rating",
    "image",
    AVAILABLE_FROM,
    AVAILABLE_UNTIL,
)
EVENTS: Final = ("impression", "click", "cart", "purchase")

DAY_US: Final = 86_400_000_000
"""A day in microseconds, the unit of TIMESTAMP."""

NO_QUERY: Final = -1
NO_CATEGORY: Final = "(none)"
NO_TEXT: Final = "(no text)"
"""Derived category of the items without a text."""
DERIVED: Final = "derived_category"
"""Catalogue column of the categories that `prepare` derived from texts."""

CATALOGUE: Final = pa.schema(
    [
        pa.field(ITEM_INDEX, pa.int32(), nullable=False),
        pa.field(ITEM_ID, pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        # indices into Manifest.categories; at least one, NO_CATEGORY's when the item has none
        pa.field("categories", pa.list_(pa.int32()), nullable=False),
        # events in the train window after the k-core; 0 for cold items
        pa.field("popularity", pa.int64(), nullable=False),
        pa.field("is_cold", pa.bool_(), nullable=False),
    ]
)
"""The catalogue's own columns; `category`, `brand`, `colour`, `price`, ... follow as given."""

TRAIN_EXAMPLE: Final = pa.schema(
    [
        pa.field(USER_ID, pa.string(), nullable=False),
        pa.field("items", pa.list_(pa.int32()), nullable=False),  # item_index, oldest first
        pa.field("queries", pa.list_(pa.int32()), nullable=False),  # query that led to items[t]
        pa.field("weights", pa.list_(pa.float32()), nullable=False),  # of items[t] as a target
        pa.field("times", pa.list_(pa.int64())),  # microseconds; null without times
    ]
)
"""A user's train events; a user with more than MAX_EXAMPLE_EVENTS has several rows."""

MAX_EXAMPLE_EVENTS: Final = 1024

EVAL_EXAMPLE: Final = pa.schema(
    [
        pa.field(USER_ID, pa.string(), nullable=False),
        pa.field("history", pa.list_(pa.int32()), nullable=False),  # all earlier events; may be []
        pa.field("targets", pa.list_(pa.int32()), nullable=False),  # distinct; at least one
        pa.field("query", pa.int32(), nullable=False),  # of the request, or NO_QUERY
        pa.field("is_cold_user", pa.bool_(), nullable=False),  # no event in the train window
        # microseconds of each event of the history, and of each target; null without times
        pa.field("history_times", pa.list_(pa.int64())),
        pa.field("target_times", pa.list_(pa.int64())),
    ]
)
"""One user's held-out request. Every user stands in a split at most once."""

TOKENS: Final = pa.schema([pa.field("input_ids", pa.list_(pa.int32()), nullable=False)])
QUERIES: Final = pa.schema(
    [
        pa.field("query", pa.string(), nullable=False),
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
    ]
)
SLATE: Final = pa.schema(
    [
        pa.field(USER_ID, pa.string(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
    ]
)


class EncoderSource(BaseModel):
    """The text encoder whose tokeniser made `tokens.arrow`, and how it is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    sha256: str
    """SHA-256 of the files of the encoder."""
    max_tokens: int
    """Most tokens of a text."""
    fields: tuple[str, ...]
    pooling: Pooling = "mean"
    """Token states that make the vector of a text."""
    query_prefix: str = ""
    """Text before each query."""
    passage_prefix: str = ""
    """Text before each item text."""


class Manifest(BaseModel):
    """`manifest.json` of a prepared data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int
    name: str
    fingerprint: str
    """SHA-256 of sources, settings and schema version; equal = the same examples."""
    num_users: int
    """Users with an example in at least one split."""
    num_items: int
    """Rows of the catalogue."""
    num_events: int
    """Events in all splits together."""
    num_examples: dict[str, int]
    """Rows of train, val and test, by split."""
    num_events_by_split: dict[str, int]
    num_cold_users: int
    num_cold_items: int
    quarantined: dict[str, int]
    """Rejected rows by reason."""
    dropped: dict[str, int]
    """Valid but unused rows, by reason: duplicates, other kinds of event, outside the k-core."""
    files: tuple[dict[str, object], ...] = ()
    """Row counts per file of the click log: `read` = `kept` + `dropped` + `quarantined`."""
    times: dict[str, object] = {}
    """Format of the times, first and last day, and a histogram of the events."""
    split: dict[str, str | int | float]
    """Protocol, cut timestamps and number of ties across them."""
    has_timestamps: bool
    categories: tuple[str, ...]
    categories_from: Literal["catalogue", "texts"] = "catalogue"
    """Origin of the categories: given by the shop, or derived from the texts of the items."""
    encoder: EncoderSource
    fragment_rows: int
    sources: tuple[dict[str, str | int], ...]
    """Path, bytes and SHA-256 (or modification time) of each input file."""
    settings: dict[str, object]
    """Flattened `data.*`, `split.*` and text settings of the call of `prepare`."""
    seed: int
    versions: dict[str, str]
    lineage: str = ""
    """Fingerprint of the first data set of a chain of appends; empty = this one is the first."""
    generation: int = 0
    """Number of appends since the first data set of the chain, from 0."""
    pseudonyms: str = ""
    """Check value of the key of `data.pseudonymise`; empty = user ids as in the log."""

    @property
    def root(self) -> str:
        """Fingerprint of the first data set of the chain; equal = item_ids map to each other."""
        return self.lineage or self.fingerprint

    @property
    def num_train_users(self) -> int:
        """Users with train events."""
        return self.num_users - self.num_cold_users


def read_manifest(prepared: Path) -> Manifest:
    """Read and check `manifest.json` of a prepared data set.

    Raises:
        UserError: no such directory, not a prepared data set, or another schema version.
    """
    path = prepared / "manifest.json"
    if not prepared.is_dir():
        home = prepared.parent
        view = home.parent / home.name.removesuffix(ENDING)
        if view != home and view.is_dir():  # an old checkpoint names a version that was removed
            raise UserError(
                f"data.prepared={prepared} was removed, because there are newer versions; give "
                f"data.prepared={view} for the current one"
            )
        raise UserError(f"data.prepared={prepared} is not a directory; run `recdiv prepare` first")
    if not path.is_file():
        raise UserError(
            f"data.prepared={prepared} is not a prepared data set: it has no manifest.json"
        )
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # half a file, or no text
        raise UserError(
            f"{path} is damaged, it is not valid JSON: {error}; run `recdiv prepare` again"
        ) from None
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"data.prepared={prepared} has schema version {version}, this code reads "
            f"{SCHEMA_VERSION}; run `recdiv prepare` again"
        )
    try:
        return Manifest.model_validate(tree)
    except pydantic.ValidationError as error:
        raise UserError(f"{path} is not a valid manifest: {error}") from None


def check_unchanged(prepared: Path, manifest: Manifest) -> None:
    """Check that a data set still has the manifest that was read before.

    Raises:
        UserError: its files were removed or replaced in the meantime.
    """
    path = prepared / "manifest.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("fingerprint", "")
    except (OSError, ValueError, AttributeError):
        found = ""
    if found != manifest.fingerprint:
        raise UserError(
            f"data.prepared={prepared} changed while it was read: its fingerprint was "
            f"{manifest.fingerprint[:12]} and is now {found[:12] or 'not readable'}. Nothing was "
            "saved from the mixed data. Restore the data set, or start a new run"
        )


def check_files(prepared: Path, manifest: Manifest) -> None:
    """Check that the files of a prepared data set are complete; reads only footers.

    Raises:
        UserError: a missing or damaged file, wrong columns, or a wrong number of rows.
    """
    for name in ("catalogue.parquet", "tokens.arrow", "queries.arrow"):
        if not (prepared / name).is_file():
            raise UserError(f"data.prepared={prepared} lacks {name}; run `recdiv prepare` again")
    for split, num_rows in manifest.num_examples.items():
        found = count_rows(prepared, split)
        if found != num_rows:
            raise UserError(
                f"data.prepared={prepared}: {split}/ has {found} rows, its manifest says "
                f"{num_rows}; run `recdiv prepare` again"
            )


def count_rows(prepared: Path, split: str) -> int:
    """Count the rows of a split from the footers of its shards.

    Raises:
        UserError: a damaged file or wrong columns.
    """
    schema = TRAIN_EXAMPLE if split == "train" else EVAL_EXAMPLE
    found = 0
    for path in sorted((prepared / split).glob("part-*.parquet")):
        try:
            footer = pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is damaged: {error}; run `recdiv prepare` again") from None
        columns = footer.schema.to_arrow_schema().names
        if columns != schema.names:
            raise UserError(
                f"{path} has the columns {', '.join(columns)}, not "
                f"{', '.join(schema.names)}; it is not part of a prepared data set"
            )
        found += footer.num_rows
    return found
