"""Every command of README.md and docs/: its script, options, keys and values are right.

Nothing is run here; tests/cluster/test_readme.py runs them on a small shop.
"""

import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import FunctionType

import pytest

import pipelines
from pipelines.__main__ import script_names

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
STARTS = ("make ", "recdiv ", "python -m ", "ray ")
WITHOUT_SETTINGS = {"submit", "init"}


def commands_of(document: Path) -> list[list[str]]:
    """Return the commands of a document's code blocks, each as its words, without comments."""
    blocks = BLOCK.findall(document.read_text(encoding="utf-8"))
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(STARTS)]


def pipeline_of(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the pipeline that a command runs and its arguments; None: it runs something else."""
    if words[0] == "recdiv":
        return words[1], words[2:]
    if words[:2] == ["python", "-m"] and words[2].startswith("pipelines."):
        return words[2].removeprefix("pipelines."), words[3:]
    return None


COMMANDS = [words for document in DOCUMENTS for words in commands_of(document)]
PIPELINES = [found for words in COMMANDS if (found := pipeline_of(words))]
# what a job runs stands behind the --
JOBS = [
    (job[0], job[1:])
    for name, arguments in PIPELINES
    if name == "submit" and "--" in arguments
    for job in [arguments[arguments.index("--") + 1 :]]
]
WITH_SETTINGS = [found for found in [*PIPELINES, *JOBS] if found[0] not in WITHOUT_SETTINGS]


def test_the_readme_has_the_commands_that_a_newcomer_needs():
    names = {name for name, _ in PIPELINES}
    assert names >= {"prepare", "tune", "report", "train", "evaluate", "recommend", "submit"}


def test_every_pipeline_of_the_documents_is_there():
    assert {name for name, _ in [*PIPELINES, *JOBS]} <= set(script_names())


def test_every_make_target_of_the_documents_is_there():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    named = [words[1] for words in COMMANDS if words[0] == "make"]
    assert named
    assert set(named) <= set(targets)


def test_every_other_module_of_the_documents_is_there():
    modules = [words[2] for words in COMMANDS if words[0] == "python" and not pipeline_of(words)]
    for module in modules:
        importlib.util.find_spec(module)


class ParsedError(Exception):
    """Raised where a pipeline would begin its work, with its space."""


def parse(monkeypatch: pytest.MonkeyPatch, name: str, arguments: list[str]) -> str | None:
    """Read a command line with the script's own parser, and stop there; return its `--space`."""
    run_pipeline, error = pipelines.run_pipeline, ParsedError

    def stop(config: object, args: object) -> dict[str, object]:
        raise error(getattr(args, "space", None))

    def parse_only(main: FunctionType, **more: object) -> dict[str, object]:
        code = stop.__code__.replace(co_filename=main.__code__.co_filename)  # names the pipeline
        stopped = FunctionType(code, main.__globals__, "main", None, stop.__closure__)
        return run_pipeline(stopped, **more)

    monkeypatch.setattr(pipelines, "run_pipeline", parse_only)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    sys.modules.pop(f"pipelines.{name}", None)  # runpy wants to be the first to import it
    with pytest.raises(ParsedError) as parsed:
        runpy.run_module(f"pipelines.{name}", run_name="__main__")
    return parsed.value.args[0]


@pytest.mark.parametrize(("name", "arguments"), WITH_SETTINGS, ids=lambda part: str(part)[:60])
def test_a_command_of_the_documents_is_taken_and_each_of_its_keys_has_an_effect(
    monkeypatch, caplog, tmp_path, name, arguments
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.yaml").touch()  # of --config
    spaces = {path.stem for path in (ROOT / "tune_spaces").glob("*.py")}
    assert parse(monkeypatch, name, arguments) in {None, *spaces}
    assert caplog.messages == []


def test_a_command_that_is_wrong_is_found(monkeypatch, caplog):
    with pytest.raises(SystemExit):
        parse(monkeypatch, "train", ["train.epoch=3"])
    parse(monkeypatch, "report", ["train.epochs=3"])
    assert "train.epochs" in caplog.text
