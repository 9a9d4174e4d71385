import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from recdiv_core.config import Config, override
from recdiv_core.errors import UserError
from recdiv_core.storage import claims
from recdiv_core.storage.claims import OWNER, about_me, claimed, is_of_this_machine, scratch
from recdiv_core.storage.places import filesystem_of
from recdiv_core.training.run_files import claim_run

HOLD = (
    "import sys, time; from pyarrow.fs import LocalFileSystem\n"
    "from recdiv_core.storage.claims import claimed\n"
    "with claimed(LocalFileSystem(), sys.argv[1], 'it'): print('has it', flush=1); time.sleep(60)"
)


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    for name, value in {"BEAT_S": 0.02, "SILENT_S": 0.3, "SETTLE_S": 0.01}.items():
        monkeypatch.setattr(claims, name, value)


@pytest.fixture(params=["file system", "store"])
def store(request, tmp_path):
    """Return a file system with locks, and one without, as object stores are."""
    if request.param == "file system":
        return LocalFileSystem(), f"{tmp_path}/first"
    return SubTreeFileSystem(str(tmp_path), LocalFileSystem()), "first"


def claim(store, what="run.name=first"):
    return claimed(*store, what)


def owner_file(tmp_path):
    return tmp_path / "first" / OWNER


@contextmanager
def another_process(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "first")], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"has it\n"
    yield holder
    holder.kill()
    holder.wait()
    holder.stdout.close()


def write_owner(tmp_path, **changes):
    owner_file(tmp_path).parent.mkdir(exist_ok=True)
    facts = json.loads(about_me("theirs")) | {"host": "elsewhere", "boot": "another", "pid": 7}
    owner_file(tmp_path).write_text(json.dumps(facts | changes))


def test_a_claim_names_its_owner_and_is_left(store, tmp_path):
    with claim(store):
        facts = json.loads(owner_file(tmp_path).read_text())
        assert (facts["host"], facts["pid"]) == (os.uname().nodename, os.getpid())
    assert not owner_file(tmp_path).exists()
    with claim(store):
        pass


def test_a_claim_is_left_when_its_work_fails(store, tmp_path):
    with pytest.raises(KeyError), claim(store):
        raise KeyError
    assert not owner_file(tmp_path).exists()


def test_work_that_fails_before_it_writes_leaves_no_directory(tmp_path):
    place = tmp_path / "runs" / "first"
    with pytest.raises(ValueError, match="no server"), claimed(LocalFileSystem(), str(place), "it"):
        raise ValueError("no server")
    assert not place.exists()
    with claimed(LocalFileSystem(), str(place), "it"):
        (place / "config.yaml").touch()
    with pytest.raises(ValueError, match="late"), claimed(LocalFileSystem(), str(place), "it"):
        raise ValueError("late")
    assert [path.name for path in place.iterdir()] == ["config.yaml"]


def test_a_place_that_cannot_be_made_is_refused_with_one_line():
    with (
        pytest.raises(
            UserError, match=r"run.name=first cannot be written: .*/proc/first"
        ) as caught,
        claimed(LocalFileSystem(), "/proc/first", "run.name=first"),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_second_claim_is_refused_with_one_line(store, tmp_path):
    with claim(store), pytest.raises(UserError, match=f"process: {os.getpid()} on ") as refused:
        claim(store, "run.name=first").__enter__()
    assert str(refused.value).startswith("run.name=first is being written by another process")
    assert len(str(refused.value).splitlines()) == 1


def test_a_claim_of_a_living_process_is_refused_at_once(tmp_path):
    store = (LocalFileSystem(), f"{tmp_path}/first")
    with another_process(tmp_path) as holder:
        started = time.monotonic()
        with pytest.raises(UserError, match=f"process: {holder.pid} on"):
            claim(store).__enter__()
        assert time.monotonic() - started < claims.SILENT_S


def test_a_claim_of_a_killed_process_is_taken_over_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "SILENT_S", 60.0)
    with another_process(tmp_path) as holder:
        holder.kill()
        holder.wait()
        with claim((LocalFileSystem(), f"{tmp_path}/first")):
            assert json.loads(owner_file(tmp_path).read_text())["pid"] == os.getpid()


def test_a_silent_claim_of_another_machine_is_taken_over(store, tmp_path):
    write_owner(tmp_path)
    with claim(store):
        assert json.loads(owner_file(tmp_path).read_text())["pid"] == os.getpid()


def test_a_claim_of_another_machine_that_is_renewed_is_refused(store, tmp_path, monkeypatch):
    write_owner(tmp_path)
    beats = iter(range(1000))

    def renew(seconds):
        write_owner(tmp_path, beat=next(beats))

    monkeypatch.setattr(claims.time, "sleep", renew)
    with pytest.raises(UserError, match="process: 7 on elsewhere"):
        claim(store).__enter__()


@pytest.mark.parametrize("text", ["", '{"host": "el', "[]"])
def test_half_a_claim_is_taken_over(store, tmp_path, text):
    owner_file(tmp_path).parent.mkdir()
    owner_file(tmp_path).write_text(text)
    with claim(store):
        assert json.loads(owner_file(tmp_path).read_text())["pid"] == os.getpid()


def test_a_claim_is_renewed(store, tmp_path):
    def beat() -> int:
        text = owner_file(tmp_path).read_text()
        return json.loads(text)["beat"] if text else 0  # empty while it is written

    with claim(store):
        until = time.monotonic() + 10
        while beat() <= 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert time.monotonic() < until


def test_an_owner_that_was_taken_for_dead_ends(store, tmp_path, caplog):
    def work():
        with claim(store):
            write_owner(tmp_path)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert "was taken over by another process" in caplog.text
    assert json.loads(owner_file(tmp_path).read_text())["pid"] == 7


def test_the_same_kernel_is_the_same_machine_whatever_it_is_called():
    mine = json.loads(about_me())
    assert is_of_this_machine(json.dumps(mine | {"host": "another container"}))
    assert is_of_this_machine(json.dumps(mine | {"boot": "an earlier boot"}))
    assert not is_of_this_machine(json.dumps(mine | {"host": "elsewhere", "boot": "another"}))
    assert not is_of_this_machine("")


def test_a_claim_in_a_real_store_is_refused_taken_over_and_left(bucket):
    config = override(Config(), {"run.name": "first", "run.storage": bucket.uri("runs")})
    with claim_run(config), pytest.raises(UserError, match=f"process: {os.getpid()} on"):
        claim_run(config).__enter__()
    with claim_run(config):  # it was left
        pass
    filesystem, path = filesystem_of(bucket.uri("runs/first/owner.json"), "run.storage")
    with filesystem.open_output_stream(path) as stream:
        stream.write(b'{"host": "elsewhere", "boot": "x", "pid": 7}')
    with claim_run(config):
        assert read_owner(filesystem, path)["pid"] == os.getpid()


def read_owner(filesystem, path):
    with filesystem.open_input_stream(path) as stream:
        return json.loads(stream.read())


def test_a_scratch_directory_goes_with_its_work(tmp_path):
    def fail():
        with scratch(tmp_path) as work:
            (work / "half").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with scratch(tmp_path) as work, scratch(tmp_path) as other:  # each leaves the other alone
        assert work.is_dir()
        assert other.is_dir()
