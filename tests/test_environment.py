"""environment.py, which runs before anything is installed: pip's settings on their way to uv."""

import ast
import importlib.util
import sys

import pytest

import environment


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, []),
        ({"find-links": "/wheels\n/more"}, ["--find-links", "/wheels", "--find-links", "/more"]),
        ({"index-url": "https://mirror/simple"}, ["--index-url", "https://mirror/simple"]),
        ({"constraint": "/etc/caps.txt"}, ["--constraint", "/etc/caps.txt"]),
        ({"trusted-host": "mirror"}, ["--allow-insecure-host", "mirror"]),
        ({"no-index": "true"}, ["--no-index"]),
        ({"no-index": "false", "timeout": "180"}, []),
    ],
)
def test_settings_of_pip_become_options_of_uv(settings: dict[str, str], options: list[str]):
    assert environment.uv_options(settings)[2:] == options


def test_settings_of_pip_are_those_of_its_files_and_variables(tmp_path, monkeypatch):
    (tmp_path / "pip.conf").write_text("[global]\nfind-links = /a\n  /b\ncert = /c\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_CERT", "/d")
    settings = environment.pip_settings()
    assert settings["cert"] == "/d"  # a variable counts more than a file


def test_a_command_that_fails_shows_its_last_lines(capfd):
    assert not environment.run([sys.executable, "-c", "exit('no such package')"])
    assert "no such package" in capfd.readouterr().err


def test_a_command_that_ends_well_is_silent(capfd):
    assert environment.run([sys.executable, "-c", "print('done')"])
    assert not capfd.readouterr().err


def test_what_is_imported_once_exists():
    for statement in ast.parse(environment.FIRST_IMPORT).body:
        if isinstance(statement, ast.Import):
            assert not [n.name for n in statement.names if importlib.util.find_spec(n.name) is None]
