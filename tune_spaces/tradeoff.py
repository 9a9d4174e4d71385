"""The sweep the product exists for: how much diversity for how much accuracy.

One w = 0 model is trained first. Every trial goes on from it with a diversity weight and a mix of
regularisers, and so costs a fraction of a training from nothing; one goes on at w = 0 for the same
epochs, the baseline. All are judged after their last epoch: coverage grows with every epoch, and a
comparison of unequal ones would credit the dial with it. Small weights: the useful range ends where
accuracy does.
"""

from ray import tune

from recdiv_core.search_space import Objective, SearchSpace

SPACE = SearchSpace(
    description="diversity weight x mix of regularisers, from one warm w = 0 model",
    parameters={
        "loss.diversity": tune.grid_search(
            [
                {"coverage": 1.0},
                {"ild": 1.0, "coverage": 1.0},
                {"category_entropy": 1.0, "coverage": 1.0},
            ]
        ),
        "loss.diversity_weight": tune.grid_search([0.04, 0.08, 0.25]),
    },
    objectives=(
        Objective("val/ndcg_at_10", "max", reference=0.0),
        Objective("val/coverage_at_10", "max", reference=0.0),
        Objective("val/ild_at_10", "max", reference=0.0),
        Objective("val/diversity_index_at_10", "max", reference=0.0),
    ),
    fixed={"train.epochs": 5, "train.learning_rate": 1e-3, "train.select": "last"},
    warm_start={"train.epochs": 15, "train.learning_rate": 2e-3},
    # coverage grows with every epoch: a trial stopped early looks popularity-collapsed
    grace_epochs=5,
)
