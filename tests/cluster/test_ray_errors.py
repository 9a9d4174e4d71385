"""A user's mistake that is found in a task, an actor or a worker is told in one line, too."""

import sys

import pytest
import ray
import ray.data
from ray.exceptions import RayTaskError
from ray.train import WorkerGroupError

from pipelines.__main__ import main
from recdiv_core.cluster.failures import mistake_behind
from recdiv_core.errors import UserError

pytestmark = pytest.mark.ray


def broken(error: type[ValueError]):
    raise error("data.clicks: row 7 is no row")


def in_a_task(error):
    return ray.get(ray.remote(num_cpus=0)(broken).remote(error))


def in_ray_data(error):
    return ray.data.range(4).map_batches(lambda batch: broken(error)).materialize()


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("raised_in", [in_a_task, in_ray_data])
def test_a_mistake_found_elsewhere_is_one_line_and_status_2(raised_in, monkeypatch, capsys):
    from recdiv_core.training import launch

    monkeypatch.setattr(launch, "run", lambda config: raised_in(UserError))
    monkeypatch.setattr(sys, "argv", ["recdiv", "train"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: data.clicks: row 7 is no row"


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("raised_in", [in_a_task, in_ray_data])
def test_a_bug_found_elsewhere_stays_a_bug(raised_in):
    with pytest.raises(RayTaskError) as raised:
        raised_in(ValueError)
    assert mistake_behind(raised.value) is None


@pytest.mark.usefixtures("ray_cluster")
def test_a_mistake_of_a_training_worker_is_found():
    with pytest.raises(RayTaskError) as raised:
        in_a_task(UserError)
    group = WorkerGroupError("rank 1 failed", {0: RuntimeError("peer"), 1: raised.value})
    assert str(mistake_behind(group)) == "data.clicks: row 7 is no row"
