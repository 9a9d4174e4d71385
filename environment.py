"""Make the environment in .venv: `make setup` runs this with any Python from 3.11 on.

    python3 environment.py          # uv installs; pip where uv cannot be had
    python3 environment.py pip      # pip alone

Standard library only. Both installers take the versions of constraints.txt. uv does not read pip's
settings (a mirror, a directory of wheels, a certificate), so they are read here and passed to it.
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
"""Marks an installation under way. One that was interrupted may lack files, and is made anew."""
WANTED = ["--constraint", "constraints.txt", "--editable", ".[dev,bench,offline]"]
FIRST_IMPORT = """
import hypothesis, mlflow.server, pytest, ray.data, ray.train.torch, ray.tune, sklearn.metrics
from ray.dashboard import agent, dashboard
from transformers.models.auto import modeling_auto, tokenization_auto
from transformers.models.bert import modeling_bert
import recdiv_core.cluster.submit, recdiv_core.data.audit.prepared, recdiv_core.evaluation.compare
import recdiv_core.release.registry, recdiv_core.report.inspection, recdiv_core.sweep.run
"""
"""Compiles what a job or a test imports; Python may be told to keep no compiled files later on."""
PAUSE_S = 2.0
"""Least time between two lines of progress."""
STARTED = time.monotonic()


def main(installer: str) -> None:
    """Make .venv, install the tested set, import it once."""
    if sys.version_info < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        sys.exit(f"Python {wanted} or newer is needed, {sys.executable} is older: make PYTHON=...")
    is_new = BEGUN.exists() or not PYTHON.exists()
    say(f"making {VENV.name} with Python {sys.version.split()[0]}")
    run([sys.executable, "-m", "venv", *(["--clear"] if is_new else []), str(VENV)])
    BEGUN.touch()
    if installer == "pip" or not install_by_uv():
        say("pip installs: takes some minutes")
        pip = [PYTHON, "-m", "pip", "install", "--progress-bar", "off"]
        if not run([*pip, "--disable-pip-version-check", *WANTED]):
            sys.exit("the installation failed; the same command tries again")
    say("importing everything once")
    written = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    if not run([PYTHON, "-c", FIRST_IMPORT], written):
        sys.exit("what was installed cannot be imported")
    BEGUN.unlink()
    say("ready")


def install_by_uv() -> bool:
    """Return whether uv could be had and has installed everything."""
    quiet = ["--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt"]
    say("getting uv")
    if not run([PYTHON, "-m", "pip", "install", *quiet, "uv"]):
        return False
    settings = pip_settings()
    environ = dict(os.environ)
    for key, variable in (("cert", "SSL_CERT_FILE"), ("proxy", "ALL_PROXY")):
        if key in settings:
            environ.setdefault(variable, settings[key])
    say("uv installs")
    uv = [VENV / "bin" / "uv", "pip", "install", "--python", PYTHON, *uv_options(settings)]
    return run([*uv, *WANTED], environ)


def pip_settings() -> dict[str, str]:
    """Return what pip takes from its files and its environment variables, by option."""
    listed = subprocess.run(
        [PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    found = [line.partition("=") for line in listed.stdout.splitlines()]
    settings: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):  # the later counts
        settings |= {
            key[len(section) :]: ast.literal_eval(value)
            for key, _, value in found
            if key.startswith(section)
        }
    return settings


def uv_options(settings: dict[str, str]) -> list[str]:
    """Return uv's options for settings of pip, the same choice among indexes included."""
    options = ["--index-strategy", "unsafe-best-match"]  # pip's: the newest of all indexes
    for name in ("index-url", "extra-index-url", "find-links", "constraint"):
        for value in settings.get(name, "").split():
            options += [f"--{name}", value]
    for value in settings.get("trusted-host", "").split():
        options += ["--allow-insecure-host", value]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    return options


def run(command: list[str | Path], environ: dict[str, str] | None = None) -> bool:
    """Run a command in the project's root, show its progress and, if it fails, its last lines."""
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
