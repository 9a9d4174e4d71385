"""Every script as a user runs it: the door, its help, a misspelt key, what goes to stdout.

All run in this process, as `recdiv NAME ...` does; one more process proves at once for all of them
that nothing heavy is imported before the command line is found right.
"""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipelines.__main__ import SCRIPTS as SCRIPTS_PLACE
from pipelines.__main__ import main, script_names

ROOT = Path(__file__).parents[1]
SCRIPTS = script_names()
HEAVY = ("torch", "ray", "mlflow", "transformers", "pyarrow.dataset")

NEEDED = {
    "evaluate": ["--checkpoint", "nowhere"],
    "recommend": ["--checkpoint", "nowhere", "--out", "nowhere"],
    "tune": ["--space", "tradeoff"],
    "register": ["--name", "shop", "--promote"],
    "update": ["--name", "shop"],
    "export": ["--checkpoint", "nowhere", "--out", "nowhere"],
    "adapt": ["--out", "nowhere"],
}
WITHOUT_SETTINGS = {"submit", "init"}

each_script = pytest.mark.parametrize("script", SCRIPTS)
each_config_script = pytest.mark.parametrize("script", sorted(set(SCRIPTS) - WITHOUT_SETTINGS))


def test_all_scripts_of_the_documents_are_there():
    making = {"prepare", "audit", "train", "tune", "recommend", "submit"}
    assert set(SCRIPTS) >= making | {"evaluate", "inspect", "compare", "report", "register"}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_door_alone_lists_all_pipelines_with_a_line_each(run, arguments):
    done = run(*arguments)
    assert done.status == 0
    listed = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line[:2] == "  "]
    assert [name for name, _ in listed] == SCRIPTS
    assert all(len(said) > 20 for _, said in listed)


@pytest.mark.parametrize(
    ("name", "message"),
    [("prepair", "did you mean 'prepare'?"), ("Train", "did you mean 'train'?"), ("seed=1", "")],
)
def test_a_misspelt_pipeline_gets_the_nearest_right_one(run, name, message):
    done = run(name, "seed=1")
    assert done.status == 2
    assert done.stderr.startswith(f"error: no pipeline '{name}'; {message}")
    assert "pipelines: adapt, audit, compare" in done.stderr
    assert done.stderr.count("\n") == 1


@each_script
def test_help_shows_the_launch_command(run, script: str):
    done = run(script, "--help")
    assert done.status == 0
    assert done.stdout.startswith(f"usage: recdiv {script}")
    assert f"\n    recdiv {script} " in done.stdout


@each_config_script
def test_a_misspelt_key_is_answered_in_one_line(run, script: str):
    done = run(script, *NEEDED.get(script, []), "loss.diversity_wieght=0.3")
    assert done.status == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: unknown key 'loss.diversity_wieght'; did you mean 'loss.diversity_weight'?"
    ]


@each_config_script
def test_a_misspelt_key_of_a_config_file_is_answered_in_one_line(run, script: str, tmp_path: Path):
    file = tmp_path / "shop.yaml"
    file.write_text("loss:\n  diversity_wieght: 0.3\n")
    done = run(script, *NEEDED.get(script, []), "--config", str(file))
    assert done.status == 2
    assert done.stderr.splitlines() == [
        f"error: --config {file}: unknown key 'loss.diversity_wieght'; "
        "did you mean 'loss.diversity_weight'?"
    ]


