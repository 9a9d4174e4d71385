import os
import signal
import subprocess
import sys
import time

import pytest

from recdiv_core.storage.whole_files import write_json, write_whole


def test_a_file_is_made_and_replaced(tmp_path):
    for text in ("first", "second and longer", "3"):
        write_whole(tmp_path / "a.yaml", text)
        assert (tmp_path / "a.yaml").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path):
    write_json(tmp_path / "a.json", {"figure": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"figure": float("inf")})
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a.json", "half a pair \ud800")
    assert (tmp_path / "a.json").read_text() == '{"figure": 1.0}'
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from recdiv_core.storage.whole_files import write_whole\n"
        "while True: write_whole(Path(sys.argv[1]), 'x' * 1_000_000)"
    )
    path = tmp_path / "a.yaml"
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
    while writer.poll() is None and not path.is_file():
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert len(path.read_text()) == 1_000_000
