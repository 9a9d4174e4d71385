"""The runs that a sweep trains before its trials."""

from __future__ import annotations

import pytest

from recdiv_core.config import Config, override
from recdiv_core.sweep.warm_start import with_trial_workers


@pytest.mark.parametrize(
    ("workers", "least", "of_a_trial", "expected"),
    [
        (8, 0, 0, (8, 0)),
        (8, 2, 0, (8, 2)),
        (8, 0, 1, (1, 0)),
        (8, 2, 1, (1, 1)),
        (8, 2, 4, (4, 2)),
        (1, 0, 2, (2, 0)),
    ],
)
def test_a_trial_has_its_own_number_of_workers(
    workers: int, least: int, of_a_trial: int, expected: tuple[int, int]
):
    settings = {"num_workers": workers, "min_workers": least, "trial_workers": of_a_trial}
    config = override(Config(), {f"scaling.{key}": value for key, value in settings.items()})
    scaling = with_trial_workers(config).scaling
    assert (scaling.num_workers, scaling.min_workers) == expected
