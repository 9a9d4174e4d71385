"""Audit a prepared data set: leaks, doubles, bots, what figures on it are worth.

    python -m pipelines.audit data.prepared=runs/prepared/shop
    python -m pipelines.audit data.prepared=DIR --strict          # a severe finding: exit status 1

A table for people goes to stderr. docs/audit.md says what is looked for, and what to do about it.
Prints {"prepared", "findings", "worst", "not_checked", "passed"}.
"""

from __future__ import annotations

import argparse
import sys

from pipelines import run_pipeline
from recdiv_core.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument("--strict", action="store_true", help="fail on a severe finding")


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Audit the data set of the config."""
    from recdiv_core.data.prepared_audit import audit, format_table

    result = audit(config.data.prepared)
    print(format_table(result), file=sys.stderr)
    return result | {"passed": not (args.strict and result["worst"] == "severe")}


if __name__ == "__main__":
    if not run_pipeline(main, options=options)["passed"]:
        sys.exit(1)
