"""Two short trials that test whether sweeps run on this machine."""

from ray import tune

from recdiv_core.search_space import Objective, SearchSpace

SPACE = SearchSpace(
    description="two short trials, with and without diversity",
    parameters={"loss.diversity_weight": tune.grid_search([0.0, 0.5])},
    objectives=(
        Objective("val/ndcg", "max", reference=0.0),
        Objective("val/coverage", "max", reference=0.0),
    ),
    fixed={"train.epochs": 1, "model.num_layers": 1},
)
