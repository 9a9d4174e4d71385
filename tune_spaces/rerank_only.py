"""Compare re-rankers and dials on one trained model: only the base model is trained.

With a checkpoint, nothing is trained:

    recdiv tune --space rerank_only data.prepared=DIR train.init_from=CHECKPOINT

The dial has a different scale in each re-ranker; the front compares them at equal accuracy.
"""

from ray import tune

from recdiv_core.search_space import SearchSpace
from tune_spaces import FRONT, WARM

SPACE = SearchSpace(
    description="re-ranker x dial, on one frozen model",
    parameters={
        "rerank.method": tune.grid_search(
            ["mmr", "msd", "dpp", "ssd", "xquad", "calibrated", "alpha", "beam", "exposure"]
        ),
        "rerank.diversity": tune.grid_search([0.1, 0.3, 0.6]),
    },
    objectives=FRONT,
    fixed={"train.epochs": 0},
    warm_start=WARM,
)
