"""Search spaces: one SPACE per file, data only. This module holds settings of several spaces."""

from typing import Final

from recdiv_core.search_space import Objective

FRONT: Final = tuple(
    Objective(f"val/{name}", "max", reference=0.0)
    for name in ("ndcg", "coverage", "ild", "diversity_index")
)
"""Axes of the fronts of most spaces: accuracy and three kinds of diversity."""

FURTHER: Final = {"train.epochs": 5, "train.learning_rate": 1e-3, "train.select": "last"}
"""Settings of trials that start from a base model: equal epochs, evaluated at the last one."""

WARM: Final = {"train.epochs": 15, "train.learning_rate": 2e-3}
"""Settings of the base model, trained at w = 0."""
