"""python -m pipelines.submit --address http://HEAD:8265 -- tune --space tradeoff key=value ...

Run any pipeline on a Ray cluster: ships the working tree as a Ray job, follows its log on stderr,
prints its JSON line to stdout and exits with its status. Ctrl-C leaves the job running.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path

from recdiv_core.submit import submit


def main() -> int:
    """Split the command line at `--`, submit what follows it and return the job's exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--address", default="http://127.0.0.1:8265", help="the Ray dashboard")
    parser.add_argument("--working-dir", type=Path, default=Path(), help="the git tree to ship")
    parser.add_argument("--env", action="append", default=[], type=_variable, metavar="NAME=VALUE")
    cut = [*sys.argv, "--"].index("--")
    args = parser.parse_args(sys.argv[1:cut])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    try:
        outcome = submit(
            sys.argv[cut + 1 :],
            address=args.address,
            working_dir=args.working_dir,
            env=dict(args.env),
            write=sys.stderr.write,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; a job that was submitted goes on", file=sys.stderr)
        return 130
    print(json.dumps(dataclasses.asdict(outcome), ensure_ascii=False), flush=True)
    return outcome.exit_status


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
