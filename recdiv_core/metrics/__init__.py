# pyright: strict
"""Metrics of slates, as sums that add over batches and workers (tally.py says how to use them).

accuracy, diversity and exposure hold the definitions; judged what they look at.
"""

from recdiv_core.metrics.judged import CatalogueFacts, catalogue_facts
from recdiv_core.metrics.tally import SYSTEM_METRICS, USER_METRICS, Tally, finish, tally_slates

__all__ = [
    "SYSTEM_METRICS",
    "USER_METRICS",
    "CatalogueFacts",
    "Tally",
    "catalogue_facts",
    "finish",
    "tally_slates",
]
