"""Fit baselines on the train events of a data set: a model of their kind, or the terms of a blend.

The fit functions of models/baselines/ take plain arrays. This module reads the arrays and the
settings, without Ray. A training runs it in a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from recdiv_core.config import BlendTerm, Config
from recdiv_core.data.catalogue import make_texts
from recdiv_core.data.queries import mark_seen, read_query_clicks
from recdiv_core.data.train_events import read_train_events
from recdiv_core.formats.values import as_text
from recdiv_core.models.baselines import Baseline, TrainEvents
from recdiv_core.models.baselines.buy_again import fit_buy_again
from recdiv_core.models.baselines.ease import fit_ease
from recdiv_core.models.baselines.graph import fit_graph
from recdiv_core.models.baselines.neighbours import fit_item_knn
from recdiv_core.models.baselines.popularity import (
    count_adopted,
    count_recent,
    fit_adoption,
    fit_log_counts,
    fit_popular,
    fit_random,
)
from recdiv_core.models.baselines.query_match import fit_bm25
from recdiv_core.models.baselines.query_words import sketch_values
from recdiv_core.models.baselines.rp3beta import fit_rp3beta
from recdiv_core.models.baselines.text_profile import fit_text
from recdiv_core.models.lifts import Lifts
from recdiv_core.models.query_text import words_of
from recdiv_core.schema import NO_CATEGORY
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.matrix_size import EASE_ITEMS, check_size
from recdiv_core.slates.query_words import QueryClicks, fit_query_words

Fit = Callable[[Config, Dataset, TrainEvents], Mapping[str, Tensor]]
"""config, data set, train events -> weights."""


NEIGHBOURS: Final = 100
"""Most neighbours of an item in a term: 800 bytes of each checkpoint per item and term."""

LEXICAL_FIELDS: Final = ("brand", "category", "colour")
"""Columns of the catalogue whose words queries name, beside `model.text.fields`."""


def fit_baseline(config: Config, dataset: Dataset, events: TrainEvents | None = None) -> Baseline:
    """Fit the baseline of the config on the train split only.

    The data set is on the CPU; without events they are read.

    Raises:
        UserError: a dense matrix does not fit into memory (ease).
    """
    check_size(config, dataset.manifest)
    read = events if events is not None else read_train_events(dataset.prepared)
    weights = FITS[config.model.kind](config, dataset, read)
    return Baseline(config.model.kind, weights, Lifts(len(dataset.catalogue)))


def _texts(dataset: Dataset) -> list[str]:
    fields = dataset.manifest.encoder.fields
    return make_texts(dataset.catalogue.table, fields).to_pylist()


def _popular(_: Config, dataset: Dataset, __: TrainEvents) -> Mapping[str, Tensor]:
    return fit_popular(dataset.catalogue.popularity_V)


def _recent(config: Config, dataset: Dataset, events: TrainEvents) -> Mapping[str, Tensor]:
    settings, num_items = config.model.baseline, len(dataset.catalogue)
    recent = {"days": settings.recent_days, "share": settings.recent_share}
    if config.eval.filter_seen:
        return fit_adoption(*count_adopted(events, num_items, **recent))
    return fit_log_counts(count_recent(events, num_items, **recent))


def _item_knn(config: Config, dataset: Dataset, events: TrainEvents) -> Mapping[str, Tensor]:
    settings = config.model.baseline
    return fit_item_knn(
        events,
        dataset.catalogue.popularity_V,
        num_neighbours=settings.num_neighbours,
        shrinkage=settings.shrinkage,
        half_life=settings.half_life,
    )


def _ease(config: Config, dataset: Dataset, events: TrainEvents) -> Mapping[str, Tensor]:
    settings = config.model.baseline
    return fit_ease(
        events,
        dataset.catalogue.popularity_V,
        ridge=settings.ridge,
        half_life=settings.half_life,
        max_items=settings.max_items,
        kept_weights=settings.kept_weights,
    )


def _graph(config: Config, dataset: Dataset, events: TrainEvents) -> Mapping[str, Tensor]:
    settings = config.model.baseline
    return fit_graph(
        events,
        dataset.catalogue.popularity_V,
        _texts(dataset),
        num_neighbours=settings.num_neighbours,
        lags=settings.lags,
        lag_decay=settings.lag_decay,
        second_hop=settings.second_hop,
        text_weight=settings.text_weight,
        recency=settings.recency,
    )


def _text(config: Config, dataset: Dataset, _: TrainEvents) -> Mapping[str, Tensor]:
    settings, by_encoder = config.model.baseline, config.model.baseline.text_vectors == "encoder"
    return fit_text(
        dataset.catalogue.popularity_V,
        texts=[] if by_encoder else _texts(dataset),
        text_VH=dataset.text_VH if by_encoder else None,
        recency=settings.recency,
    )


def _rp3beta(config: Config, dataset: Dataset, events: TrainEvents) -> Mapping[str, Tensor]:
    settings = config.model.baseline
    return fit_rp3beta(
        events,
        dataset.catalogue.popularity_V,
        num_neighbours=settings.num_neighbours,
        alpha=settings.alpha,
        beta=settings.beta,
        half_life=settings.half_life,
    )


def _buy_again(config: Config, dataset: Dataset, events: TrainEvents) -> Mapping[str, Tensor]:
    half_life, has_times = config.model.baseline.half_life, events.time_E is not None
    counts_V = dataset.catalogue.popularity_V
    return fit_buy_again(counts_V, half_life=half_life, has_times=has_times)


def _bm25(config: Config, dataset: Dataset, _: TrainEvents) -> Mapping[str, Tensor]:
    own = config.model.baseline
    counts_V = dataset.catalogue.popularity_V
    return fit_bm25(counts_V, _lexical_texts(dataset), k1=own.bm25_k1, b=own.bm25_b)


def _lexical_texts(dataset: Dataset) -> list[str]:
    fields = dict.fromkeys((*dataset.manifest.encoder.fields, *LEXICAL_FIELDS))
    return make_texts(dataset.catalogue.table, list(fields)).to_pylist()


def _values(dataset: Dataset) -> list[list[str]]:
    """Return the values of each item that queries name: levels of its categories, brand, colour.

    An item without any has the words of its text instead.
    """
    catalogue, table = dataset.catalogue, dataset.catalogue.table
    levels: list[list[str]] = []
    for name in catalogue.categories:
        path = [] if name == NO_CATEGORY else name.split(" > ")
        levels.append([f"category={path[: n + 1]}" for n in range(len(path))])
    lists = catalogue.category_lists.to_pylist()
    values = [[value for category in own for value in levels[category]] for own in lists]
    for name in LEXICAL_FIELDS:
        if name != "category" and name in table.column_names:
            for own, value in zip(values, as_text(table[name]).to_pylist(), strict=True):
                own += [f"{name}={value.casefold()}"] if value else []
    texts = _lexical_texts(dataset)
    return [own or words_of(text) for own, text in zip(values, texts, strict=True)]


def _hybrid(config: Config, dataset: Dataset, events: TrainEvents) -> Mapping[str, Tensor]:
    share = torch.tensor(config.model.baseline.lexical_weight)
    return {**_bm25(config, dataset, events), "lexical_weight": share}


def _query_words(config: Config, dataset: Dataset, _: TrainEvents) -> Mapping[str, Tensor]:
    text_VH = dataset.text_VH
    has_queries = dataset.queries_QH is not None
    query_P, item_P = read_query_clicks(dataset.prepared)
    clicks = QueryClicks(
        query_P=torch.as_tensor(query_P),
        item_P=torch.as_tensor(item_P),
        texts=dataset.query_texts.to_pylist() if has_queries else [],
        vectors_QH=text_VH[:0] if dataset.queries_QH is None else dataset.queries_QH,
        text_VH=text_VH,
        values_VL=sketch_values(_values(dataset)),
        counts_V=dataset.catalogue.popularity_V,
        category_V=dataset.categories[torch.arange(len(dataset.catalogue))][:, 0],
    )
    return fit_query_words(clicks, seed=config.seed)


FITS: Mapping[str, Fit] = {
    "popular": _popular,
    "recent_popular": _recent,
    "random": lambda config, dataset, _: fit_random(len(dataset.catalogue), config.seed),
    "item_knn": _item_knn,
    "ease": _ease,
    "graph": _graph,
    "text": _text,
    "rp3beta": _rp3beta,
    "buy_again": _buy_again,
    "bm25": _bm25,
    "text_cosine": _popular,  # the vectors are those of the data set
    "hybrid": _hybrid,
    "query_words": _query_words,
}
"""Kind of model -> function that fits it."""


def fit_terms(config: Config, dataset: Dataset) -> list[Baseline]:
    """Fit the terms of `model.blend` on the train split only.

    `buy_again` is left out where slates hold no item of the history, `recent_popular` where the log
    has no times, `query_words` where no train event has a query. The data set is on the CPU.

    Raises:
        UserError: a term does not fit into memory.
    """
    if not config.model.blend:
        return []
    events = read_train_events(dataset.prepared)
    num_queries = 0 if dataset.queries_QH is None else len(dataset.queries_QH)
    idle = {
        "buy_again": config.eval.filter_seen,
        "recent_popular": events.time_E is None,
        "query_words": not mark_seen(dataset.prepared, num_queries).any(),
    }
    return [
        fit_baseline(term_config(config, kind), dataset, events)
        for kind in config.model.blend
        if not idle.get(kind)
    ]


def term_config(config: Config, kind: BlendTerm) -> Config:
    """Return the config of a baseline that is a term.

    The graph has no text, which is a term of its own. EASE is cut to what fits any machine and
    checkpoint.
    """
    own = config.model.baseline
    baseline = own.model_copy(
        update={
            "text_weight": 0.0,
            "max_items": own.max_items or EASE_ITEMS,
            "num_neighbours": min(own.num_neighbours, NEIGHBOURS),
        }
    )
    model = config.model.model_copy(update={"kind": kind, "baseline": baseline})
    return config.model_copy(update={"model": model})
