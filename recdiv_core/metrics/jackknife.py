# pyright: strict
"""Uncertainty of coverage, Gini and other metrics of all slates together: the jackknife.

Not for means over users alone (bootstrap.py). The estimand is the expected metric of another U
users from the same population, with the same models and catalogue. The observed metric is unbiased
for it. This module estimates how much the metric varies between samples of U users, jointly with
the metrics that it is compared with.

The variance of a function of U independent users is a sum of interactions of one user, two users
and so on (Hoeffding). The jackknife counts an interaction of c users c times, so it overestimates
(Efron & Stein, 1981, The Jackknife Estimate of Variance). For smooth metrics such as Gini the
excess is negligible. For coverage it doubles the variance. But there the interaction of a set A of
users is the number n_A of items that are in the slates of all users of A and of no other user, and
the sum has a closed form (after Houdre, 1995, The Iterated Jackknife Estimate of Variance):

    V^2 variance = sum over sets A of (-1)^(|A| + 1) n_A^2, minus U times the squared mean of n_{u}

If no two items have the same users this is F_1 - F_2 + F_3 - ..., with F_k the number of items in k
slates. This is what Good & Toulmin, 1956, expect another U users to add. Their series oscillates,
so it is damped with the binomial weights of Efron & Thisted, 1976, Estimating the Number of Unseen
Species. Two models are compared by the difference of their n_A.

Legend: S models, M metrics, F = S * M values, R samples, G groups of users that are left out, U
users, K slate length, V catalogue, A sets of users, N the sets of users of items, model by model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from recdiv_core.errors import UserError
from recdiv_core.metrics.bootstrap import mean_of_existing
from recdiv_core.metrics.exposure import discounts
from recdiv_core.metrics.tally import ATTENTION_METRICS, SYSTEM_METRICS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]

DAMPING: Final = 5
"""Trials of the binomial, and the largest set of users that is counted. Fewer trials widen the
intervals; more make them noisier."""

FLOOR: Final = 0.5
"""Lower bound of the variance of coverage, as a share of the jackknife's. The true share was
measured between 0.47 (where nearly every item that can be shown is shown) and 0.8."""

NUM_GROUPS: Final = 250
NUM_GROUPINGS: Final = 2
"""Random groups of users to leave out, and groupings: standard errors are exact to 3 %."""


@dataclass(frozen=True, eq=False)
class UserResults:
    """The slates of one model for the users of a split, and their metrics per user.

    Attributes:
        users: name -> [U] values of a metric that is averaged over users; NaN = it does not exist
            for this user.
        slates_UK: [U, K] item_index, -1 = no item; users in the same order.
        num_items: V.
    """

    users: Mapping[str, Floats]
    slates_UK: Integers
    num_items: int

    def __post_init__(self) -> None:
        """Check that all arrays have the same users, and items are in the catalogue."""
        slates = self.slates_UK
        if slates.ndim != 2:
            raise ValueError(f"slates {list(slates.shape)} must be [U, K]")
        if slates.size and not -1 <= slates.min() <= slates.max() < self.num_items:
            raise ValueError(f"slates hold items out of -1..{self.num_items - 1}")
        for name, values_U in self.users.items():
            if values_U.shape != (len(slates),):
                raise ValueError(f"{name} {list(values_U.shape)} must be [U] with U={len(slates)}")

    @cached_property
    def exposure_V(self) -> npt.NDArray[np.int64]:
        """Number of slates that hold each item, [V] int64."""
        return _exposure(self.slates_UK, self.num_items)

    @cached_property
    def attention_V(self) -> Floats:
        """Sum over slates of 1 / log2(rank + 1) of each item, [V]."""
        return _attention(self.slates_UK, self.num_items)

    def value(self, name: str) -> float:
        """Return a metric: the mean over users, or the metric of all slates together."""
        if name in self.users:
            return float(mean_of_existing(self.users[name]))
        if name in ATTENTION_METRICS:
            return ATTENTION_METRICS[name](torch.tensor(self.attention_V))
        return SYSTEM_METRICS[name](torch.tensor(self.exposure_V))


def join_users(parts: Sequence[UserResults]) -> UserResults:
    """Return the users of several batches as one.

    Raises:
        UserError: there is no user.
    """
    if not any(len(part.slates_UK) for part in parts):
        raise UserError("no user has a held-out target: there is nothing to compare")
    return UserResults(
        {name: np.concatenate([part.users[name] for part in parts]) for name in parts[0].users},
        np.concatenate([part.slates_UK for part in parts]),
        parts[0].num_items,
    )


def sample_metrics(
    judged: Sequence[UserResults], names: Sequence[str], num_draws: int, *, seed: int
) -> Floats:
    """Sample metrics as they may come out for other users: normal, around the observed values.

    A difference, ratio or hypervolume computed from each sample has the spread that it would have
    over samples of users.

    Args:
        judged: models on the same users.
        names: metrics, averaged over users or of all slates.
        num_draws: R samples.
        seed: random seed.

    Returns:
        [R, S, M].
    """
    figures_F = np.array([each.value(name) for each in judged for name in names])
    values, vectors = np.linalg.eigh(metric_covariance(judged, names, seed=seed))
    root_FF = vectors * np.sqrt(
        values.clip(min=0)
    )  # coverage and the other metrics are estimated separately
    rng = np.random.default_rng(seed)
    normal_RF = rng.standard_normal((num_draws, len(figures_F)))
    return (figures_F + normal_RF @ root_FF.T).reshape(num_draws, len(judged), len(names))


def metric_covariance(
    judged: Sequence[UserResults],
    names: Sequence[str],
    *,
    seed: int,
    num_groupings: int = NUM_GROUPINGS,
) -> Floats:
    """Return the covariance of the metrics of models over samples of users, [F, F].

    Args:
        judged: models on the same users, at least two users.
        names: metrics; the metrics of a model are adjacent in the result.
        seed: random seed of the groups of users.
        num_groupings: random groupings to average over.

    Raises:
        ValueError: the numbers of users differ, or there is only one user.
    """
    sizes = {len(each.slates_UK) for each in judged}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"models must have the same users, at least two; got {sizes} users")
    num_users, rng = sizes.pop(), np.random.default_rng(seed)
    num_groups = min(NUM_GROUPS, num_users)
    covariance_FF = np.zeros((len(judged) * len(names),) * 2)
    for _ in range(num_groupings):
        group_U = rng.permutation(num_users) % num_groups
        left_GF = np.concatenate([leave_out(each, names, group_U) for each in judged], axis=1)
        deviations_GF = left_GF - left_GF.mean(axis=0)
        covariance_FF += deviations_GF.T @ deviations_GF * (num_groups - 1) / num_groups
    covariance_FF /= num_groupings
    if "coverage" in names:
        places = np.arange(len(judged)) * len(names) + names.index("coverage")
        covariance_FF[np.ix_(places, places)] = coverage_covariance(judged)
    return covariance_FF


def leave_out(judged: UserResults, names: Sequence[str], group_U: Integers) -> Floats:
    """Return a model's metrics with each group of users left out, [G, M]."""
    num_groups = int(group_U.max()) + 1
    sizes_G = np.bincount(group_U, minlength=num_groups)
    columns: dict[str, Floats] = {}
    for name in names:
        if name in judged.users:
            columns[name] = _means_left(judged.users[name], group_U, num_groups)
        else:
            columns[name] = np.empty(num_groups)
    system = [name for name in names if name not in judged.users]
    order_U = np.argsort(group_U, kind="stable")
    parts = np.split(judged.slates_UK[order_U], np.cumsum(sizes_G)[:-1])
    for group, part in enumerate(parts if system else []):
        left_V = torch.tensor(judged.exposure_V - _exposure(part, judged.num_items))
        attention_V = judged.attention_V - _attention(part, judged.num_items)
        # rounding leaves traces of items that nobody else saw
        attention_V = torch.tensor(np.where(left_V.numpy() > 0, attention_V, 0.0))
        for name in system:
            is_weighted = name in ATTENTION_METRICS
            metric = ATTENTION_METRICS[name] if is_weighted else SYSTEM_METRICS[name]
            columns[name][group] = metric(attention_V if is_weighted else left_V)
    return np.stack([columns[name] for name in names], axis=1)


