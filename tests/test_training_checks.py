"""Checks of a training that need no data set: versions of Ray, numbers of workers."""

import pytest

from recdiv_core.config import Config, override
from recdiv_core.errors import UserError
from recdiv_core.training.checks import check_ray
from recdiv_core.training.launch import group_size

PREEMPTIBLE = override(Config(), {"scaling.preemptible": True})


def test_an_older_ray_refuses_preemptible_machines():
    with pytest.raises(UserError, match=r"scaling.preemptible=true needs ray 2\.59 or later"):
        check_ray(PREEMPTIBLE, "2.58.1")


@pytest.mark.parametrize("version", ["2.59.0", "2.60.0", "3.0.0rc1"])
def test_a_newer_ray_takes_preemptible_machines(version):
    check_ray(PREEMPTIBLE, version)


def test_more_workers_cannot_suffice_than_are_asked_for():
    with pytest.raises(UserError, match=r"scaling\.min_workers=3 must be at most"):
        override(Config(), {"scaling.min_workers": 3, "scaling.num_workers": 2})


@pytest.mark.parametrize(("fewest", "size"), [(0, 4), (2, (2, 4)), (4, 4)])
def test_the_number_of_workers_changes_only_within_a_range(fewest, size):
    asked = {"scaling.num_workers": 4, "scaling.min_workers": fewest}
    assert group_size(override(Config(), asked).scaling) == size
