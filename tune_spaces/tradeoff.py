"""The main sweep: the trade-off of diversity against accuracy.

A base model is trained first, at w = 0. Every trial starts from it with a diversity weight and a
mix of regularisers. This takes a fraction of the time of training from scratch. The baseline also
starts from it, at w = 0, for the same epochs. All trials are compared after their last epoch,
because coverage grows with every epoch. The mixes are mostly `coverage`, two of them with penalties
inside the slate that keep slates from narrowing. At the end each model is also evaluated with
light re-ranking (`eval.dials`), which raises ILD and the diversity index at a lower cost.
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
                {"ild": 2.0, "category_entropy": 1.0, "coverage": 6.0},
                {"category_entropy": 1.0, "coverage": 24.0},
            ]
        ),
        "loss.diversity_weight": tune.grid_search([0.1, 0.3, 0.65]),
    },
    objectives=FRONT,
    fixed=FURTHER,
    warm_start=WARM,
    # coverage grows with every epoch, so a trial stopped early has too little of it
    grace_epochs=5,
)
