"""The command line in the process of a test: the fixture `run`."""

import sys
from collections.abc import Callable

import pytest

from pipelines.__main__ import main, script_names


class Done:
    """How a call ended."""

    def __init__(self, status: int, stdout: str, stderr: str) -> None:
        self.status, self.stdout, self.stderr = status, stdout, stderr


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Return a function that runs `recdiv ARGUMENTS` in this process."""

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["recdiv", *arguments])
        for script in script_names():
            sys.modules.pop(f"pipelines.{script}", None)
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        out = capsys.readouterr()
        return Done(status, out.out, out.err)

    return call
