"""One local Ray for all tests that need a cluster: each start costs seconds."""

from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4)
    yield
    ray.shutdown()