def _means_left(values_U: Floats, group_U: Integers, num_groups: int) -> Floats:
    """Return the mean of the values that exist, with each group of users left out, [G]."""
    exists_U = ~np.isnan(values_U)
    values_U = np.where(exists_U, values_U, 0.0)
    sums_G = np.bincount(group_U, weights=values_U, minlength=num_groups)
    counts_G = np.bincount(group_U, weights=exists_U, minlength=num_groups)
    with np.errstate(invalid="ignore"):
        return (values_U.sum() - sums_G) / (exists_U.sum() - counts_G)


def coverage_covariance(judged: Sequence[UserResults]) -> Floats:
    """Return the covariance of the coverages of models on the same users, [S, S].

    In every direction it is at least FLOOR times the jackknife's, in which each model gets one more
    item that is in one slate only: between models that differ in a few items the series is mostly
    noise. Models with the same slates are fully correlated.
    """
    of_sets_SA, size_A = item_sets(judged)
    own_SA, model_S = np.unique(of_sets_SA, axis=0, return_inverse=True)
    num_users, num_items = len(judged[0].slates_UK), judged[0].num_items
    of_one_S = own_SA[:, size_A == 1].sum(axis=1)
    mean_SS = np.outer(of_one_S, of_one_S) / num_users - np.eye(len(own_SA))
    jackknife_SS = own_SA[:, size_A == 1] @ own_SA[:, size_A == 1].T - mean_SS
    series_SS = (own_SA * _signed_weights()[size_A]) @ own_SA.T - mean_SS
    root_SS = np.linalg.cholesky(jackknife_SS)
    inverse_SS = np.linalg.inv(root_SS)
    shares, directions_SS = np.linalg.eigh(inverse_SS @ series_SS @ inverse_SS.T)
    root_SS = root_SS @ directions_SS * np.sqrt(shares.clip(min=FLOOR))
    model_S = model_S.ravel()
    return (root_SS @ root_SS.T / num_items**2)[np.ix_(model_S, model_S)]


