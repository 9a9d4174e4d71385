"""The sweep the product exists for: how much diversity for how much accuracy.

One w = 0 model is trained first. Every trial goes on from it with a diversity weight and a mix of
regularisers, and so costs a fraction of a training from nothing; one goes on at w = 0 for the same
epochs, the baseline. All are judged after their last epoch: coverage grows with every epoch, and a
comparison of unequal ones would credit the dial with it. Small weights: the useful range ends where
accuracy does.
"""

from ray import tune

from recdiv_core.search_space import SearchSpace
from tune_spaces import FRONT, FURTHER, WARM

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
    objectives=FRONT,
    fixed=FURTHER,
    warm_start=WARM,
    # coverage grows with every epoch: a trial stopped early looks popularity-collapsed
    grace_epochs=5,
)
