"""Categories of a shop that gives none: clusters of the text vectors of its items.

Not the encoding of texts (text_vectors.py), nor the catalogue (catalogue.py), which `prepare`
writes after this step. The one idea: equal vectors give equal categories with any number of workers
and for any `seed`. So k-means has its own random seed and runs on one thread. V items, D distinct
texts, H text width, G categories, W words.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa

from recdiv_core.data.audit.duplicates import normalise
from recdiv_core.errors import UserError
from recdiv_core.schema import NO_TEXT
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

FEW_GIVEN: Final = 0.1
"""Share of items with a category below which the shop's categories count as missing."""
FEWEST_TEXTS: Final = 10
"""Distinct texts per category, at least, where the number of categories is chosen."""
NUMBERS: Final = (8, 12, 16, 24, 32, 48, 64)
"""Numbers of categories to choose from; a slate of ten items can differ in few of more."""
SAMPLE: Final = 20_000
"""Texts on which numbers of categories are compared."""
SILHOUETTE_SAMPLE: Final = 2_000
"""Texts whose silhouette is measured; the work grows with the square."""
SEED: Final = 0
"""Random seed of samples and clusters; `seed` of a config does not change a data set."""
NAME_WORDS: Final = 3
"""Words in the name of a category."""
SHORTEST_WORD: Final = 3
"""Fewest ASCII letters of a word; shorter ones are mostly units, such as oz and ml."""
FUNCTION_WORDS: Final = frozenset(
    {"and", "for", "from", "the", "with", "das", "der", "des", "die", "mit", "und"}
    | {"aus", "avec", "les", "pour", "con", "del", "las", "los", "para", "per"}
)
"""Words of titles in some languages that say nothing about an item; shorter ones are left out."""
MOST_WORDS: Final = 50_000
"""Most common words of titles from which names are chosen."""

_RUNS: Final = re.compile(
    "[\u30a0-\u30ff\u31f0-\u31ff]+"  # katakana: mostly whole words
    "|[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"  # Han: no spaces
    "|[^\u30a0-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def is_wanted(
    categories: Sequence[str | None], texts: pa.Array, wanted: Literal["auto"] | int
) -> bool:
    """Return whether `prepare` derives categories from texts.

    Raises:
        UserError: More categories are wanted than there are distinct texts.
    """
    if wanted == 0:
        return False
    num_distinct = len(texts.unique()) - int("" in set(texts.to_pylist()))
    if wanted != "auto":
        if wanted > num_distinct:
            raise UserError(
                f"data.derived_categories={wanted}: the items have {num_distinct} different texts; "
                "allowed are 0, auto, and 2 to the number of texts"
            )
        return True
    num_given = sum(bool(re.search(r"[^\s|>]", text or "")) for text in categories)
    if num_given >= FEW_GIVEN * len(categories):
        return False
    if num_distinct < 2 * FEWEST_TEXTS:
        logger.warning(
            "a category is given for %d of %s, and only %s can derive categories: metrics of "
            "categories mean nothing here",
            num_given,
            counted(len(categories), "item"),
            counted(num_distinct, "different text"),
        )
        return False
    return True


def derive_categories(
    texts: pa.Array, titles: pa.Array, vectors_VH: np.ndarray, wanted: Literal["auto"] | int
) -> pa.Array:
    """Cluster the text vectors of items, and name each cluster by the words of its titles.

    Args:
        texts: [V] string, the text of each item; items without one are in the category NO_TEXT.
        titles: [V] string; names are made of their words.
        vectors_VH: Unit text vectors; equal for equal texts.
        wanted: Number of categories from 2, or `auto`: the number with the largest mean silhouette.

    Returns:
        [V] string, the category of each item.
    """
    encoded = texts.dictionary_encode()
    text_V = encoded.indices.to_numpy()
    first_D = np.unique(text_V, return_index=True)[1]
    has_text_D = np.array([bool(text) for text in encoded.dictionary.to_pylist()])
    place_D = np.cumsum(has_text_D) - 1
    vectors = np.asarray(vectors_VH[first_D[has_text_D]], dtype=np.float32)
    labels, silhouette = cluster(vectors, wanted)
    label_V = np.where(has_text_D, labels[place_D], -1)[text_V]
    names = name_clusters(titles, label_V)
    counts = np.bincount(label_V[label_V >= 0], minlength=len(names))
    chosen = "" if silhouette is None else f", chosen by their mean silhouette of {silhouette:.3f}"
    in_order = np.argsort(-counts, kind="stable")
    logger.info(
        "categories: %d derived from the texts of the items%s: %s",
        len(names),
        chosen,
        "; ".join(f"{names[g]} ({counted(int(counts[g]), 'item')})" for g in in_order),
    )
    if num_empty := int((label_V < 0).sum()):
        logger.info("categories: %s without a text: %r", counted(num_empty, "item"), NO_TEXT)
    return pa.array([*names, NO_TEXT], pa.string()).take(pa.array(label_V % (len(names) + 1)))


