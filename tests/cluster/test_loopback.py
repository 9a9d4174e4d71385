"""A Ray that recdiv starts for itself is reached from this machine alone."""

import os
import subprocess
import sys

import pytest

from tests.cluster.conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CODE = """
import os, sys
from recdiv_core.config import Config
from recdiv_core.cluster.start import start_ray
start_ray(Config())
import psutil, ray
assert ray.get(ray.remote(lambda: 7).remote()) == 7
me = psutil.Process()
for process in (me, *me.children(recursive=True)):
    for connection in process.net_connections("inet"):
        if connection.status == "LISTEN":
            print(process.name(), connection.laddr.ip)
assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ
"""


def test_no_port_of_a_local_ray_is_open_to_other_machines():
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, env={**os.environ}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    places = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert {"raylet", "gcs_server"} <= places.keys()
    assert set(places.values()) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
