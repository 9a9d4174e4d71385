"""Reference baselines for trained models: each is fitted once, without gradient training.

Later reports on the same data set show these runs beside the front.
"""

from ray import tune

from recdiv_core.search_space import SearchSpace
from tune_spaces import FRONT

SPACE = SearchSpace(
    description="the reference baselines, fitted in one pass over the train events",
    parameters={
        "model.kind": tune.grid_search(
            ["random", "popular", "recent_popular", "item_knn", "ease", "graph", "text"],
        ),
    },
    objectives=FRONT,
)
