"""Every preset is found, loaded and holds the command that launches it."""

import re
from pathlib import Path

import pytest

from pipelines import PRESETS, preset_names, preset_path
from recdiv_core.config import Config
from recdiv_core.settings import load

COMMAND = re.compile(r"# recdiv (?:submit .*-- )?(?P<script>\w+) --preset (?P<name>\w+)")

each_preset = pytest.mark.parametrize("name", preset_names())


def test_the_presets_that_the_documents_name_are_there():
    assert {"demo", "base", "multi_gpu"} <= set(preset_names())


@each_preset
def test_a_preset_loads_and_changes_something(name: str):
    assert load(preset_path(name)) != Config()


@each_preset
def test_a_preset_opens_with_its_launch_command(name: str):
    first_line = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    command = COMMAND.match(first_line)
    assert command is not None
    assert command["name"] == name
    assert (PRESETS.parent / f"{command['script']}.py").is_file()


def test_an_unknown_preset_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="--preset dmo is unknown; allowed: base, demo, multi_gpu"):
        preset_path("dmo")


def test_no_preset_is_no_file():
    assert preset_path("") is None
    assert preset_path("demo") == Path(PRESETS / "demo.yaml")
