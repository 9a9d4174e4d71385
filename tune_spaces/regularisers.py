"""Compare regularisers: each one alone at two weights, except regularisers of an attribute.

Regularisers of single slates reduce accuracy even at small weights. Regularisers of all slates
together allow larger weights. Try a regulariser of an attribute in a single run.
"""

from ray import tune

from recdiv_core.search_space import SearchSpace
from tune_spaces import FRONT, FURTHER, WARM

SPACE = SearchSpace(
    description="each regulariser alone, from one warm w = 0 model",
    parameters={
        "loss.diversity": tune.grid_search(
            [
                {name: 1.0}
                for name in (
                    "ild",
                    "dpp",
                    "category_entropy",
                    "category_coverage",
                    "calibration",
                    "user_adaptive",
                    "coverage",
                    "exposure",
                    "popularity_power",
                    "mutual_information",
                )
            ]
        ),
        "loss.diversity_weight": tune.grid_search([0.03, 0.1]),
    },
    objectives=FRONT,
    fixed=FURTHER,
    warm_start=WARM,
    grace_epochs=5,
)
