"""The command `recdiv`: `recdiv NAME ...` runs `python -m pipelines.NAME ...`.

    recdiv                 list the pipelines
    recdiv NAME --help     show the options of one pipeline
    recdiv --settings      show all settings, as docs/settings.md

A new script in this directory appears in the list without further work.
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
    """Return the list of pipelines, each with the first line of its docstring."""
    lines = ["usage: recdiv NAME [--preset NAME] [--config FILE] [key=value ...]", ""]
    for name in script_names():
        source = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
        first, _, _ = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
        lines.append(f"  {name:<10} {first}")
    lines += ["", "`recdiv NAME --help` shows the options of a pipeline,"]
    lines += ["`recdiv --settings` all settings (key=value)."]
    return "\n".join(lines)


def main() -> None:
    """Run the pipeline that the first argument names; its arguments are the rest."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(listing())
        return
    if name == "--settings":
        from recdiv_core.settings import reference

        print(reference(), end="")
        return
    names = script_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"error: no pipeline {name!r}; {hint}pipelines: {', '.join(names)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [name, *rest]
    runpy.run_module(f"pipelines.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
