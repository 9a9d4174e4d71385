"""The paired bootstrap, against users repeated by hand and against scipy's."""

import numpy as np
import pytest
import scipy.stats

from recdiv_core.metrics.bootstrap import (
    interval,
    resample_users,
    resampled_coverage,
    resampled_means,
)


def slates(seed, num_users=12, num_items=20):
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.permutation(num_items)[:3] for _ in range(num_users)])
    drawn[0, 1:] = -1
    return drawn


def test_a_resample_is_as_many_users_as_there_are():
    counts = resample_users(50, 200, seed=0)
    assert counts.shape == (200, 50)
    assert (counts.sum(1) == 50).all()
    assert counts.mean(0) == pytest.approx(1, abs=0.4)


def test_the_same_seed_draws_the_same_users():
    assert (resample_users(9, 5, seed=3) == resample_users(9, 5, seed=3)).all()
    assert (resample_users(9, 5, seed=3) != resample_users(9, 5, seed=4)).any()


def test_means_are_those_of_the_users_repeated():
    values = np.random.default_rng(1).normal(size=(2, 12))
    counts = resample_users(12, 100, seed=2)
    repeated = [np.repeat(values, count, axis=1).mean(1) for count in counts]
    np.testing.assert_allclose(resampled_means(values, counts), repeated)


def test_coverage_is_that_of_the_users_drawn():
    points = [slates(0), slates(1)]
    counts = resample_users(12, 30, seed=2)
    expected = [
        [len(set(np.repeat(point, count, axis=0).ravel().tolist()) - {-1}) / 20 for point in points]
        for count in counts
    ]
    np.testing.assert_allclose(resampled_coverage(points, counts, num_items=20), expected)


def test_every_user_once_gives_the_figures_themselves():
    once = np.ones((1, 12), dtype=np.uint16)
    point = slates(0)
    shown = set(point.ravel().tolist()) - {-1}
    assert resampled_coverage([point], once, num_items=20)[0, 0] == len(shown) / 20
    assert resampled_means(np.arange(12.0), once)[0, 0] == 5.5


def test_the_interval_of_a_paired_difference_is_that_of_scipy():
    rng = np.random.default_rng(5)
    a = rng.exponential(size=400)
    b = a + rng.normal(0.1, 0.3, size=400)
    means = resampled_means([a, b], resample_users(400, 4000, seed=1))
    ours = interval(means[:, 1] - means[:, 0])
    theirs = scipy.stats.bootstrap(
        (b - a,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.003)


@pytest.mark.parametrize(("num_users", "num_resamples"), [(0, 3), (3, 0)])
def test_nothing_to_resample_is_refused(num_users, num_resamples):
    with pytest.raises(ValueError, match="must be >= 1"):
        resample_users(num_users, num_resamples, seed=0)


def test_shapes_that_do_not_fit_are_refused():
    counts = resample_users(4, 2, seed=0)
    with pytest.raises(ValueError, match="U = 4"):
        resampled_means([[1.0, 2.0]], counts)
    with pytest.raises(ValueError, match="U = 4"):
        resampled_coverage([slates(0)], counts, num_items=20)
    with pytest.raises(ValueError, match=r"-1\.\.4"):
        resampled_coverage([slates(0, num_users=4)], counts, num_items=5)
