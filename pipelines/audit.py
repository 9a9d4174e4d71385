"""Audit a prepared data set: leaks, duplicates, bots, and how far its metrics can be trusted.

    recdiv audit data.prepared=runs/prepared/shop
    recdiv audit data.prepared=DIR --strict          # severe finding = exit status 1

The findings appear as a table on stderr. docs/audit.md explains each one and its remedy.
Prints {"prepared", "findings", "worst", "not_checked", "passed"}.
"""

from __future__ import annotations

import argparse
import sys

from pipelines import run_pipeline
from recdiv_core.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument(
        "--strict", action="store_true", help="exit with status 1 if a finding is severe"
    )
    parser.add_argument("--show-ids", action="store_true", help="show user ids as examples")


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Audit the data set of the config."""
    from recdiv_core.data.audit.prepared import audit, format_table, without_users

    found = audit(config.data.prepared)
    result: dict[str, object] = {**(found if args.show_ids else without_users(found))}
    print(format_table(result), file=sys.stderr)
    if result["findings"] != found["findings"]:
        print("ids of users are hidden; --show-ids shows up to five a finding", file=sys.stderr)
    return result | {"passed": not (args.strict and result["worst"] == "severe")}


if __name__ == "__main__":
    if not run_pipeline(main, options=options)["passed"]:
        sys.exit(1)
