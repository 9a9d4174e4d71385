"""Figures of runs as they may come out for other users, and what a difference of two is worth.

Not which runs are compared (compare.py). The one idea: every figure of every run is a column of
draws, all columns from the same users; a difference, a ratio, a hypervolume or the diversity at a
matched accuracy is worked out draw by draw. Means over users are resampled (metrics/bootstrap.py);
figures of all slates together are drawn around their value (metrics/jackknife.py).

Legend: R draws, S runs, M metrics, P = S * M figures, U users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recdiv_core.metrics.bootstrap import holm, interval, p_value, resampled_means
from recdiv_core.metrics.jackknife import UserResults, sample_metrics
from recdiv_core.metrics.tally import SYSTEM_METRICS

Floats = npt.NDArray[np.float64]

ACCURACY: Final = "ndcg"
"""The metric that everything else is paid with."""

SEED: Final = 0
LEVEL: Final = 0.95


@dataclass(frozen=True, eq=False)
class Drawn:
    """The figures of runs, and as they may come out for other users.

    Attributes:
        names: of the metrics.
        figures_SM: as measured.
        draws_RSM: each column from the same users as all others of its kind.
        accuracy_RS: accuracy again, drawn together with the figures of all slates.
    """

    names: tuple[str, ...]
    figures_SM: Floats
    draws_RSM: Floats
    accuracy_RS: Floats

    def points(self, places: Sequence[int], axis: str) -> tuple[Floats, Floats]:
        """Return (accuracy, axis) of some runs, [S, 2] measured and [R, S, 2] drawn."""
        pair = [self.names.index(ACCURACY), self.names.index(axis)]
        drawn = self.draws_RSM[:, places][:, :, pair]
        if axis in SYSTEM_METRICS:
            drawn = np.stack([self.accuracy_RS[:, places], drawn[:, :, 1]], axis=2)
        return self.figures_SM[np.ix_(places, pair)], drawn


def draw(judged: Sequence[UserResults], num_draws: int) -> Drawn:
    """Draw all figures of all runs."""
    user, system = list(judged[0].users), list(SYSTEM_METRICS)
    values_PU = np.concatenate([np.stack([each.users[name] for name in user]) for each in judged])
    means_RSM = resampled_means(values_PU, num_draws, seed=SEED).reshape(
        num_draws, len(judged), len(user)
    )
    together_RSM = sample_metrics(judged, [ACCURACY, *system], num_draws, seed=SEED)
    names = (*user, *system)
    return Drawn(
        names=names,
        figures_SM=np.array([[each.value(name) for name in names] for each in judged]),
        draws_RSM=np.concatenate([means_RSM, together_RSM[:, :, 1:]], axis=2),
        accuracy_RS=together_RSM[:, :, 0],
    )


def difference(before: float, behind: float, before_R: Floats, behind_R: Floats) -> dict[str, Any]:
    """Return a difference and its share of the reference, with intervals.

    Figures that are not there (NaN: a front that does not reach) leave None.
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
    """Set `p_holm` of all claims of all comparisons together; return how many there are."""
    entries: list[dict[str, Any]] = []
    for comparison in comparisons:
        entries += comparison.get("metrics", {}).values()
        for axis in comparison.get("axes", {}).values():
            entries += axis.values()
    claims = [entry for entry in entries if entry.get("p") is not None]
    for entry, adjusted in zip(claims, holm([entry["p"] for entry in claims]), strict=True):
        entry["p_holm"] = adjusted
    return len(claims)
