"""The pipelines: `recdiv NAME [--preset NAME] [--config FILE] [key=value ...]`.

Every script parses its command line into a Config, calls recdiv_core and prints one JSON object on
one line to stdout. Progress and logs go to stderr. Exit status: 0 = done, 1 = failed while running,
2 = wrong input (a message, no traceback), 130 = interrupted. A script ignores a setting of the
command line that it does not read, with a warning (effects.py). Presets and config files serve all
scripts. `python -m pipelines.NAME` is the same as `recdiv NAME` (__main__.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from recdiv_core.config import Config, check_keys, override
from recdiv_core.effects import ON_CHECKPOINTS, of_the_call, only_read_by, stale, unread
from recdiv_core.errors import DivergedError, UserError
from recdiv_core.settings import Given, read_given
from recdiv_core.storage.credentials import (
    RedactingFormatter,
    into_environment,
    redact,
    show_uncaught,
)

logger = logging.getLogger(__name__)

PRESETS: Final = Path(__file__).parent / "presets"
SETTING: Final = re.compile(r"\w+(\.\w+)*=")
"""Start of a `key=value` argument."""

Main = Callable[[Config, argparse.Namespace], dict[str, object]]


def run_pipeline(
    main: Main,
    *,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
    words: str = "",
) -> dict[str, object]:
    """Parse the command line, run `main` and print its result; exit the process on an error.

    Args:
        main: function of the Config and the parsed options; its result is printed as JSON. The
            option `given` holds the settings of this call that the script reads.
        options: function that adds the script's own options to the parser.
        words: name for the positional arguments that are not settings; empty = none allowed.

    Returns:
        The printed result.
    """
    pipeline = Path(main.__code__.co_filename).stem
    parser = argparse.ArgumentParser(
        prog=f"recdiv {pipeline}",
        description=main.__globals__["__doc__"],
        epilog=f"All settings: recdiv --settings. Same command: python -m pipelines.{pipeline}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--preset", default="", help=f"settings of the project: {', '.join(preset_names())}"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="your settings as YAML, nested or dotted keys; overrides the preset; paths are "
        "relative to the working directory",
    )
    takes = f"{words.upper()}|key=value" if words else "key=value"
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar=takes,
        help=f"{words + ' and ' if words else ''}settings, e.g. seed=1",
    )
    if options is not None:
        options(parser)
    start_logging("%(asctime)s %(name)s: %(message)s")
    args = parser.parse_intermixed_args()
    if words:
        given = [word for word in args.overrides if not SETTING.match(word)]
        setattr(args, words, given)
        args.overrides = [word for word in args.overrides if word not in given]
    for noisy in ("alembic", "httpx", "mlflow.store", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        # Ray forwards the prints of its workers: stdout is kept for the JSON line
        with contextlib.redirect_stdout(sys.stderr):
            result = main(_config(pipeline, args), args)
    except DivergedError as error:
        print(redact(f"error: {error}"), file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        mistake = _mistake(error)
        if mistake is None:
            raise
        print(redact(f"error: {' '.join(str(mistake).splitlines())}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    text = json.dumps(result, ensure_ascii=False, allow_nan=False)
    print(redact(text), flush=True)
    return result


def _mistake(error: Exception) -> UserError | None:
    """Return the UserError in an error, also if Ray wrapped it; None = a bug."""
    if "ray" not in sys.modules:
        return error if isinstance(error, UserError) else None
    from recdiv_core.cluster.failures import mistake_behind

    return mistake_behind(error)


def _config(pipeline: str, args: argparse.Namespace) -> Config:
    """Read the settings of the call; store those that this pipeline reads in `args.given`.

    Raises:
        UserError: a file, a key or a value is wrong.
    """
    given = read_given(preset_path(args.preset), args.config, args.overrides)
    given = replace(given, file=_freed(given.file))
    if pipeline in ON_CHECKPOINTS:
        # values are checked later, with the checkpoint's: they may contradict the defaults
        check_keys(given.line)
        config = override(Config(), of_the_call(given.preset), of_the_call(given.own))
    else:
        config = given.config  # also checks the settings that are left out below
    for message in unread(pipeline, given.line):
        logger.warning("%s", message)
    if args.preset and pipeline in ("evaluate", "recommend"):
        logger.warning(
            "--preset %s: no effect in %s, which takes the settings of the checkpoint",
            args.preset,
            pipeline,
        )
    for message in stale(pipeline, given.file, config):
        logger.warning("--config %s: %s", args.config, message)
    args.given = Given(
        preset=given.preset,
        file=only_read_by(pipeline, given.file),
        line=only_read_by(pipeline, given.line),
    )
    if pipeline in ON_CHECKPOINTS:
        return config
    return override(Config(), given.preset, given.file, args.given.line)


def start_logging(line: str) -> None:
    """Log to stderr, and move credentials from the command line to the environment.

    Args:
        line: format of a log line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter(line))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    sys.excepthook = show_uncaught
    try:
        sys.argv[1:] = _freed_words(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _freed_words(arguments: list[str]) -> list[str]:
    """Return a command line with its credentials moved to the environment."""
    pairs = [word.partition("=") if SETTING.match(word) else ("", "", word) for word in arguments]
    named = [(key or "argument", value) for key, _, value in pairs]
    left = into_environment(named, logger)
    return [f"{key}{equals}{value}" for (key, equals, _), value in zip(pairs, left, strict=True)]


def _freed(values: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a file with their credentials moved to the environment."""
    texts = [(key, value) for key, value in values.items() if isinstance(value, str)]
    left = into_environment(texts, logger)
    return {**values, **dict(zip((key for key, _ in texts), left, strict=True))}


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
