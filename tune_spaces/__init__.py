"""What one sweeps: one SPACE a file, data only; here what several of them share."""

from typing import Final

from recdiv_core.search_space import Objective

FRONT: Final = tuple(
    Objective(f"val/{name}", "max", reference=0.0)
    for name in ("ndcg", "coverage", "ild", "diversity_index")
)
"""Accuracy, and what is traded for it: the axes that the fronts of all spaces share."""

FURTHER: Final = {"train.epochs": 5, "train.learning_rate": 1e-3, "train.select": "last"}
"""What trials do that go on from a warm model: all the same epochs, judged after the last one."""

WARM: Final = {"train.epochs": 15, "train.learning_rate": 2e-3}
"""The w = 0 model that they go on from."""