def item_sets(judged: Sequence[UserResults]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Count, for each set of users, the items that are in the slates of exactly these users.

    Returns:
        of_sets_SA: n_A of each model, for the sets of up to DAMPING users that occur;
        size_A: number of users of each set.
    """
    tokens_S, sizes_S = zip(*(_user_sets(each) for each in judged), strict=True)
    model_N = np.repeat(np.arange(len(judged)), [len(tokens) for tokens in tokens_S])
    found_A, first_A, set_N = np.unique(
        np.concatenate(tokens_S), return_index=True, return_inverse=True
    )
    of_sets_SA = np.zeros((len(judged), len(found_A)))
    np.add.at(of_sets_SA, (model_N, set_N), 1.0)
    return of_sets_SA, np.concatenate(sizes_S)[first_A]


def _exposure(slates_UK: Integers, num_items: int) -> npt.NDArray[np.int64]:
    return np.bincount(slates_UK.ravel() + 1, minlength=num_items + 1)[1:]


def _attention(slates_UK: Integers, num_items: int) -> Floats:
    weights_UK = np.broadcast_to(discounts(slates_UK.shape[1]).numpy(), slates_UK.shape)
    sums_V = np.bincount(slates_UK.ravel() + 1, weights_UK.ravel(), minlength=num_items + 1)
    return sums_V[1:].astype(np.float64)


def _user_sets(judged: UserResults) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return a token of the set of users, and its size, for each item in 1..DAMPING slates.

    The token is the sum of a random 64-bit number of each user. Among a million sets, two equal
    tokens have a probability of one in thirty million.
    """
    num_users, width = judged.slates_UK.shape
    bits_U = np.frombuffer(np.random.default_rng(0).bytes(8 * num_users), dtype=np.uint64)
    tokens_V = np.zeros(judged.num_items + 1, dtype=np.uint64)
    np.add.at(tokens_V, judged.slates_UK.ravel() + 1, np.repeat(bits_U, width))
    is_few_V = (judged.exposure_V >= 1) & (judged.exposure_V <= DAMPING)
    return tokens_V[1:][is_few_V], judged.exposure_V[is_few_V]


def _signed_weights() -> Floats:
    """Return (-1)^(k + 1) P(L >= k) / P(L >= 1), L binomial of DAMPING trials of 1/2, by k.

    >>> _signed_weights()[1:].round(2).tolist()
    [1.0, -0.84, 0.52, -0.19, 0.03]
    """
    tail = [sum(math.comb(DAMPING, j) for j in range(k, DAMPING + 1)) for k in range(DAMPING + 1)]
    return np.array([(-1) ** (k + 1) * tail[k] / tail[1] for k in range(DAMPING + 1)])