def test_nothing_heavy_is_imported_before_the_command_line_is_found_right():
    """One process for all scripts: each is run with a misspelt key."""
    calls = [[s, *NEEDED.get(s, []), "sed=1"] for s in SCRIPTS if s not in WITHOUT_SETTINGS]
    calls += [["submit", "--", "prepare", "sed=1"], ["train", "rerank.rules=[at mots 2 of brand]"]]
    code = """
import json, sys
from pipelines.__main__ import main
heavy, calls = json.loads(sys.argv[1])
for call in calls:
    sys.argv = ["recdiv", *call]
    try:
        main()
    except SystemExit as end:
        print(json.dumps([call[0], end.code, [name for name in heavy if name in sys.modules]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([HEAVY, calls])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert ends == [[call[0], 2, []] for call in calls], done.stderr
    assert "rerank.rules: 'at mots 2 of brand' is not a rule; did you mean" in done.stderr


def test_python_m_pipelines_is_the_same_door():
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "train", "--preset", "dmo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == "error: --preset dmo is unknown; allowed: base, demo, multi_gpu\n"


def test_a_misspelt_key_of_a_job_is_answered_at_once(run):
    done = run("submit", "--", "prepare", "data.out=/shared/shop", "data.klicks=/shared/log")
    assert done.status == 2
    assert "error: unknown key 'data.klicks'; did you mean 'data.clicks'?" in done.stderr


def test_a_job_on_a_cluster_that_does_not_answer_is_a_users_mistake(run):
    done = run("submit", "--address", "http://127.0.0.1:9", "--", "prepare", "data.out=/shared")
    assert done.status == 2
    assert "error: no Ray cluster takes jobs at --address http://127.0.0.1:9" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got 0 RUN and 0 --front: give two RUN or more"),
        (["runs/a", "runs/b", "--front", "x=runs/a"], "got 2 RUN and 1 --front"),
    ],
)
def test_runs_stand_beside_settings(run, arguments: list[str], message: str):
    done = run("compare", "eval.k=5", *arguments, "seed=1")
    assert done.status == 2
    assert f"error: {message}" in done.stderr
    assert done.stdout == ""


def test_a_setting_that_the_pipeline_does_not_read_is_named_once(run, caplog):
    run("train", "data.event_weights={cart: 2}", "split.val_share=0.2")
    assert caplog.messages == [
        "data.event_weights, split.val_share: no effect in train; takes effect in prepare, update"
    ]


def test_a_config_file_may_speak_of_other_pipelines(run, caplog, tmp_path: Path):
    file = tmp_path / "shop.yaml"
    file.write_text("data.event_weights: {cart: 2}\nsplit.val_share: 0.2\n")
    done = run("train", "--config", str(file))
    assert "data.prepared is not set" in done.stderr
    assert not caplog.messages


def test_a_config_file_that_the_data_were_not_prepared_with_is_named(run, caplog, tmp_path: Path):
    (tmp_path / "manifest.json").write_text('{"settings": {"data.events": ["click"]}}')
    file = tmp_path / "shop.yaml"
    file.write_text(f"data:\n  events: [purchase]\n  prepared: {tmp_path}\n")
    run("train", "--config", str(file))
    assert caplog.messages == [
        f"--config {file}: data.events=['purchase'] has no effect: data.prepared={tmp_path} was "
        "prepared with ['click']; run prepare again to change it"
    ]


@pytest.mark.parametrize("call", [["train"], ["evaluate", *NEEDED["evaluate"]]], ids=str)
def test_a_config_file_that_the_data_were_prepared_with_is_not(
    run, caplog, tmp_path: Path, call: list[str]
):
    made_with = {"data.events": ["purchase"], "data.event_weights": {"cart": 2.0}}
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": made_with}))
    file = tmp_path / "shop.yaml"
    file.write_text(
        f"data:\n  events: [purchase]\n  event_weights: {{cart: 2}}\n  prepared: {tmp_path}\n"
    )
    run(*call, "--config", str(file))
    assert not caplog.messages


def test_a_setting_that_a_checkpoint_pipeline_does_not_read_is_left_out(run, caplog):
    run("evaluate", *NEEDED["evaluate"], "train.epochs=3", "--preset", "demo")
    assert caplog.messages == [
        "train.epochs: no effect in evaluate; takes effect in train, tune, update",
        "--preset demo: no effect in evaluate, which takes the settings of the checkpoint",
    ]


def test_a_space_says_which_settings_of_a_config_file_it_covers(run, caplog, tmp_path: Path):
    file = tmp_path / "shop.yaml"
    file.write_text("train: {epochs: 9, batch_size: 8}\n")
    done = run("tune", "--space", "smoke", "--config", str(file))
    assert "data.prepared is not set" in done.stderr
    assert caplog.messages == [
        f"--config {file}: train.epochs: no effect, --space smoke sets them; override them on the "
        "command line"
    ]


def test_what_is_given_beside_a_checkpoint_need_not_fit_the_defaults(run):
    done = run("evaluate", *NEEDED["evaluate"], "rerank.num_candidates=8")  # eval.k is 10 here
    assert "nowhere is not a directory" in done.stderr
    assert "eval.k" not in done.stderr


def test_the_values_of_settings_without_effect_are_judged_too(run):
    assert "split.val_share" in run("train", "split.val_share=7").stderr


def test_a_bug_shows_its_traceback(monkeypatch):
    from recdiv_core.training import launch

    def broken(config):
        raise ValueError("of a library")

    monkeypatch.setattr(launch, "run", broken)
    monkeypatch.setattr(sys, "argv", ["recdiv", "train"])
    with pytest.raises(ValueError, match="of a library"):  # Python's answer: traceback, status 1
        main()


@pytest.mark.slow
@pytest.mark.ci
def test_a_wheel_holds_presets_spaces_and_the_command(tmp_path: Path):
    copy = tmp_path / "tree"
    for name in ("recdiv_core", "pipelines", "tune_spaces"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    data = [p for p in ROOT.glob("recdiv_core/**/*") if p.suffix and p.suffix != ".py"]
    data = [path for path in data if path.parent.name != "__pycache__"]
    wanted = [*data, *ROOT.glob("pipelines/presets/*"), *ROOT.glob("tune_spaces/*.py")]
    assert {str(path.relative_to(ROOT)) for path in wanted} <= names
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "train", "--preset", "demo"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert "data.prepared=" in done.stderr  # the demo's preset was read: its place is named
    assert str(SCRIPTS_PLACE) not in done.stderr
