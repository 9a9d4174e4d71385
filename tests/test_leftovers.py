import json
import subprocess
import sys

import pytest

from recdiv_core.cluster import leftovers as ray_leftovers
from recdiv_core.cluster.leftovers import MARK, end_leftovers, mark_session
from recdiv_core.storage.claims import about_me

WRITE = "import sys, time; log = open(sys.argv[1], 'w'); print('open', flush=True); time.sleep(60)"


@pytest.fixture
def session(tmp_path):
    place = tmp_path / "session_1"
    place.mkdir()
    return place


@pytest.fixture
def agent(session, monkeypatch):
    """Return a process that writes into a session, taken for one without a parent."""
    command = [sys.executable, "-c", WRITE, str(session / "agent.log")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    monkeypatch.setattr(ray_leftovers, "_orphans", lambda: [process.pid])
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_a_killed_driver_left_is_ended(session, agent):
    (session / MARK).write_text(about_me())
    assert end_leftovers(session.parent) == 1
    assert agent.wait(10) == -9
    assert end_leftovers(session.parent) == 0
    assert (session / "agent.log").is_file()


def test_what_a_living_driver_has_is_left_alone(session, agent):
    mark_session(session)
    assert end_leftovers(session.parent) == 0
    assert agent.poll() is None


def test_what_another_session_or_machine_has_is_left_alone(session, agent, tmp_path):
    (tmp_path / "session_2").mkdir()
    (tmp_path / "session_2" / MARK).write_text(about_me())
    elsewhere = json.loads(about_me()) | {"host": "elsewhere", "boot": "another"}
    (session / MARK).write_text(json.dumps(elsewhere))
    assert end_leftovers(session.parent) == 0
    assert agent.poll() is None


def test_only_processes_whose_parent_has_ended_are_orphans():
    code = (
        "import subprocess; end = subprocess.DEVNULL\n"
        "print(subprocess.Popen(['sleep', '30'], stdout=end, stderr=end).pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pid = int(done.stdout)
    child = subprocess.Popen(["sleep", "30"])
    found = set(ray_leftovers._orphans())
    child.kill()
    child.wait()
    subprocess.run(["kill", str(pid)], check=True)
    assert child.pid not in found
    assert pid in found
