# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""The door for user ids: all rows of a click log pass it before anything else sees them.

Two things happen here. With `data.pseudonymise`, an id becomes a pseudonym: PREFIX and the first
128 bits of its HMAC-SHA256 under a secret key, in hexadecimal. Rows of users that `recdiv forget`
removed are left out; the list of these users holds salted hashes (tombstones), not ids. Without a
key and without tombstones rows pass as they are.
"""

from __future__ import annotations

import collections
import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.formats import values
from recdiv_core.formats.units import RawBatch
from recdiv_core.schema import USER_ID, Manifest, read_manifest
from recdiv_core.storage.given_paths import local_path

SETTING: Final = "data.pseudonymise"
PREFIX: Final = "p-"
"""Start of every pseudonym."""
HEX_DIGITS: Final = 32
"""Hexadecimal digits of a pseudonym and of a tombstone: 128 bits."""
PSEUDONYM: Final = re.compile(rf"{PREFIX}[0-9a-f]{{{HEX_DIGITS}}}")
MIN_KEY_BYTES: Final = 16
"""Fewest bytes of a key."""
SESSION: Final = "session_id"
NOT_KEPT: Final = "(not kept: data.pseudonymise cannot find the user id in it)"
"""Text of a broken line in the quarantine of a pseudonymised data set."""
FORGOTTEN: Final = "user that was forgotten"
"""Rule that drops the rows of forgotten users."""
TOMBSTONES: Final = "forgotten.json"
"""File of a data set with its tombstones; absent = none."""
BETWEEN_FIELDS: Final = re.compile(r"[\s,;|:\"'{}\[\]()]+")
"""Text between two fields of a line that is no row."""


@dataclass(frozen=True)
class Pseudonyms:
    """Pseudonyms under a secret key; the key is in no text that this class makes.

    >>> Pseudonyms(b"sixteen byte key").of("u1")
    'p-7f242705a715a6fa802b9460878f0575'
    """

    key: bytes = field(repr=False)

    def of(self, user_id: str) -> str:
        """Return the pseudonym of a cleaned id."""
        return PREFIX + _keyed(self.key, user_id)

    def of_ids(self, ids: pa.Array, kind: str = "") -> pa.Array:
        """Return the pseudonyms of [N] cleaned ids; null stays null.

        Another kind of id has other pseudonyms; an empty one means users.
        """
        coded = ids.dictionary_encode()
        mark = f"\0{kind}\0" if kind else ""
        made = [self.of(mark + each) for each in coded.dictionary.to_pylist()]
        return pa.array(made, pa.string()).take(coded.indices)

    @property
    def check(self) -> str:
        """Value that tells whether two keys are equal; it does not give the key away."""
        return _keyed(self.key, "\0check\0")


def _keyed(key: bytes, text: str) -> str:
    return hmac.digest(key, text.encode(), hashlib.sha256).hex()[:HEX_DIGITS]


def read_key(place: str) -> Pseudonyms | None:
    """Return the pseudonyms of the key that `data.pseudonymise` names; None for an empty setting.

    Raises:
        UserError: the variable or the file is missing, or the key is short.
    """
    if not place:
        return None
    kind, _, name = place.partition(":")
    if kind == "env":
        key = os.environ.get(name, "").encode()
    else:
        try:
            key = local_path(name, SETTING).read_bytes()
        except OSError as error:
            raise UserError(f"{SETTING}={place} cannot be read: {error.strerror}") from None
    key = key.strip()
    if not key and kind == "env":
        raise UserError(
            f"{SETTING}={place}: the environment has no variable {name}, or it is empty"
        )
    if len(key) < MIN_KEY_BYTES:
        raise UserError(
            f"{SETTING}={place} holds a key of {len(key)} bytes; at least {MIN_KEY_BYTES} are "
            "needed, as `openssl rand -hex 32` makes them"
        )
    return Pseudonyms(key)


def key_of(place: str, manifest: Manifest) -> Pseudonyms | None:
    """Return the pseudonyms of a data set, after checking that the key is the one of the data set.

    An empty `place` is that of the preparation.

    Raises:
        UserError: the key is missing or another one, or the data set has no pseudonyms.
    """
    if not manifest.pseudonyms:
        if place:
            raise UserError(f"{SETTING}={place}: the data set was prepared without pseudonyms")
        return None
    place = place or str(manifest.settings.get(SETTING, ""))
    found = read_key(place)
    if found is None or found.check != manifest.pseudonyms:
        raise UserError(
            f"{SETTING}={place} holds another key than the one that the data set was prepared with"
        )
    return found


def as_stored(ids: pa.Array, manifest: Manifest, place: str = "") -> pa.Array:
    """Return ids as a data set holds them: pseudonyms if it has pseudonyms, else the ids.

    A value that is a pseudonym already stays, so the key is needed only for other ids. An empty
    `place` is that of the preparation; null stays null.

    Raises:
        UserError: see `key_of`.
    """
    if not manifest.pseudonyms:
        return ids
    pattern = f"^{PSEUDONYM.pattern}$"
    is_made = pc.match_substring_regex(ids, pattern).fill_null(True)
    if pc.all(is_made, min_count=0).as_py():
        return ids
    pseudonyms = key_of(place, manifest)
    assert pseudonyms is not None
    words = [str(word) for word in _list(manifest.settings.get("data.null_words"))]
    return pc.if_else(is_made, ids, pseudonyms.of_ids(values.clean_ids(ids, words)[0]))


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


@dataclass(frozen=True)
class Tombstones:
    """Users that were forgotten.

    Attributes:
        by_salt: salt -> hashes of ids, as the data set held them.
    """

    by_salt: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.by_salt.values())

    def holds(self, user_id: str) -> bool:
        """Return whether a user was forgotten."""
        return any(_keyed(salt.encode(), user_id) in own for salt, own in self.by_salt.items())

    def mark(self, ids: pa.Array) -> Any:
        """Return [N] bool: the rows of forgotten users; ids are cleaned, null = False."""
        coded = ids.dictionary_encode()
        is_gone = [self.holds(each) for each in coded.dictionary.to_pylist()]
        return np.array([*is_gone, False])[coded.indices.fill_null(-1).to_numpy()]

    def mentioned(self, text: str) -> bool:
        """Return whether a field of a line that is no row is a forgotten user."""
        return any(self.holds(each) for each in BETWEEN_FIELDS.split(text) if each)

    def joined(self, other: Tombstones) -> Tombstones:
        """Return the tombstones of both."""
        salts = sorted({*self.by_salt, *other.by_salt})
        nothing = frozenset[str]()
        return Tombstones(
            {s: self.by_salt.get(s, nothing) | other.by_salt.get(s, nothing) for s in salts}
        )

    def as_json(self) -> dict[str, list[str]]:
        """Return the salts and hashes as JSON values, in order."""
        return {salt: sorted(self.by_salt[salt]) for salt in sorted(self.by_salt)}


def make_tombstones(salt: str, ids: Iterable[str]) -> Tombstones:
    """Return the tombstones of users.

    `salt` is the fingerprint of the first data set of the lineage.
    """
    return Tombstones({salt: frozenset(_keyed(salt.encode(), each) for each in ids)})


def read_tombstones(prepared: Path) -> Tombstones:
    """Return the tombstones of a data set; none if it does not exist."""
    try:
        tree = json.loads((prepared / TOMBSTONES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Tombstones()
    return Tombstones({str(salt): frozenset(map(str, own)) for salt, own in tree.items()})


@dataclass(frozen=True)
class Door:
    """What happens to the rows of a click log first.

    Without pseudonyms ids stay; rows of users in `tombstones` are left out.
    """

    pseudonyms: Pseudonyms | None = None
    tombstones: Tombstones = Tombstones()
    null_words: tuple[str, ...] = ()

    def admit(self, batch: RawBatch) -> tuple[RawBatch, int, collections.Counter[str]]:
        """Let a batch in.

        Returns:
            the batch with pseudonyms and without rows of forgotten users; the number of these rows;
            change -> number of ids in another spelling.
        """
        coerced: collections.Counter[str] = collections.Counter()
        if self.pseudonyms is None and not self.tombstones:
            return batch, 0, coerced
        table, broken, ids = batch.table, batch.broken, None
        if USER_ID in table.column_names:
            ids, coerced = values.clean_ids(table[USER_ID], self.null_words)
        if self.pseudonyms is not None:
            broken = tuple((place, NOT_KEPT, reason) for place, _, reason in broken)
            if ids is not None:
                ids = self.pseudonyms.of_ids(ids)
                table = _with(table, USER_ID, ids)
            if SESSION in table.column_names:
                texts = values.drop_null_words(values.as_text(table[SESSION]), self.null_words)
                table = _with(table, SESSION, self.pseudonyms.of_ids(texts, SESSION))
        else:
            coerced.clear()  # the ids stay as given, so their reader counts
        if self.tombstones:
            broken = tuple(line for line in broken if not self.tombstones.mentioned(line[1]))
            if ids is not None:
                table = table.filter(pa.array(~self.tombstones.mark(ids)))
        num_gone = len(batch.broken) - len(broken) + batch.table.num_rows - table.num_rows
        return replace(batch, table=table, broken=broken), num_gone, coerced

    def rename_users(self, directory: Path) -> None:
        """Replace the user ids in a directory of Parquet files by their pseudonyms."""
        if self.pseudonyms is None:
            return
        for path in sorted(directory.rglob("*.parquet")):
            table = pq.read_table(path)
            ids = values.clean_ids(table[USER_ID], self.null_words)[0]
            pq.write_table(_with(table, USER_ID, self.pseudonyms.of_ids(ids)), path)


AS_GIVEN: Final = Door()
"""The door that lets all rows in as they are."""


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def open_door(config: Config, out: Path) -> Door:
    """Return the door of a data set that is made from scratch in `out`, whose tombstones stay.

    Raises:
        UserError: the key of `data.pseudonymise` cannot be read, or `out` has tombstones of other
            pseudonyms, which would let forgotten users in.
    """
    pseudonyms, tombstones = read_key(config.data.pseudonymise), read_tombstones(out)
    if tombstones:
        before = read_manifest(out)
        if before.pseudonyms != (pseudonyms.check if pseudonyms else ""):
            place = str(before.settings.get(SETTING, ""))
            allowed = f"{SETTING}={place} with the key of then" if place else f"no {SETTING}"
            raise UserError(
                f"{SETTING}={config.data.pseudonymise}: forgotten users of data.out={out} "
                f"would come back under other ids; allowed: {allowed}"
            )
    return Door(pseudonyms, tombstones, tuple(config.data.null_words))
