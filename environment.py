"""Make the environment in .venv: `make setup` runs this with any Python from 3.11 on.

    python3 environment.py          # installs with uv, or with pip if uv is missing
    python3 environment.py pip      # installs with pip

Standard library only. Both installers use the versions of constraints.txt. uv does not read pip's
settings (a mirror, a directory of wheels, a certificate), so this script reads them and passes them
to uv.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
BEGUN = VENV / ".begun"
"""File that marks an unfinished installation; the next call then starts from an empty .venv."""
WANTED = ["--constraint", "constraints.txt", "--editable", ".[dev,bench,offline]"]
FIRST_IMPORT = """
import hypothesis, mlflow.server, pytest, ray.data, ray.train.torch, ray.tune, sklearn.metrics
from ray.dashboard import agent, dashboard
from transformers.models.auto import modeling_auto, tokenization_auto
from transformers.models.bert import modeling_bert
import recdiv_core.cluster.submit, recdiv_core.data.audit.prepared, recdiv_core.evaluation.compare
import recdiv_core.release.registry, recdiv_core.report.inspection, recdiv_core.sweep.run
"""
"""Imports of jobs and tests, compiled once; later calls may forbid Python to write bytecode."""
PAUSE_S = 2.0
"""Smallest time between two progress lines, in seconds."""
STARTED = time.monotonic()


def main(installer: str) -> None:
    """Make .venv, install the pinned packages, import them once."""
    if sys.version_info < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        sys.exit(f"Python {wanted} or newer is needed, {sys.executable} is older: set PYTHON=...")
    is_new = BEGUN.exists() or not PYTHON.exists()
    say(f"making {VENV.name} with Python {sys.version.split()[0]}")
    run([sys.executable, "-m", "venv", *(["--clear"] if is_new else []), str(VENV)])
    BEGUN.touch()
    if installer == "pip" or not install_by_uv():
        say("installing with pip: this takes some minutes")
        pip = [PYTHON, "-m", "pip", "install", "--progress-bar", "off"]
        if not run([*pip, "--disable-pip-version-check", *WANTED]):
            sys.exit("the installation failed; run the same command to retry")
    say("importing the packages once")
    written = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    if not run([PYTHON, "-c", FIRST_IMPORT], written):
        sys.exit("an installed package cannot be imported")
    BEGUN.unlink()
    say("ready")


def install_by_uv() -> bool:
    """Install with uv; return whether this succeeded."""
    quiet = ["--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt"]
    say("installing uv")
    if not run([PYTHON, "-m", "pip", "install", *quiet, "uv"]):
        return False
    settings = pip_settings()
    environ = dict(os.environ)
    for key, variable in (("cert", "SSL_CERT_FILE"), ("proxy", "ALL_PROXY")):
        if key in settings:
            environ.setdefault(variable, settings[key])
    say("installing with uv")
    uv = [VENV / "bin" / "uv", "pip", "install", "--python", PYTHON, *uv_options(settings)]
    return run([*uv, *WANTED], environ)


def pip_settings() -> dict[str, str]:
    """Return pip's settings from its files and environment variables, by option."""
    listed = subprocess.run(
        [PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    found = [line.partition("=") for line in listed.stdout.splitlines()]
    settings: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):  # a later section overrides
        settings |= {
            key[len(section) :]: ast.literal_eval(value)
            for key, _, value in found
            if key.startswith(section)
        }
    return settings


def uv_options(settings: dict[str, str]) -> list[str]:
    """Return uv's options for pip's settings, with pip's choice among several indexes."""
    options = ["--index-strategy", "unsafe-best-match"]  # as pip: the newest of all indexes
    for name in ("index-url", "extra-index-url", "find-links", "constraint"):
        for value in settings.get(name, "").split():
            options += [f"--{name}", value]
    for value in settings.get("trusted-host", "").split():
        options += ["--allow-insecure-host", value]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    return options


def run(command: list[str | Path], environ: dict[str, str] | None = None) -> bool:
    """Run a command in the project's root; show its progress, and its last lines if it fails."""
    lines: list[str] = []
    shown = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if time.monotonic() - shown > PAUSE_S:
                shown = time.monotonic()
                say(f"  {line.strip()}"[:90])
    if process.returncode:
        print("\n".join(lines[-40:]), file=sys.stderr)
    return process.returncode == 0


def say(text: str) -> None:
    """Print a step with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:4.0f} s] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "uv")
