"""Run a sweep: train every point of a search space, logged to MLflow under one parent run.

    recdiv tune --preset demo --space tradeoff
    recdiv tune --space tradeoff data.prepared=DIR run.name=autumn train.epochs=8

Run the same command again to resume a killed sweep; a finished sweep returns its result at once.
Prints {"experiment", "parent_run_id", "num_trials", "front", "dashboard"}.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import pkgutil

import tune_spaces
from pipelines import run_pipeline
from recdiv_core.cluster.start import set_environment
from recdiv_core.config import Config, override
from recdiv_core.errors import UserError
from recdiv_core.training.checks import check_prepared

logger = logging.getLogger(__name__)


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument(
        "--space", required=True, metavar="NAME", help=f"one of {', '.join(space_names())}"
    )


def space_names() -> list[str]:
    """Return the names that `--space` takes."""
    return sorted(module.name for module in pkgutil.iter_modules(tune_spaces.__path__))


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Run one sweep."""
    if args.space not in space_names():
        raise UserError(f"--space {args.space} is unknown; allowed: {', '.join(space_names())}")
    set_environment(config)  # before the space imports ray
    space = importlib.import_module(f"tune_spaces.{args.space}").SPACE
    # what the space fixes overrides files; the command line overrides the space
    covered = [key for key in args.given.file if key.startswith(tuple(space.fixed))]
    if covered:
        logger.warning(
            "--config %s: %s: no effect, --space %s sets them; override them on the command line",
            args.config,
            ", ".join(covered),
            args.space,
        )
    config = override(config, space.fixed, args.given.line)
    check_prepared(config)  # before the slow imports of a sweep
    from recdiv_core.sweep import run as sweep

    return sweep.run(config, space, args.space)


if __name__ == "__main__":
    run_pipeline(main, options=options)
