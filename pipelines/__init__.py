"""What one runs: `python -m pipelines.NAME [--preset NAME] [key=value ...]`.

Every script parses its command line into a Config, calls the library and prints one JSON object on
one line to stdout; progress and logs go to stderr. Exit status: 0 done, 1 it failed while running,
2 the user's input is wrong (a message, no traceback), 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from recdiv_core.config import Config, load
from recdiv_core.errors import UserError

PRESETS: Final = Path(__file__).parent / "presets"
SETTING: Final = re.compile(r"\w+(\.\w+)*=")
"""How `key=value` begins; a path or an id does not."""

Main = Callable[[Config, argparse.Namespace], dict[str, object]]


def run_pipeline(
    main: Main,
    *,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
    words: str = "",
) -> dict[str, object]:
    """Parse the command line, run `main`, print what it returns; exit here if it is no result.

    Args:
        main: takes the Config and the parsed options; what it returns is printed as JSON.
        options: adds the script's own options to the parser.
        words: name for the arguments that are no settings, for a script that takes some.

    Returns:
        What was printed.
    """
    module = sys.modules[main.__module__]
    parser = argparse.ArgumentParser(
        description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="", help=f"one of {', '.join(preset_names())}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. seed=1")
    if options is not None:
        options(parser)
    args = parser.parse_intermixed_args()
    if words:
        given = [word for word in args.overrides if not SETTING.match(word)]
        setattr(args, words, given)
        args.overrides = [word for word in args.overrides if word not in given]
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s"
    )
    for noisy in ("alembic", "httpx", "mlflow.store", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Ray passes on what its workers print: stdout is kept for the one JSON line
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        result = main(load(preset_path(args.preset), args.overrides), args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    print(json.dumps(result, ensure_ascii=False, allow_nan=False), file=stdout, flush=True)
    return result


def preset_names() -> list[str]:
    """Return the names that `--preset` takes."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset_path(name: str) -> Path | None:
    """Return the file of a preset, None for no preset.

    Raises:
        UserError: no preset has that name.
    """
    if not name:
        return None
    if name not in preset_names():
        raise UserError(f"--preset {name} is unknown; allowed: {', '.join(preset_names())}")
    return PRESETS / f"{name}.yaml"
