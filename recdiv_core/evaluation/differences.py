"""Differences between systems, with 95 % intervals and corrected p-values.

Not which systems are compared (compare.py). The one idea: each metric of each system becomes a
column of R resampled values, all columns from the same resampled users. A difference, a ratio, a
hypervolume or the diversity at equal accuracy is computed in each resample. Means over users are
bootstrapped (metrics/bootstrap.py); metrics of all slates together get values around the measured
one with the jackknife's variance (metrics/jackknife.py).

Legend: R resamples, S systems, M metrics, P = S * M, U users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recdiv_core.metrics.bootstrap import holm, interval, p_value, resampled_means
from recdiv_core.metrics.jackknife import UserResults, sample_metrics
from recdiv_core.metrics.tally import ATTENTION_METRICS, SYSTEM_METRICS

Floats = npt.NDArray[np.float64]

ACCURACY: Final = "ndcg"
"""The metric that stands for accuracy."""

SEED: Final = 0
LEVEL: Final = 0.95


@dataclass(frozen=True, eq=False)
class Resampled:
    """The metrics of systems, measured and resampled.

    Attributes:
        names: names of the metrics.
        values_SM: measured values.
        samples_RSM: resampled values; each column comes from the same users as all others of its
            kind (means over users; metrics of all slates).
        accuracy_RS: accuracy again, resampled together with the metrics of all slates.
    """

    names: tuple[str, ...]
    values_SM: Floats
    samples_RSM: Floats
    accuracy_RS: Floats

    def points(self, systems: Sequence[int], axis: str) -> tuple[Floats, Floats]:
        """Return (accuracy, axis) of some systems, [S, 2] measured and [R, S, 2] resampled."""
        pair = [self.names.index(ACCURACY), self.names.index(axis)]
        samples = self.samples_RSM[:, systems][:, :, pair]
        if axis in SYSTEM_METRICS or axis in ATTENTION_METRICS:
            samples = np.stack([self.accuracy_RS[:, systems], samples[:, :, 1]], axis=2)
        return self.values_SM[np.ix_(systems, pair)], samples


def resample(judged: Sequence[UserResults], num_resamples: int) -> Resampled:
    """Resample all metrics of all systems."""
    user, system = list(judged[0].users), [*SYSTEM_METRICS, *ATTENTION_METRICS]
    values_PU = np.concatenate([np.stack([each.users[name] for name in user]) for each in judged])
    means_RSM = resampled_means(values_PU, num_resamples, seed=SEED).reshape(
        num_resamples, len(judged), len(user)
    )
    together_RSM = sample_metrics(judged, [ACCURACY, *system], num_resamples, seed=SEED)
    names = (*user, *system)
    return Resampled(
        names=names,
        values_SM=np.array([[each.value(name) for name in names] for each in judged]),
        samples_RSM=np.concatenate([means_RSM, together_RSM[:, :, 1:]], axis=2),
        accuracy_RS=together_RSM[:, :, 0],
    )


def difference(before: float, behind: float, before_R: Floats, behind_R: Floats) -> dict[str, Any]:
    """Return a difference and its share of the reference, with 95 % intervals and a p-value.

    `before` is the reference, `behind` the other system; `before_R` and `behind_R` are resampled.

    Returns:
        numbers by name; None where a number does not exist (NaN: the front does not reach so far).
    """
    gain_R = behind_R - before_R
    low, high = interval(gain_R, level=LEVEL)
    percent = 100 * (behind - before) / before if before else float("nan")
    is_share = before > 0 and bool((before_R > 0).all())
    share_R = 100 * gain_R / before_R if is_share else np.full(len(gain_R), np.nan)
    percent_low, percent_high = interval(share_R, level=LEVEL)
    entry = {
        "reference": before,
        "other": behind,
        "difference": behind - before,
        "low": low,
        "high": high,
        "percent": percent,
        "percent_low": percent_low,
        "percent_high": percent_high,
        "p": p_value(gain_R) if np.isfinite(gain_R).all() else float("nan"),
    }
    return {name: value if np.isfinite(value) else None for name, value in entry.items()}


def correct_claims(comparisons: Sequence[Mapping[str, Any]]) -> int:
    """Set `p_holm` of all claims of all comparisons together; return the number of claims."""
    entries: list[dict[str, Any]] = []
    for comparison in comparisons:
        entries += comparison.get("metrics", {}).values()
        for axis in comparison.get("axes", {}).values():
            entries += axis.values()
    claims = [entry for entry in entries if entry.get("p") is not None]
    for entry, adjusted in zip(claims, holm([entry["p"] for entry in claims]), strict=True):
        entry["p_holm"] = adjusted
    return len(claims)
