"""A worker process of a cluster knows the credentials of the driver, and its own Ray."""

import os
from typing import Any

import pytest
import ray

from recdiv_core.cluster.start import worker_hook

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_gets_credentials_and_the_address_of_its_ray():
    hook = worker_hook({"RECDIV_TEST_SECRET": "s3"})

    def settled() -> tuple[str | None, str | None]:
        os.environ.pop("RAY_ADDRESS", None)
        hook()
        return os.environ.get("RECDIV_TEST_SECRET"), os.environ.get("RAY_ADDRESS")

    task: Any = ray.remote(num_cpus=0, max_calls=1)(settled)
    assert ray.get(task.remote()) == ("s3", ray.get_runtime_context().gcs_address)
