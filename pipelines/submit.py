"""Run a pipeline on a Ray cluster as a job; list, follow and stop jobs.

    recdiv submit --address http://HEAD:8265 -- tune --space tradeoff key=value ...
    recdiv submit --list
    recdiv submit --follow JOB_ID
    recdiv submit --stop JOB_ID

Sends the working tree and a `--config` file, follows the log, prints the JSON line of the pipeline
and exits with its status. Ctrl-C stops following; the job still runs.
Prints {"job_id", "status", "exit_status", "result"}; with --list {"jobs"}.
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
    parser.add_argument("--address", default="http://127.0.0.1:8265", help="Ray dashboard")
    parser.add_argument("--working-dir", type=Path, default=Path(), help="git tree to send")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="repeatable"
    )
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--list", action="store_true", help="list the jobs of the cluster")
    asked.add_argument("--follow", metavar="JOB_ID", help="follow the log of a job")
    asked.add_argument("--stop", metavar="JOB_ID", help="stop a job as Ctrl-C does, and wait")
    cut = [*sys.argv, "--"].index("--")
    args, command = parser.parse_args(sys.argv[1:cut]), sys.argv[cut + 1 :]
    if command and (args.list or args.follow or args.stop):
        parser.error("a command after -- cannot be combined with --list, --follow or --stop")
    try:
        answer, status = _answer(args, command)
    except (UserError, KeyboardInterrupt) as error:
        wrong = isinstance(error, UserError)
        print(f"error: {error}" if wrong else "interrupted; the job still runs", file=sys.stderr)
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
