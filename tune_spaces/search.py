"""Search the weight and the mix with TPE, for budgets below the size of a grid.

Like `tradeoff`, but the weight comes from a range and the search learns from finished trials. Each
trial is also re-ranked (`eval.dials`); the search learns from the model's own order. A trial
below 95 % of the baseline's accuracy is shown, but not recommended. Later sweeps of the same base
model (`train.init_from=CHECKPOINT`) reuse the trials of earlier ones.
"""

from ray import tune

from recdiv_core.search_space import Constraint, SearchSpace
from tune_spaces import FRONT, FURTHER, WARM

SPACE = SearchSpace(
    description="diversity weight x mix by TPE, from one warm w = 0 model",
    parameters={
        "loss.diversity_weight": tune.loguniform(0.01, 0.4),
        "loss.diversity": tune.choice(
            [
                {"coverage": 1.0},
                {"ild": 1.0, "coverage": 1.0},
                {"category_entropy": 1.0, "coverage": 1.0},
            ]
        ),
    },
    objectives=FRONT,
    search="tpe",
    num_samples=24,
    constraints=(Constraint("val/ndcg", at_least=0.95),),
    learn_from_earlier=True,
    fixed=FURTHER,
    warm_start=WARM,
    grace_epochs=2,
)
