"""Forget users: remove them from a prepared data set and from slates, for good.

    recdiv forget USER_ID data.prepared=runs/prepared/shop
    recdiv forget --file users.txt data.prepared=runs/prepared/shop --slates slates-today

Makes the next version of the data set, without the users, and removes the versions that have them.
Later appends and preparations of this data set leave the users out. Models keep what they learned:
train again, or update (docs/privacy.md). Exit status 1 = a process still reads an old version; run
the command again. Exit status 2 = a user is not in the data set.
Prints {"prepared", "num_users", "num_forgotten_before", "num_unknown", "files", "not_removed",
"others"}.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipelines import run_pipeline
from recdiv_core.config import Config
from recdiv_core.errors import UserError


def options(parser: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    parser.add_argument("--file", type=Path, metavar="FILE", help="user ids, one a line")
    parser.add_argument(
        "--slates", nargs="+", action="extend", default=[], type=Path, metavar="DIR", help="slates"
    )
    parser.add_argument(
        "--unknown-ok", action="store_true", help="forget users in advance who are not there yet"
    )


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Forget the users of the call."""
    from recdiv_core.data.forget import forget

    users: list[str] = list(args.users)
    if args.file is not None:
        try:
            users += args.file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"--file {args.file} cannot be read: {error}") from None
    return forget(config, users, slates=args.slates, unknown_ok=args.unknown_ok)


if __name__ == "__main__":
    result = run_pipeline(main, options=options, words="users")
    sys.exit(1 if result["not_removed"] else 0)
