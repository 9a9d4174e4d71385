"""What a driver and its worker processes share: credentials, the address of Ray, log lines."""

import os
import subprocess
import sys
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


SPEAKING = """
import sys, time
from recdiv_core.cluster.start import start_ray
from recdiv_core.config import Config, override

start_ray(override(Config(), {"scaling.address": sys.argv[1]}))
import ray

@ray.remote(num_cpus=0.1)
class Trial:
    def speak(self, number):
        print(f"trial-0000{number}: ease fitted in {number}.5 s", flush=True)

trials = [Trial.remote() for _ in range(3)]
ray.get([trial.speak.remote(number) for number, trial in enumerate(trials)])
time.sleep(2)  # Ray sends the lines to the driver a little later
"""


@pytest.mark.usefixtures("ray_cluster")
def test_a_driver_shows_the_lines_of_all_trials_that_run_at_once():
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", SPEAKING, address]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    for number in range(3):
        assert f"trial-0000{number}: ease fitted in {number}.5 s" in shown.stdout + shown.stderr
    assert "repeated" not in shown.stdout + shown.stderr
