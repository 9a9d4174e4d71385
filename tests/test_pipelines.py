"""Every script as a user runs it: its help, a misspelt key, what goes to stdout."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path.stem for path in (ROOT / "pipelines").glob("*.py") if path.name != "__init__.py"
)
HEAVY = ("torch", "ray", "mlflow", "transformers", "pyarrow.dataset")

NEEDED = {
    "evaluate": ["--checkpoint", "nowhere"],
    "recommend": ["--checkpoint", "nowhere", "--out", "nowhere"],
    "tune": ["--space", "tradeoff"],
    "register": ["--name", "shop", "--promote"],
}

each_script = pytest.mark.parametrize("script", SCRIPTS)
each_config_script = pytest.mark.parametrize("script", sorted(set(SCRIPTS) - {"submit"}))


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script; `-X importtime` has it list its imports on stderr."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"pipelines.{script}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def heavy_imports(stderr: str) -> set[str]:
    rows = [line.rpartition("|")[2].strip() for line in stderr.splitlines() if "|" in line]
    return set(rows) & set(HEAVY)


def test_all_scripts_of_the_documents_are_there():
    making = {"prepare", "audit", "train", "tune", "recommend", "submit"}
    assert set(SCRIPTS) == making | {"evaluate", "inspect", "compare", "report", "register"}


@each_script
def test_help_shows_the_launch_command(script: str):
    done = run(script, "--help")
    assert done.returncode == 0
    assert f"python -m pipelines.{script}" in done.stdout


@each_config_script
def test_a_misspelt_key_is_answered_at_once(script: str):
    done = run(script, *NEEDED.get(script, []), "loss.diversity_wieght=0.3")
    messages = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert done.stdout == ""
    assert messages == [
        "error: unknown key 'loss.diversity_wieght'; did you mean 'loss.diversity_weight'?"
    ]
    assert not heavy_imports(done.stderr)


def test_a_misspelt_rule_is_answered_at_once():
    done = run("train", "rerank.rules=[at mots 2 of brand]")
    assert done.returncode == 2
    assert "error: rerank.rules: 'at mots 2 of brand' is no rule; did you mean" in done.stderr
    assert not heavy_imports(done.stderr)


def test_an_unknown_preset_is_answered_at_once():
    done = run("train", "--preset", "dmo")
    assert done.returncode == 2
    assert "error: --preset dmo is unknown; allowed: base, demo, multi_gpu" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_key_of_a_job_is_answered_at_once():
    done = run("submit", "--", "prepare", "data.out=/shared/shop", "data.klicks=/shared/log")
    assert done.returncode == 2
    assert "error: unknown key 'data.klicks'; did you mean 'data.clicks'?" in done.stderr
    assert not heavy_imports(done.stderr)


def test_a_job_on_a_cluster_that_does_not_answer_is_a_users_mistake():
    done = run("submit", "--address", "http://127.0.0.1:9", "--", "prepare", "data.out=/shared")
    assert done.returncode == 2
    assert "error: no Ray cluster takes jobs at --address http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got 0 RUN and 0 --front: give two RUN or more"),
        (["runs/a", "runs/b", "--front", "x=runs/a"], "got 2 RUN and 1 --front"),
    ],
)
def test_runs_stand_beside_settings(arguments: list[str], message: str):
    done = run("compare", "eval.k=5", *arguments, "seed=1")
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
