"""Reference baselines for trained models: each is fitted once, without gradient training.

The settings of each kind are tuned on validation. Later reports on the same data set show the most
accurate run of each kind beside the front. EASE is restricted to 15,000 popular items, which takes
2.5 GiB.
"""

from recdiv_core.search_space import SearchSpace
from tune_spaces import FRONT

GRIDS = {
    "random": [{}],
    "popular": [{}],
    "recent_popular": [
        {"recent_days": 7.0, "recent_share": 0.1},
        {"recent_days": 28.0, "recent_share": 0.3},
    ],
    "item_knn": [{"half_life": half_life} for half_life in (0.0, 6.0, 90.0)],
    "ease": [
        {"max_items": 15_000, "ridge": ridge, "half_life": half_life}
        for ridge, half_life in ((100.0, 0.0), (100.0, 6.0), (1000.0, 0.0), (1000.0, 90.0))
    ],
    "rp3beta": [
        {"beta": beta, "half_life": half_life}
        for beta, half_life in ((0.1, 6.0), (0.3, 6.0), (0.3, 90.0), (0.6, 6.0))
    ],
    "graph": [
        {},
        {"text_weight": 0.6},
        {"text_weight": 1.0},
        {"text_weight": 1.5},
        {"text_weight": 0.1, "recency": 0.5},
        {"text_weight": 0.0, "recency": 0.5},
    ],
    "text": [{}, {"text_vectors": "encoder"}, {"recency": 0.5}],
    "buy_again": [{"half_life": half_life} for half_life in (0.0, 30.0, 90.0)],
    "bm25": [{}, {"bm25_k1": 1.2}, {"bm25_k1": 1.2, "bm25_b": 0.0}],
    "text_cosine": [{}],
    "hybrid": [{"lexical_weight": share} for share in (0.3, 0.5, 0.7)],
    "query_words": [{}],
}
"""Kind of model -> its points, as settings of `model.baseline`."""

SPACE = SearchSpace(
    description="the reference baselines, each tuned; fitted in one pass over the train events",
    parameters={},
    points=tuple(
        {"model.kind": kind} | {f"model.baseline.{key}": value for key, value in own.items()}
        for kind, grid in GRIDS.items()
        for own in grid
    ),
    objectives=FRONT,
    # one worker fits a baseline, so several run at once; a reference point needs no re-ranking
    fixed={"scaling.trial_workers": 1, "eval.dials": []},
)
