# pyright: strict
"""Reference baselines for comparison with trained models, and terms of a blended score.

A baseline needs no gradient training. It is fitted in closed form from train events and item texts,
given as plain arrays (train_events.py). It scores users from their histories (histories.py). A
baseline is a mapping of tensors, saved and loaded like any weights. A user's scores depend only on
that user, so they are the same in any batch and on any worker.
"""

from recdiv_core.models.baselines.histories import Histories
from recdiv_core.models.baselines.table import READ_QUERIES, SCORES, Baseline
from recdiv_core.models.baselines.train_events import TrainEvents

__all__ = ["READ_QUERIES", "SCORES", "Baseline", "Histories", "TrainEvents"]
