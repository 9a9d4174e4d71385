"""Mutation testing: put one deliberate fault after another into a copy, and run its tests.

    python -m tests.mutate                    # all, about ten minutes
    python -m tests.mutate splits losses/diversity.py

Each fault is tried in a fork of this process. The process has imported the slow libraries and none
of our modules. Not part of the suite: run it after a change of losses, metrics, re-rankers, splits
or adapters. The last line lists faults that no test noticed and faults without their text; then the
exit status is 1. The table is in faults.py.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import cache_from_source
from pathlib import Path

import hypothesis
import pytest

from tests.faults import ADAPTERS, LOSSES, METRICS, RERANKERS, SPLITS, Faults

ROOT = Path(__file__).parent.parent
COPIED = ("recdiv_core", "tests", "pipelines", "tune_spaces", "benchmarks", "docs", "README.md")
PYTEST = (
    *("-x", "-q", "-p", "no:cacheprovider", "--no-showlocals", "--tb=no"),
    *("-W", "ignore:Module already imported so cannot be rewritten"),
    "--hypothesis-profile=fault",
)
SLOW_IMPORTS = (
    *("torch", "numba", "scipy.optimize", "scipy.special", "sklearn.cluster", "sklearn.metrics"),
    *("pandas", "pyarrow.csv", "pyarrow.parquet", "pyarrow.dataset"),
)
OURS = ("tests", "recdiv_core")
MOST_S = 300
"""Timeout of a fault in seconds; it then counts as noticed, because its loop may be endless."""
FAMILIES: dict[str, Faults] = {
    "losses": LOSSES,
    "metrics": METRICS,
    "rerankers": RERANKERS,
    "splits": SPLITS,
    "adapters": ADAPTERS,
}
logger = logging.getLogger(__name__)


def main(names: list[str]) -> int:
    """Try the faults of the named families or files, or all; print one JSON line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = {
        file: faults
        for family, of_files in FAMILIES.items()
        for file, faults in of_files.items()
        if not names or family in names or file in names
    }
    if not chosen:
        raise SystemExit(f"unknown family or file; the families are {', '.join(FAMILIES)}")
    survivors: list[str] = []
    stale: list[str] = []
    num_faults = 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in SLOW_IMPORTS:
        import_module(name)
    # no shrinking: the first failing example is enough
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("fault", deadline=None, derandomize=True, phases=phases)
    with tempfile.TemporaryDirectory(prefix="mutate-") as directory:
        tree = copy_tree(Path(directory))
        for file, (tests, pairs) in chosen.items():
            for original, faulty in pairs:
                num_faults += 1
                if (tree / "recdiv_core" / file).read_text("utf-8").count(original) != 1:
                    stale.append(f"{file}: {original!r} does not occur exactly once")
                    continue
                started = time.monotonic()
                is_noticed = try_fault(tree, file, original, faulty, tests.split())
                verdict = "noticed" if is_noticed else "SURVIVED"
                took_s = time.monotonic() - started
                shown = " ".join(faulty.split())[:60]
                logger.info("%-9s %5.1f s  %s: %s", verdict, took_s, file, shown)
                if not is_noticed:
                    survivors.append(f"{file}: {original!r} -> {faulty!r}")
    sys.stdout.write(
        json.dumps({"num_faults": num_faults, "survivors": survivors, "stale": stale}) + "\n"
    )
    return 1 if survivors or stale else 0


def copy_tree(directory: Path) -> Path:
    """Copy the files that tests need, and return their directory."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, directory / name)
    shutil.copy(ROOT / "pyproject.toml", directory / "pyproject.toml")
    return directory


def try_fault(tree: Path, file: str, original: str, faulty: str, tests: list[str]) -> bool:
    """Return whether any of the tests fails with a fault; restore the copy afterwards."""
    path = tree / "recdiv_core" / file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(original, faulty), encoding="utf-8")
    try:
        code = run_pytest(tree, [*(f"tests/{name}.py" for name in tests), f"recdiv_core/{file}"])
    finally:
        path.write_text(text, encoding="utf-8")
        # bytecode of the fault may have the same second and size as the original
        Path(cache_from_source(str(path))).unlink(missing_ok=True)
    if code in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
        raise SystemExit(f"{file}: {' '.join(tests)} could not be run: pytest ended with {code}")
    return code != pytest.ExitCode.OK


def run_pytest(tree: Path, places: list[str]) -> int:
    """Run pytest in a fork of this process; return its exit status, below 0 = minus a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = int(pytest.ExitCode.INTERNAL_ERROR)
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.chdir(tree)
        signal.alarm(MOST_S)
        sys.path.insert(0, str(tree))
        for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
            del sys.modules[name]
        code = int(pytest.main([*PYTEST, *places]))
    finally:  # everything else in this process belongs to the parent
        os._exit(code)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
