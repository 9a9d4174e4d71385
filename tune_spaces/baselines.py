"""What any model must beat: each reference baseline once, nothing trained.

Later reports of the same data set draw these runs beside their fronts.
"""

from ray import tune

from recdiv_core.search_space import SearchSpace
from tune_spaces import FRONT

SPACE = SearchSpace(
    description="the reference baselines, fitted in one pass over the train events",
    parameters={
        "model.kind": tune.grid_search(
            ["random", "popular", "recent_popular", "item_knn", "ease"],
        ),
    },
    objectives=FRONT,
)
