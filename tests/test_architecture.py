"""The layers of docs/architecture.md and the habits that keep them, read from the source."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import pytest

from recdiv_core import config
from recdiv_core.data import augment
from recdiv_core.losses import adversarial, balance, diversity, relevance, soft_topk
from recdiv_core.models.baselines import SCORES
from recdiv_core.rerank import RERANKERS

ROOT = Path(__file__).parent.parent

# the first two parts of a module's name (the first alone outside recdiv_core) -> its layer
LAYERS = {
    "recdiv_core": "words",
    "recdiv_core.claims": "words",
    "recdiv_core.config": "words",
    "recdiv_core.credentials": "words",
    "recdiv_core.errors": "words",
    "recdiv_core.places": "words",
    "recdiv_core.settings": "words",
    "recdiv_core.effects": "words",
    "recdiv_core.idle": "words",
    "recdiv_core.interrupts": "words",
    "recdiv_core.data_versions": "words",
    "recdiv_core.given_paths": "words",
    "recdiv_core.schema": "words",
    "recdiv_core.search_space": "words",
    "recdiv_core.slate_rules": "words",
    "recdiv_core.whole_files": "words",
    "recdiv_core.wording": "words",
    "recdiv_core.labels": "pure",
    "recdiv_core.losses": "pure",
    "recdiv_core.metrics": "pure",
    "recdiv_core.rerank": "pure",
    "recdiv_core.models": "pure",
    "recdiv_core.pareto": "pure",
    "recdiv_core.data": "data",
    "recdiv_core.ray_start": "data",
    "recdiv_core.ray_errors": "data",
    "recdiv_core.ray_leftovers": "data",
    "recdiv_core.training": "running",
    "recdiv_core.slates": "running",
    "recdiv_core.evaluate": "running",
    "recdiv_core.audit": "running",
    "recdiv_core.judged_runs": "running",
    "recdiv_core.drawn_figures": "running",
    "recdiv_core.compare": "running",
    "recdiv_core.compare_text": "running",
    "recdiv_core.held_out": "running",
    "recdiv_core.groupings": "running",
    "recdiv_core.scorecards": "running",
    "recdiv_core.recommend": "running",
    "recdiv_core.slate_files": "running",
    "recdiv_core.sameness": "running",
    "recdiv_core.inspect_slates": "running",
    "recdiv_core.inspect_page": "running",
    "recdiv_core.gate": "running",
    "recdiv_core.registry": "running",
    "recdiv_core.serving": "running",
    "recdiv_core.query_index": "running",
    "recdiv_core.sweep": "running",
    "recdiv_core.sweep_runs": "running",
    "recdiv_core.sweep_state": "running",
    "recdiv_core.search": "running",
    "recdiv_core.rungs": "running",
    "recdiv_core.tracking": "running",
    "recdiv_core.tracking_store": "running",
    "recdiv_core.report": "running",
    "recdiv_core.report_page": "running",
    "recdiv_core.page_style": "running",
    "recdiv_core.slate_views": "running",
    "recdiv_core.slate_figures": "running",
    "recdiv_core.slate_examples": "running",
    "recdiv_core.slate_page": "running",
    "recdiv_core.trials": "running",
    "recdiv_core.trials_text": "running",
    "recdiv_core.trials_view": "running",
    "recdiv_core.points": "running",
    "recdiv_core.course": "running",
    "recdiv_core.dashboard": "running",
    "recdiv_core.submit": "running",
    "recdiv_core.jobs": "running",
    "tune_spaces": "spaces",
    "pipelines": "pipelines",
    "benchmarks": "outside",
    "tests": "outside",
}
MAY_IMPORT = {
    "words": {"words"},
    "pure": {"words", "pure"},
    "data": {"words", "pure", "data"},
    "running": {"words", "pure", "data", "running"},
    "spaces": {"words", "spaces"},
    "pipelines": {"words", "pure", "data", "running", "spaces", "pipelines"},
}
# packages that only some layers may know
RESERVED = {
    "torch": {"pure", "data", "running"},
    "numba": {"pure"},
    "transformers": {"pure", "data", "running"},
    "ray": {"data", "running", "spaces"},
    "optuna": {"running"},
    "mlflow": {"running"},
}
MLFLOW_MODULES = {
    f"recdiv_core.{name}" for name in ("tracking", "tracking_store", "report", "registry")
}
PROCESSES = {"recdiv_core.training.loop"}  # a Train worker starts here, with no script before it
EMPTY_NAMES = {"utils", "util", "helpers", "common", "misc", "base", "manager", "factory"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


OUTER = ("tune_spaces", "pipelines")
FILES = [p for package in ("recdiv_core", *OUTER) for p in sorted((ROOT / package).rglob("*.py"))]
SOURCES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
LIBRARY = [name for name in SOURCES if name.startswith("recdiv_core")]
SCRIPTS = sorted(path for path in (ROOT / "pipelines").glob("*.py") if path.stem[0] != "_")


def unit(name: str) -> str:
    """Return the part of a module's name that the table of layers knows."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "recdiv_core" else parts[0]


