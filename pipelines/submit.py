"""Run any pipeline on a Ray cluster as a job; list, follow and stop jobs.

    python -m pipelines.submit --address http://HEAD:8265 -- tune --space tradeoff key=value ...

Ships the working tree, follows the job's log, prints its JSON line, exits with its status; Ctrl-C
leaves it running. A `--config` file is shipped too. --list, --follow and --stop: jobs of before.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from pipelines import start_logging
from recdiv_core.cluster.jobs import follow, list_jobs, stop
from recdiv_core.cluster.submit import submit
from recdiv_core.errors import UserError


def main() -> int:
    """Split the command line at `--`, answer it and return the exit status."""
    start_logging("%(name)s: %(message)s")
    parser = argparse.ArgumentParser("recdiv submit", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--address", default="http://127.0.0.1:8265", help="the Ray dashboard")
    parser.add_argument("--working-dir", type=Path, default=Path(), help="the git tree to ship")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--list", action="store_true", help="show the cluster's jobs")
    asked.add_argument("--follow", metavar="JOB_ID", help="a job's log, as if just submitted")
    asked.add_argument("--stop", metavar="JOB_ID", help="end a job as Ctrl-C would, and wait")
    cut = [*sys.argv, "--"].index("--")
    args, command = parser.parse_args(sys.argv[1:cut]), sys.argv[cut + 1 :]
    if command and (args.list or args.follow or args.stop):
        parser.error("what follows -- is submitted: not with --list, --follow or --stop")
    try:
        answer, status = _answer(args, command)
    except (UserError, KeyboardInterrupt) as error:
        wrong = isinstance(error, UserError)
        print(f"error: {error}" if wrong else "interrupted; the job goes on", file=sys.stderr)
        return 2 if wrong else 130
    print(json.dumps(answer, ensure_ascii=False), flush=True)
    return status


def _answer(args: argparse.Namespace, command: list[str]) -> tuple[dict[str, object], int]:
    if args.list:
        return {"jobs": [asdict(job) for job in list_jobs(args.address)]}, 0
    if args.stop:
        return asdict(stop(args.stop, args.address)), 0
    job_id = args.follow or submit(command, args.address, args.working_dir, args.env)
    end = follow(job_id, args.address, sys.stderr.write)
    return asdict(end), end.exit_status


if __name__ == "__main__":
    sys.exit(main())