def cluster(vectors: np.ndarray, wanted: Literal["auto"] | int) -> tuple[np.ndarray, float | None]:
    """Return the cluster of each vector, numbered without gaps, and the silhouette of a choice.

    For `wanted` see `derive_categories`.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # sums over threads differ in their last bits
        silhouette = None
        number = wanted
        if number == "auto":
            number, silhouette = choose_number(vectors)
        labels = _fit(vectors, number).predict(vectors)
    return np.unique(labels, return_inverse=True)[1], silhouette


def choose_number(vectors: np.ndarray) -> tuple[int, float]:
    """Return the number of clusters with the largest mean silhouette, and the silhouette.

    The silhouette is measured with cosine distances on a sample of the vectors. With fewer than
    FEWEST_TEXTS vectors per cluster a number is not tried; of equal numbers the smaller one counts.
    """
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(SEED)
    some = vectors[np.sort(rng.permutation(len(vectors))[:SAMPLE])]
    measured = some[np.sort(rng.permutation(len(some))[:SILHOUETTE_SAMPLE])]
    numbers = [number for number in NUMBERS if number * FEWEST_TEXTS <= len(vectors)]
    best = (numbers or [max(2, len(vectors) // FEWEST_TEXTS)])[0], -1.0
    for number in numbers:
        labels = _fit(some, number).predict(measured)
        if len(np.unique(labels)) < 2:
            continue
        score = float(silhouette_score(measured, labels, metric="cosine"))
        logger.info(
            "categories: %d clusters of texts have a mean silhouette of %.4f", number, score
        )
        if score > best[1]:
            best = number, score
    return best


def _fit(vectors: np.ndarray, number: int) -> Any:
    from sklearn.cluster import MiniBatchKMeans

    starts: Any = 3  # annotated as text in scikit-learn 1.9
    model = MiniBatchKMeans(number, batch_size=4_096, n_init=starts, random_state=SEED)
    return model.fit(vectors)


def name_clusters(titles: pa.Array, label_V: np.ndarray) -> list[str]:
    """Name each cluster by the words of its titles with the largest excess of TF-IDF weight.

    The excess is the mean weight in the cluster minus the mean weight in all titles. So words that
    stand in all kinds of titles name no cluster. Names are distinct. A label of -1 is no cluster.
    """
    words_V = [title_words(title) for title in normalise(titles).to_pylist()]
    num_clusters = int(label_V.max(initial=-1)) + 1
    ranked = _ranked_words(words_V, label_V, num_clusters)
    names: dict[str, None] = {}
    for number, words in enumerate(ranked, start=1):
        kept: list[str] = []
        for word in words:
            if not any(_is_like(word, other) for other in kept):
                kept.append(word)
            name = ", ".join(kept)
            if len(kept) >= NAME_WORDS and name not in names:
                break
        name = ", ".join(kept) or f"group {number}"
        names[name if name not in names else f"{name} {number}"] = None
    return list(names)


def title_words(title: str) -> list[str]:
    """Return the words of a normalised title, without numbers, function and short ASCII words.

    Han characters have no spaces between words, so each two neighbours make a word.

    >>> title_words("red soap and 4oz 12 a"), title_words("\u6d17\u53d1\u6c34")
    (['red', 'soap'], ['\u6d17\u53d1', '\u53d1\u6c34'])
    """
    words: list[str] = []
    for run in (run for part in title.split() for run in _RUNS.findall(part)):
        if _HAN.match(run):
            words += [run[at : at + 2] for at in range(max(1, len(run) - 1))]
        elif len(run) >= (SHORTEST_WORD if run.isascii() else 2) and not run[0].isdigit():
            words.append(run)
    return [word for word in words if word not in FUNCTION_WORDS]


def _is_like(word: str, other: str) -> bool:
    """Return whether one word begins with the other, or two Han words share a character."""
    is_han = bool(_HAN.match(word)) and bool(_HAN.match(other))
    return word.startswith(other) or other.startswith(word) or (is_han and bool({*word} & {*other}))


def _ranked_words(
    words_V: Sequence[list[str]], label_V: np.ndarray, num_clusters: int
) -> list[list[str]]:
    """Return the best words of each cluster, the best first; equal ones by alphabet."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(words_V):
        return [[] for _ in range(num_clusters)]
    as_given: Any = list  # annotated as text in scikit-learn 1.9
    vectoriser = TfidfVectorizer(analyzer=as_given, max_features=MOST_WORDS, sublinear_tf=True)
    weights_VW = vectoriser.fit_transform(words_V)
    words = vectoriser.get_feature_names_out()
    is_in = label_V >= 0
    ones = np.ones(int(is_in.sum()))
    cells = ones, (label_V[is_in], np.flatnonzero(is_in))
    member_GV = sparse.csr_array(cells, shape=(num_clusters, len(label_V)))
    sizes_G = np.maximum(np.bincount(label_V[is_in], minlength=num_clusters), 1)
    mean_W = np.asarray(weights_VW.mean(axis=0)).ravel()
    ranked: list[list[str]] = []
    for g in range(num_clusters):
        own_W = (member_GV[[g]] @ weights_VW).toarray().ravel() / sizes_G[g]
        excess_W = np.where(own_W > 0, own_W - mean_W, -np.inf)
        best = np.argsort(-excess_W, kind="stable")[: 10 * NAME_WORDS]
        ranked.append([str(words[w]) for w in best if excess_W[w] > 0])
    return ranked
