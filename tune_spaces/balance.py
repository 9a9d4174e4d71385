"""How to balance: the same mix under each way of joining relevance and penalty."""

from ray import tune

from recdiv_core.search_space import Objective, SearchSpace

SPACE = SearchSpace(
    description="ways to balance relevance and diversity, from one warm w = 0 model",
    parameters={
        "loss.balance": tune.grid_search(["weighted_sum", "tchebycheff", "mgda", "pcgrad"]),
        "loss.diversity_weight": tune.grid_search([0.04, 0.1, 0.3]),
    },
    objectives=(
        Objective("val/ndcg_at_10", "max", reference=0.0),
        Objective("val/coverage_at_10", "max", reference=0.0),
        Objective("val/ild_at_10", "max", reference=0.0),
        Objective("val/diversity_index_at_10", "max", reference=0.0),
    ),
    fixed={
        "train.epochs": 5,
        "train.learning_rate": 1e-3,
        "train.select": "last",
        "loss.diversity": {"ild": 1.0, "coverage": 4.0},
    },
    warm_start={"train.epochs": 15, "train.learning_rate": 2e-3},
    grace_epochs=5,
)
