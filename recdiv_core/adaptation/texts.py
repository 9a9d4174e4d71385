"""The texts of a shop that an encoder learns from, and pairs of texts that belong together.

Pairs come from the train split alone. So held-out events stay unseen, and queries that no train
event has stay unseen too. The texts of all items are known at serving, so all are read. Rows: the
V items come first, then the Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recdiv_core.config import PairKind
from recdiv_core.data.catalogue import Tokens, make_texts, tokenise_here, with_prefix
from recdiv_core.data.queries import load_queries, mark_seen, read_query_clicks
from recdiv_core.data.train_events import read_train_events
from recdiv_core.data.vector_files import first_equal
from recdiv_core.errors import UserError
from recdiv_core.models.text_encoder import load_tokenizer
from recdiv_core.schema import EncoderSource


@dataclass(frozen=True, eq=False)
class ShopTexts:
    """Texts of a prepared data set, tokenised for an encoder.

    Attributes:
        tokens: token ids of each row.
        num_items: V.
        first_R: int64 first row with the same text, of each row.
        items_T: rows of the distinct texts of items.
        queries_T: rows of the distinct queries of train events.
    """

    tokens: Tokens
    num_items: int
    first_R: NDArray[np.int64]
    items_T: NDArray[np.int64]
    queries_T: NDArray[np.int64]

    @property
    def taught_T(self) -> NDArray[np.int64]:
        """Rows of the texts that a student learns."""
        return np.concatenate([self.items_T, self.queries_T])


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows of texts that belong together, once for each train event.

    Attributes:
        kind: what the pairs are.
        left_P: int64 rows.
        right_P: int64 rows of the texts of items.
        known: distinct pairs as `left * num_rows + right`, rising.
        num_rows: V + Q.
    """

    kind: PairKind
    left_P: NDArray[np.int64]
    right_P: NDArray[np.int64]
    known: NDArray[np.int64]
    num_rows: int

    def __len__(self) -> int:
        return len(self.left_P)

    def belong(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell for each left row and each right row whether they are a pair, or the same text."""
        codes = left[:, None] * self.num_rows + right
        return np.isin(codes, self.known) | (left[:, None] == right)


def read_texts(prepared: Path, encoder: EncoderSource, source: str) -> ShopTexts:
    """Read and tokenise the texts of a prepared data set."""
    items = make_texts(pq.read_table(prepared / "catalogue.parquet"), encoder.fields)
    queries = load_queries(prepared).combine_chunks()
    texts = pa.concat_arrays(
        [
            with_prefix(encoder.passage_prefix, items),
            with_prefix(encoder.query_prefix, queries),
        ]
    )
    lists = tokenise_here(texts, load_tokenizer(source), encoder.max_tokens, encoder.pooling)
    tokens, num_items = Tokens(pa.chunked_array([lists])), len(items)
    first_R = first_equal(list(tokens))
    seen = num_items + mark_seen(prepared, len(queries)).nonzero()[0]
    return ShopTexts(
        tokens=tokens,
        num_items=num_items,
        first_R=first_R,
        items_T=np.unique(first_R[:num_items]),
        queries_T=np.unique(first_R[seen]),
    )


def read_pairs(prepared: Path, texts: ShopTexts, kind: PairKind) -> Pairs:
    """Read the pairs of the train split.

    `queries` pairs a query with the item that was clicked after it, `next_item` an item with the
    next item of the same user, `none` nothing; `auto` is `queries` in a log with queries, else
    `next_item`.

    Raises:
        UserError: the train split has no such pair.
    """
    if kind == "auto":
        kind = "queries" if len(texts.queries_T) else "next_item"
    left_P = right_P = np.zeros(0, np.int64)
    if kind == "queries":
        query_P, right_P = read_query_clicks(prepared)
        left_P = query_P + texts.num_items
    elif kind == "next_item":
        events = read_train_events(prepared)
        is_pair_E = events.user_E[1:] == events.user_E[:-1]
        left_P, right_P = events.item_E[:-1][is_pair_E], events.item_E[1:][is_pair_E]
    # items of one shop may have equal texts, which are no negatives of each other
    left_P, right_P = texts.first_R[left_P], texts.first_R[right_P]
    differs_P = left_P != right_P
    left_P, right_P = left_P[differs_P], right_P[differs_P]
    if kind != "none" and not len(left_P):
        raise UserError(
            f"adapt.pairs={kind}: the train split has no such pair; allowed are auto, queries, "
            "next_item and none"
        )
    num_rows = len(texts.tokens)
    codes = [left_P * num_rows + right_P]
    if kind == "next_item":
        codes.append(right_P * num_rows + left_P)
    return Pairs(kind, left_P, right_P, np.unique(np.concatenate(codes)), num_rows)
