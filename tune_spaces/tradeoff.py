"""The sweep the product exists for: how much diversity for how much accuracy.

One w = 0 model is trained first; every trial goes on from it with a diversity weight and a mix of
regularisers, so that a trial costs a fraction of a training from nothing. w = 0 is among the trials,
with the same extra epochs: the fair baseline.
"""

from ray import tune

from recdiv_core.search_space import Objective, SearchSpace

SPACE = SearchSpace(
    description="diversity weight x mix of regularisers, from one warm w = 0 model",
    parameters={
        "loss.diversity_weight": tune.grid_search([0.0, 0.1, 0.3, 0.5]),
        "loss.diversity": tune.grid_search(
            [{"exposure": 1.0}, {"ild": 1.0, "category_entropy": 1.0, "exposure": 1.0}]
        ),
    },
    objectives=(
        Objective("val/ndcg_at_10", "max", reference=0.0),
        Objective("val/coverage_at_10", "max", reference=0.0),
        Objective("val/ild_at_10", "max", reference=0.0),
        Objective("val/diversity_index_at_10", "max", reference=0.0),
    ),
    warm_start={"train.epochs": 15, "train.patience": 5},
    grace_epochs=3,
)
