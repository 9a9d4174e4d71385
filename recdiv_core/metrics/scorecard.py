# pyright: strict
"""The whole set of metrics, which `pipelines.evaluate` reports; tally.py has those of every epoch.

The set is a table of functions, defined in the modules of their families. Its tally adds like any
other, and the metrics of all slates together are computed from the exposures in the tally.

    metrics = user_metrics(traits.attributes)
    tally = Tally.zeros(traits, k=10, names=metrics)
    for slates_BK, targets_BT, background in batches:
        tally += tally_slates(
            slates_BK, targets_BT, traits, k=10, metrics=metrics, background=background
        )
    values = finish_scorecard(tally)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final, Literal

from torch import Tensor

from recdiv_core.metrics import accuracy, between, calibration, diversity, exposure, intent
from recdiv_core.metrics.tally import USER_METRICS, Tally, UserMetrics, finish

FURTHER_METRICS: Final[UserMetrics] = {
    "recall_capped": accuracy.recall_capped,
    "auc": accuracy.auc,
    "ilmd": diversity.ilmd,
    "category_ild": diversity.category_ild,
    "effective_categories": diversity.effective_categories,
    "vendi": diversity.vendi,
    "alpha_ndcg": intent.alpha_ndcg,
    "err_ia": intent.err_ia,
    "popularity": exposure.popularity,
    "tail_share": exposure.tail_share,
    "epc": exposure.epc,
    "serendipity": exposure.serendipity,
    "unexpectedness": exposure.unexpectedness,
    "user_coverage": exposure.user_coverage,
    "full_slates": exposure.full_slates,
    "calibration_kl": calibration.calibration_kl,
    "calibration_js": calibration.calibration_js,
}
"""Metrics averaged over users, as USER_METRICS; auc and calibration need a background."""

FURTHER_SYSTEM_METRICS: Final[Mapping[str, Callable[[Tensor], float]]] = {
    "distributional_coverage": exposure.distributional_coverage,
    "exposure_entropy": exposure.exposure_entropy,
}
"""Metrics of all slates together: exposure_V -> a number."""


Input = Literal["embeddings", "categories", "popularity", "histories", "scores"]

NEEDS: Final[Mapping[Input, tuple[str, ...]]] = {
    "embeddings": ("ild", "ilmd", "vendi"),
    "categories": (
        "category_coverage",
        "diversity_index",
        "homogeneity",
        "category_ild",
        "gini_simpson",
        "effective_categories",
        "alpha_ndcg",
        "err_ia",
        "calibration_kl",
        "calibration_js",
        "narrowed",
        "between_diversity",
        "total_diversity",
    ),
    "popularity": (
        "novelty",
        "popularity",
        "tail_share",
        "epc",
        "serendipity",
        "unexpectedness",
    ),
    "histories": ("calibration_kl", "calibration_js", "narrowed"),
    "scores": ("auc",),
}
"""Input -> the metrics that cannot be computed without it. No other metric needs any of these."""


def user_metrics(
    attributes: Mapping[str, Tensor], *, without: Collection[Input] = ()
) -> UserMetrics:
    """Return all metrics that are averaged over users, and the coverage of each attribute.

    Args:
        attributes: name -> [V] int64 index of each item's value, -1 = unknown.
        without: inputs that are not known; metrics that need one of them are left out.
    """
    by_attribute = {
        f"{name}_coverage": partial(diversity.attribute_coverage, values_V=values_V)
        for name, values_V in attributes.items()
    }
    left_out = {name for unknown in without for name in NEEDS[unknown]}
    metrics = {**USER_METRICS, **FURTHER_METRICS, **by_attribute}
    return {name: metric for name, metric in metrics.items() if name not in left_out}


def finish_scorecard(tally: Tally) -> dict[str, float]:
    """Divide the sums: return every metric under its name with the cut-off, as `tally.finish`.

    Raises:
        UserError: the split holds no user.
    """
    figures = finish(tally)
    further = {name: metric(tally.exposure_V) for name, metric in FURTHER_SYSTEM_METRICS.items()}
    further["personalisation"] = exposure.personalisation(
        tally.exposure_V, int(tally.num_users), tally.k
    )
    if "gini_simpson" in tally.names:
        num_users = max(1, int(tally.num_users))
        further["total_diversity"] = between.total_diversity(tally.shares_G, num_users)
    return figures | {f"{name}_at_{tally.k}": value for name, value in further.items()}
