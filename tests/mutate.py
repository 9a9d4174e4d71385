"""Does a test notice? Put one deliberate fault after another into a copy, and run its tests.

    python -m tests.mutate                    # all, about ten minutes
    python -m tests.mutate splits losses/balance.py

Not part of the suite: run it after losses, metrics, re-rankers, splits or adapters have changed. A
fault that no test notices is named at the end, and the exit status is 1. The table is in faults.py.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import ADAPTERS, LOSSES, METRICS, RERANKERS, SPLITS, Faults

ROOT = Path(__file__).parent.parent
COPIED = ("recdiv_core", "tests", "pipelines", "tune_spaces", "benchmarks", "docs", "README.md")
PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--doctest-modules")
FAMILIES: dict[str, Faults] = {
    "losses": LOSSES,
    "metrics": METRICS,
    "rerankers": RERANKERS,
    "splits": SPLITS,
    "adapters": ADAPTERS,
}
logger = logging.getLogger(__name__)


def main(names: list[str]) -> int:
    """Try the faults of the families or files named, or all; print one JSON line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = {
        file: faults
        for family, of_files in FAMILIES.items()
        for file, faults in of_files.items()
        if not names or family in names or file in names
    }
    if not chosen:
        raise SystemExit(f"no such family or file; there are {', '.join(FAMILIES)}")
    survivors: list[str] = []
    num_faults = 0
    with tempfile.TemporaryDirectory(prefix="mutate-") as directory:
        tree = copy_tree(Path(directory))
        for file, (tests, pairs) in chosen.items():
            for original, faulty in pairs:
                num_faults += 1
                started = time.monotonic()
                is_noticed = try_fault(tree, file, original, faulty, tests.split())
                verdict = "noticed" if is_noticed else "SURVIVED"
                took_s = time.monotonic() - started
                logger.info("%-9s %5.1f s  %s: %s", verdict, took_s, file, faulty.strip()[:60])
                if not is_noticed:
                    survivors.append(f"{file}: {original!r} -> {faulty!r}")
    sys.stdout.write(json.dumps({"num_faults": num_faults, "survivors": survivors}) + "\n")
    return 1 if survivors else 0


def copy_tree(directory: Path) -> Path:
    """Copy what the tests need, and return where it stands."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, directory / name)
    shutil.copy(ROOT / "pyproject.toml", directory / "pyproject.toml")
    return directory


def try_fault(tree: Path, file: str, original: str, faulty: str, tests: list[str]) -> bool:
    """Tell whether any of the tests fails with a fault; the copy is whole again afterwards."""
    path = tree / "recdiv_core" / file
    text = path.read_text(encoding="utf-8")
    if text.count(original) != 1:
        raise SystemExit(
            f"{file}: {original!r} stands there {text.count(original)} times, not once"
        )
    path.write_text(text.replace(original, faulty), encoding="utf-8")
    try:
        places = [f"tests/{name}.py" for name in tests]
        done = subprocess.run(
            [sys.executable, *PYTEST, *places, f"recdiv_core/{file}"],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        path.write_text(text, encoding="utf-8")
    if done.returncode not in (0, 1):  # the tests themselves could not be run
        raise SystemExit(f"{file}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}")
    return done.returncode == 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
