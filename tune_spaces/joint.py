"""Both dials at once: the diversity weight in training, and light re-ranking afterwards.

Like `tradeoff`, but each weight is combined with each re-ranking dial. If this front is better than
the front of `tradeoff`, re-ranking adds to training.
"""

from ray import tune

from recdiv_core.search_space import SearchSpace
from tune_spaces import FRONT, FURTHER, WARM

SPACE = SearchSpace(
    description="diversity weight x re-rank dial, from one warm w = 0 model",
    parameters={
        "loss.diversity": tune.grid_search([{"coverage": 1.0}, {"ild": 1.0, "coverage": 1.0}]),
        "loss.diversity_weight": tune.grid_search([0.04, 0.08, 0.25]),
        "rerank.diversity": tune.grid_search([0.0, 0.1, 0.3]),
    },
    objectives=FRONT,
    fixed={**FURTHER, "rerank.method": "msd"},
    warm_start=WARM,
    grace_epochs=5,
)
