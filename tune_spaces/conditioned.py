"""A whole front from one training: a conditioned model, evaluated at a grid of its dial.

The base model is trained once for all weights up to `loss.diversity_weight`. A trial trains
nothing; it only sets `model.diversity`. `tradeoff` trains a model for each point instead.
"""

from ray import tune

from recdiv_core.search_space import SearchSpace
from tune_spaces import FRONT

MODEL = {
    "loss.conditioned": True,
    "loss.diversity_weight": 0.45,
}

SPACE = SearchSpace(
    description="the dial of one conditioned model",
    parameters={"model.diversity": tune.grid_search([0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0])},
    objectives=FRONT,
    fixed={**MODEL, "train.epochs": 0, "train.select": "last"},
    warm_start={**MODEL, "train.epochs": 15, "train.learning_rate": 2e-3},
)
