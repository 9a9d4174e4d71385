"""The command `recdiv`: `recdiv NAME ...` is `python -m pipelines.NAME ...`.

    recdiv                 lists the pipelines
    recdiv NAME --help     says what one of them takes

Every script of this directory is found by itself. Nothing heavy is imported here.
"""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
from pathlib import Path
from typing import Final

SCRIPTS: Final = Path(__file__).parent


def script_names() -> list[str]:
    """Return the names of all pipelines."""
    return sorted(path.stem for path in SCRIPTS.glob("*.py") if path.stem[0] != "_")


def listing() -> str:
    """Return the list of pipelines, each with the first line that it says of itself."""
    lines = ["usage: recdiv NAME [--preset NAME] [--config FILE] [key=value ...]", ""]
    for name in script_names():
        source = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
        first, _, _ = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
        lines.append(f"  {name:<10} {first}")
    return "\n".join([*lines, "", "`recdiv NAME --help` says what one of them takes."])


def main() -> None:
    """Run the pipeline that the first argument names; its arguments are the rest."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(listing())
        return
    names = script_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"error: no pipeline {name!r}; {hint}there are: {', '.join(names)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [name, *rest]
    runpy.run_module(f"pipelines.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