def layer(name: str) -> str:
    return LAYERS[unit(name) if unit(name) in LAYERS else name.split(".")[0]]


def imports(module: str) -> Iterator[str]:
    """Yield every name a module imports, lazily or not, as `package.module[.name]`."""
    for node in ast.walk(SOURCES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_of_the_library_stands_in_a_layer():
    # add it to LAYERS and to docs/architecture.md
    assert not [module for module in LIBRARY if unit(module) not in LAYERS]


def modules_of_the_tree() -> set[str]:
    """Return the modules that the document's tree names, each below its directory."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    tree = text.partition("## 1. The tree")[2].partition("## 2.")[0]
    found: set[str] = set()
    package = directory = ""
    for line in tree.splitlines():
        indent, first = len(line) - len(line.lstrip()), (line.split() or [""])[0]
        if indent == 0:
            package, directory = first.strip("/"), ""
        elif indent == 2:
            directory = f"{first.strip('/')}." if first.endswith("/") else ""
        names = re.findall(r"(?<![\w/.<])(\w+)\.py\b", line)
        found |= {f"{package}.{directory}{name}" for name in names}
    return {name for name in found if name.split(".")[0] in {"recdiv_core", *OUTER}}


def test_the_document_names_every_module():
    assert modules_of_the_tree() == {module_name(p) for p in FILES if p.name != "__init__.py"}


def test_imports_point_down_the_layers():
    upward = [
        (module, name)
        for module in SOURCES
        for name in imports(module)
        if name.split(".")[0] in LAYERS and layer(name) not in MAY_IMPORT[layer(module)]
    ]
    assert not upward


def test_a_reserved_package_is_imported_only_by_its_layers():
    reserved = [
        (module, root)
        for module in SOURCES
        for root in RESERVED.keys() & {name.split(".")[0] for name in imports(module)}
        if layer(module) not in RESERVED[root]
    ]
    assert not reserved


def test_mlflow_is_imported_only_by_those_who_talk_to_it():
    others = [module for module in SOURCES if unit(module) not in MLFLOW_MODULES]
    assert not [
        module for module in others if "mlflow" in {n.split(".")[0] for n in imports(module)}
    ]


def test_only_scripts_set_up_logging():
    set_up = {"basicConfig", "dictConfig", "fileConfig", "addHandler"}
    library = [m for m in SOURCES if layer(m) != "pipelines" and m not in PROCESSES]
    assert not [
        (module, node.attr)
        for module in library
        for node in ast.walk(SOURCES[module])
        if isinstance(node, ast.Attribute) and node.attr in set_up
    ]


def test_import_has_no_effect():
    quiet = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    quiet += (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If)
    loud = [
        (module, ast.unparse(node))
        for module, source in SOURCES.items()
        for node in source.body
        if not isinstance(node, quiet)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    assert not loud


def test_a_module_is_named_after_a_thing_of_the_domain():
    assert not [module for module in SOURCES if module.rpartition(".")[2] in EMPTY_NAMES]


def test_every_module_says_what_it_is():
    silent = [m for m, source in SOURCES.items() if source.body and not ast.get_docstring(source)]
    assert not silent


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short(script: Path):
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_shows_its_launch_command(script: Path):
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    assert f"python -m pipelines.{script.stem}" in docstring


@pytest.mark.parametrize(
    "modules",
    [
        [
            "recdiv_core.config",
            "recdiv_core.places",
            "recdiv_core.settings",
            "recdiv_core.effects",
            "recdiv_core.schema",
            "recdiv_core.search_space",
            "recdiv_core.slate_rules",
        ],
        ["tune_spaces", "pipelines.__main__", *(f"pipelines.{script.stem}" for script in SCRIPTS)],
    ],
    ids=["words", "scripts"],
)
def test_words_and_scripts_import_nothing_heavy(modules: list[str]):
    code = f"import sys, json, pipelines, {', '.join(modules)}; print(json.dumps([*sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"torch", "numba", "ray", "mlflow", "transformers", "sklearn", "matplotlib", "plotly"}
    assert not heavy & set(json.loads(done.stdout))


def test_rerank_methods_of_the_config_are_those_of_the_table():
    assert list(get_args(config.RerankMethod)) == list(RERANKERS)


def test_regularisers_of_the_config_are_those_of_the_table():
    assert list(get_args(config.Regulariser)) == list(diversity.REGULARISERS)


def test_relevance_losses_of_the_config_are_those_of_the_table_and_auto():
    assert list(get_args(config.RelevanceLoss)) == ["auto", *relevance.RELEVANCE]


def test_kinds_of_model_of_the_config_are_neural_and_the_baselines_of_the_table():
    assert list(get_args(config.ModelKind)) == ["neural", *SCORES]


@pytest.mark.parametrize(
    ("literal", "table"),
    [
        (config.SoftSlate, soft_topk.SOFT_SLATES),
        (config.Adversarial, adversarial.SHARES),
        (config.Balance, balance.BALANCES),
        (config.Augmentation, augment.OPERATIONS),
    ],
)
def test_the_names_in_the_config_are_those_of_the_tables(literal: object, table: Iterable[str]):
    assert list(get_args(literal)) == list(table)
