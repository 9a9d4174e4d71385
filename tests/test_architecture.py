"""The layers of docs/architecture.md and the habits that keep them, read from the source."""

import ast
import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from recdiv_core import config
from recdiv_core.losses import diversity, relevance
from recdiv_core.models.baselines import SCORES
from recdiv_core.rerank import RERANKERS

ROOT = Path(__file__).parent.parent

# A room imports only from rooms of the lines below its own, and from itself. The modules at the
# root of recdiv_core are one room, "words"; errors.py stands below all.
LINES = """
benchmarks tests
pipelines
tune_spaces
updating
sweep
report
fronts release
training
evaluation
slates
tracking adaptation
data
shop adapters
formats
cluster
losses metrics rerank models
items
words
storage
errors
"""
LEVELS = {
    room: level
    for level, line in enumerate(reversed(LINES.strip().splitlines()))
    for room in line.split()
}
WORDS = {
    "config", "effects", "idle", "schema", "search_space", "settings", "slate_rules", "wording"
}  # fmt: skip
# packages that only some rooms may know
RESERVED = {
    "torch": {
        "adaptation",
        "items",
        "losses",
        "metrics",
        "rerank",
        "models",
        "formats",
        "adapters",
        "data",
    }
    | {"slates", "evaluation", "training", "report", "release", "sweep"},
    "numba": {"rerank", "models"},
    "transformers": {"adaptation", "models", "data"},
    "ray": {"shop", "data", "cluster", "slates", "evaluation", "training", "sweep", "tune_spaces"},
    "optuna": {"sweep"},
    "mlflow": {"tracking", "fronts", "release", "report"},
}
PROCESSES = {"recdiv_core.cluster.start"}  # for processes that Ray starts, without a script
EMPTY_NAMES = {"utils", "util", "helpers", "common", "misc", "base", "manager", "factory"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


OUTER = ("tune_spaces", "pipelines")
FILES = [p for package in ("recdiv_core", *OUTER) for p in sorted((ROOT / package).rglob("*.py"))]
LIBRARY = [name for name in map(module_name, FILES) if name.startswith("recdiv_core")]
SCRIPTS = sorted(path for path in (ROOT / "pipelines").glob("*.py") if path.stem[0] != "_")


@functools.cache
def sources() -> dict[str, ast.Module]:
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def room(name: str) -> str:
    """Return the room of a module, or of a name inside one."""
    top, _, rest = name.partition(".")
    if top != "recdiv_core":
        return top
    first = rest.split(".")[0]
    return "words" if first in WORDS or not first else first


@functools.cache
def nodes(module: str) -> list[ast.AST]:
    """Return all nodes of a module."""
    return list(ast.walk(sources()[module]))


@functools.cache
def imports(module: str) -> tuple[str, ...]:
    """Return every name a module imports, lazily or not, as `package.module[.name]`."""
    found: list[str] = []
    for node in nodes(module):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno} imports relatively"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


def test_every_module_of_the_library_stands_in_a_room():
    # a new room goes into LINES and into docs/architecture.md; the root takes no new module
    assert not [module for module in LIBRARY if room(module) not in LEVELS]


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
            directory = f"{first.strip('/')}.".replace("/", ".") if first.endswith("/") else ""
        names = re.findall(r"(?<![\w/.<])(\w+)\.py\b", line)
        found |= {f"{package}.{directory}{name}" for name in names}
    return {name for name in found if name.split(".")[0] in {"recdiv_core", *OUTER}}


def test_the_document_names_every_module():
    assert modules_of_the_tree() == {module_name(p) for p in FILES if p.name != "__init__.py"}


def test_imports_point_down_the_rooms():
    upward = [
        (module, name)
        for module in sources()
        for name in imports(module)
        if room(name) in LEVELS
        and room(name) != room(module)
        and LEVELS[room(name)] >= LEVELS[room(module)]
        and name != "recdiv_core"
    ]
    assert not upward


def test_modules_do_not_import_each_other_in_a_circle():
    below = {
        module: {name if name in sources() else name.rpartition(".")[0] for name in imports(module)}
        & sources().keys() - {module}
        for module in sources()
    }
    while ends := [module for module, found in below.items() if not found]:
        below = {m: found - set(ends) for m, found in below.items() if m not in ends}
    assert not below


def test_a_reserved_package_is_imported_only_by_its_rooms():
    reserved = [
        (module, root)
        for module in sources()
        for root in RESERVED.keys() & {name.split(".")[0] for name in imports(module)}
        if room(module) not in RESERVED[root]
    ]
    assert not reserved


def test_only_scripts_set_up_logging():
    set_up = {"basicConfig", "dictConfig", "fileConfig", "addHandler"}
    library = [m for m in sources() if room(m) != "pipelines" and m not in PROCESSES]
    assert not [
        (module, node.attr)
        for module in library
        for node in nodes(module)
        if isinstance(node, ast.Attribute) and node.attr in set_up
    ]


def test_import_has_no_effect():
    quiet = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    quiet += (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If)
    loud = [
        (module, ast.unparse(node))
        for module, source in sources().items()
        for node in source.body
        if not isinstance(node, quiet)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    assert not loud


def test_a_module_is_named_after_a_thing_of_the_domain():
    assert not [module for module in sources() if module.rpartition(".")[2] in EMPTY_NAMES]


def test_every_module_says_what_it_is():
    silent = [m for m, source in sources().items() if source.body and not ast.get_docstring(source)]
    assert not silent


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_beside_its_help_text(script: Path):
    source = script.read_text(encoding="utf-8")
    help_text = ast.parse(source).body[0]
    assert len(source.splitlines()[help_text.end_lineno :]) <= 60


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_shows_its_launch_command(script: Path):
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    assert f"recdiv {script.stem}" in docstring


def test_words_and_scripts_import_nothing_heavy():
    modules = [
        "recdiv_core.config",
        "recdiv_core.storage.places",
        "recdiv_core.settings",
        "recdiv_core.effects",
        "recdiv_core.schema",
        "recdiv_core.search_space",
        "recdiv_core.slate_rules",
        "tune_spaces",
        "pipelines.__main__",
        *(f"pipelines.{script.stem}" for script in SCRIPTS),
    ]
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


def test_no_private_module_of_ray_is_imported():
    # they change with every minor version; docs/contributing.md names the versions that may be used
    assert not [
        (module, name)
        for module in sources()
        for name in imports(module)
        if name.split(".")[0] == "ray" and "._" in name
    ]


def needs(module: str, found: set[str]) -> None:
    """Add all that importing a module imports: no imports inside functions or for types alone."""
    path = ROOT / Path(*module.split("."))
    path = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    if module in found or not path.exists():
        found.add(module)
        return
    found.add(module)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            for end in range(1, len(name.split(".")) + 1):
                needs(".".join(name.split(".")[:end]), found)


def test_the_script_for_gpus_and_its_tests_need_neither_ray_nor_pyarrow():
    found: set[str] = set()
    needs("benchmarks.gpu", found)
    needs("tests.test_gpu", found)
    assert {"torch", "recdiv_core.training.step", "recdiv_core.losses.diversity"} <= found
    absent = {"ray", "pyarrow", "mlflow", "pandas", "hypothesis", "optuna", "fsspec", "jinja2"}
    assert not absent & found
