"""Look up a customer's query among the queries of the click log, without storing their texts.

The vector of a query that is found need not be computed again (data/queries.py computes the
others). A query may identify a person (a name, an address), so a registered model keeps keyed
hashes instead of texts. Someone with the model can still test whether a guessed text is among them.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recdiv_core.data.queries import load_queries
from recdiv_core.models.query_text import normalise_query
from recdiv_core.schema import NO_QUERY
from recdiv_core.storage.whole_files import write_json

FILE: Final = "query_keys.json"
KEY_BYTES: Final = 16


@dataclass(frozen=True)
class QueryIndex:
    """Map of queries to their numbers.

    `index_of` maps the hash of a query, as typed and normalised, to its number; `salt` is in
    hexadecimal digits.
    """

    salt: str
    index_of: dict[str, int]

    def find(self, query: str) -> int:
        """Return the number of a query, as typed or else normalised; NO_QUERY = unknown.

        >>> known = index_queries(["red  Shoes"], salt="")
        >>> known.find("red  Shoes"), known.find("RED shoes "), known.find("blue shoes")
        (0, 0, -1)
        """
        for text in (query, normalise_query(query)):
            found = self.index_of.get(_key(self.salt, text))
            if found is not None:
                return found
        return NO_QUERY


def index_queries(queries: Iterable[str], *, salt: str) -> QueryIndex:
    """Number queries; if several are equal after normalisation, the first counts."""
    index_of: dict[str, int] = {}
    texts = list(queries)
    for number, text in enumerate(texts):
        index_of.setdefault(_key(salt, text), number)
    for number, text in enumerate(texts):
        index_of.setdefault(_key(salt, normalise_query(text)), number)
    return QueryIndex(salt, index_of)


def read_queries(prepared: Path) -> QueryIndex:
    """Read the queries of a prepared data set, or the hashes of a registered model."""
    if (prepared / FILE).is_file():
        tree = json.loads((prepared / FILE).read_text(encoding="utf-8"))
        return QueryIndex(tree["salt"], tree["index_of"])
    return index_queries(load_queries(prepared).to_pylist(), salt=secrets.token_hex(KEY_BYTES))


def write_keys(known: QueryIndex, prepared: Path) -> None:
    """Write the hashes of the queries for a registered model."""
    write_json(prepared / FILE, {"salt": known.salt, "index_of": known.index_of})


def _key(salt: str, text: str) -> str:
    salted = hashlib.blake2b(
        text.encode(errors="replace"), digest_size=KEY_BYTES, key=salt.encode()
    )
    return salted.hexdigest()
