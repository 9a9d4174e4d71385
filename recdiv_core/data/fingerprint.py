"""Which prepared data sets are the same: the fingerprint of the input and the settings.

Two preparations with one fingerprint give the same files, so the second reuses the first. Settings
that name locations are left out, and so are settings without effect. clicklog.py and append.py ask.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from recdiv_core.config import Config, flatten
from recdiv_core.data.door import AS_GIVEN, SETTING, Door
from recdiv_core.errors import UserError
from recdiv_core.schema import (
    SCHEMA_VERSION,
    EncoderSource,
    check_files,
    read_manifest,
)

logger = logging.getLogger(__name__)

PLACES: Final = (
    "data.clicks",
    "data.items",
    "data.out",
    "data.prepared",
    "data.name",
    "data.base",
)
"""Settings that name locations; they are no part of the fingerprint."""
DERIVED_KEY: Final = "data.derived_categories"
"""Setting that is in the fingerprint only if categories are derived."""
USE: Final = ("pooling", "query_prefix", "passage_prefix")
"""How the encoder is used: fields of EncoderSource."""
DESCRIBED: Final = tuple(f"model.text.{name}" for name in USE)
"""Settings that are resolved from the encoder's files; the fingerprint has the outcome."""
TEXT_KEYS: Final = (
    "model.text.encoder",
    "model.text.max_tokens",
    "model.text.fields",
    *DESCRIBED,
)
"""Settings of the texts and their encoder that determine tokens and vectors."""
IF_CHANGED: Final[Mapping[str, object]] = {
    "data.columns.available_until": "available_until",
    "data.demo_queries": "titles",
    "data.retention_days": 0,
    "split.unseen_queries": 0.0,
    "split.val_days": 0,
    "split.test_days": 0,
}
"""Settings that are in the fingerprint only if they differ from this value: the data sets of older
versions are reused."""
UNSEEN: Final = ("data.session_gap_s",)
"""Settings that change only a count in the manifest; they are no part of the fingerprint."""


def deciding_settings(config: Config) -> dict[str, object]:
    """Return the settings that determine the examples, as in JSON."""
    flat: dict[str, object] = {}
    for key, value in flatten(config).items():
        if (key.startswith(("data.", "split.")) or key in TEXT_KEYS) and key not in PLACES:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def fingerprint_of(
    sources: Sequence[dict[str, str | int]],
    config: Config,
    encoder: EncoderSource,
    door: Door = AS_GIVEN,
    *,
    derives: bool = False,
) -> str:
    """Return the fingerprint of a data set, 64 hexadecimal digits.

    Sizes and digests of the input files count, their paths do not.
    """
    contents = [{k: v for k, v in row.items() if k != "path"} for row in sources]
    unseen = (*UNSEEN, *DESCRIBED, SETTING, *(() if derives else (DERIVED_KEY,)))
    settings = {
        key: value
        for key, value in deciding_settings(config).items()
        if key not in unseen and IF_CHANGED.get(key) != value
    }
    tree: list[object] = [SCHEMA_VERSION, contents, settings, encoder.sha256]
    # as the encoder is used, whether its files say so or the settings
    used = encoder.model_dump(include=set(USE), exclude_defaults=True)
    tree += [used] if used else []
    tree += [door.pseudonyms.check] if door.pseudonyms else []
    tree += [door.tombstones.as_json()] if door.tombstones else []
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def is_made(place: Path, fingerprint: str, config: Config) -> bool:
    """Return whether a path holds a complete data set with this fingerprint."""
    if not (place / "manifest.json").is_file():
        return False
    try:
        manifest = read_manifest(place)
        check_files(place, manifest)
    except UserError as error:
        logger.warning("%s: the data set is not reused", error)
        return False
    for key in UNSEEN:
        now = flatten(config)[key]
        if manifest.fingerprint == fingerprint and manifest.settings.get(key, now) != now:
            logger.warning("%s=%s has no effect: %s exists already", key, now, place)
    return manifest.fingerprint == fingerprint
