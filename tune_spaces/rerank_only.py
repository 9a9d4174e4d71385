"""Compare re-rankers and dials on one trained model: only the base model is trained.

With a checkpoint, nothing is trained:

    recdiv tune --space rerank_only data.prepared=DIR train.init_from=CHECKPOINT

All settings of `eval.dials` share one pass over the scores; a trial changes only the number of
candidates. The dial has a different scale in each re-ranker; the front compares them at equal
accuracy.
"""

from ray import tune

from recdiv_core.search_space import SearchSpace
from tune_spaces import FRONT, WARM

METHODS = ("mmr", "msd", "dpp", "ssd", "xquad", "calibrated", "alpha", "beam", "exposure")

SPACE = SearchSpace(
    description="re-ranker x dial x logit adjustment, on one frozen model",
    parameters={"rerank.num_candidates": tune.grid_search([50, 200])},
    objectives=FRONT,
    fixed={
        "train.epochs": 0,
        "eval.dials": [
            "logit 0.05",
            "logit 0.1",
            "logit 0.25",
            "logit 0.5",
            *(
                f"{method} {dial}{factor}"
                for method in METHODS
                for dial in (0.1, 0.2, 0.3, 0.4, 0.6)
                for factor in ("", " logit 0.1", " logit 0.25")
            ),
        ],
    },
    warm_start=WARM,
)
