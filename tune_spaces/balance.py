"""Compare the ways to combine relevance and penalty, on one mix of regularisers."""

from ray import tune

from recdiv_core.search_space import SearchSpace
from tune_spaces import FRONT, FURTHER, WARM

SPACE = SearchSpace(
    description="ways to balance relevance and diversity, from one warm w = 0 model",
    parameters={
        "loss.balance": tune.grid_search(["weighted_sum", "tchebycheff"]),
        "loss.diversity_weight": tune.grid_search([0.04, 0.1, 0.3]),
    },
    objectives=FRONT,
    fixed={**FURTHER, "loss.diversity": {"ild": 1.0, "coverage": 4.0}},
    warm_start=WARM,
    grace_epochs=5,
)
