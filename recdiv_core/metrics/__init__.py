# pyright: strict
"""Metrics of slates, as sums that add over batches and workers (tally.py says how to use them).

accuracy, intent, diversity, exposure, calibration and fairness hold the definitions; judged holds
what they look at; scorecard the whole set; groups the sums of parts of the shop. Arrays and lists
come in through `evaluate_slates` (arrays.py).
"""

from recdiv_core.metrics.arrays import evaluate_slates
from recdiv_core.metrics.tally import SYSTEM_METRICS, USER_METRICS, Tally, finish, tally_slates

__all__ = [
    "SYSTEM_METRICS",
    "USER_METRICS",
    "Tally",
    "evaluate_slates",
    "finish",
    "tally_slates",
]
