"""Learning rate and dropout at w = 0; tune them first, before diversity."""

from ray import tune

from recdiv_core.search_space import Objective, SearchSpace

SPACE = SearchSpace(
    description="learning rate and dropout at w = 0",
    parameters={
        "train.learning_rate": tune.grid_search([1e-3, 2e-3, 4e-3]),
        "model.dropout": tune.grid_search([0.2, 0.3, 0.4]),
    },
    objectives=(
        Objective("val/ndcg", "max", reference=0.0),
        Objective("val/coverage", "max", reference=0.0),
    ),
    fixed={"train.epochs": 15},
    grace_epochs=5,
)
