"""Two Rays of one machine, each started by a pipeline of its own."""

import subprocess
import sys

import pytest

from tests.cluster.conftest import PATIENCE_S, ROOT

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.slow]

ASK = """
import ray
from ray.util.state import list_nodes
from recdiv_core.config import Config
from recdiv_core.ray_start import start_ray

start_ray(Config())
(node,) = ray.get(ray.remote(num_cpus=0)(list_nodes).remote())
print(node.node_id == ray.get_runtime_context().get_node_id())
"""


@pytest.mark.usefixtures("ray_cluster")
def test_the_processes_of_a_ray_find_it_beside_another():
    asked = subprocess.run(
        [sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert asked.stdout.splitlines()[-1:] == ["True"], asked.stderr
