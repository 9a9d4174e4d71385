"""Ship the working tree to a Ray cluster, run one pipeline there as a job and follow its log.

Not the pipelines themselves: a job runs `python -m pipelines.NAME ... scaling.address=auto` from a
copy of the tree. The one idea: whatever can be known here is checked here (the command, the places
it reads and writes, the size of the tree, the address), since a job that fails on the cluster costs
minutes. The tree is what git sees: tracked files and new ones that .gitignore does not name.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shlex
import socket
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from recdiv_core.config import flatten, load

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

logger = logging.getLogger(__name__)

POLL_S: Final = 2.0
PATIENCE_S: Final = 600.0
MAX_TREE_MIB: Final = 50.0
# settings without which a pipeline would write into the job's own directory, which Ray deletes
_WRITES: Final = {
    "prepare": ("data.out",),
    "train": ("run.storage", "tracking.uri"),
    "tune": ("run.storage", "tracking.uri"),
    "report": ("run.storage", "tracking.uri"),
}
_SHARED: Final = "an absolute path on storage that all nodes share, or a URI"
_READS: Final = ("data.clicks", "data.items", "data.prepared", "train.init_from")


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job_id: str
    status: str
    """`SUCCEEDED`, `FAILED` or `STOPPED`."""
    exit_status: int
    """Of the pipeline: 0 done, 1 it failed while running, 2 the input is wrong."""
    result: dict[str, object] | None
    """The JSON line that the pipeline printed; None when it printed none."""


def submit(
    command: Sequence[str],
    *,
    address: str,
    working_dir: Path,
    env: Mapping[str, str],
    write: Callable[[str], object],
) -> Outcome:
    """Run a pipeline as a job and wait for it.

    Args:
        command: name of the pipeline and its arguments, e.g. `["tune", "--space", "tradeoff"]`.
        address: of the cluster's dashboard, e.g. `http://127.0.0.1:8265`.
        working_dir: a git working tree of this project.
        env: environment variables of the job.
        write: takes the job's log, piece by piece.

    Raises:
        ValueError: the command, the tree or the address is wrong; nothing was submitted.
    """
    check_command(command, working_dir)
    files = list_tree(working_dir)
    client = connect(address)
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "tree.zip"
        with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(working_dir / file, file)
        job_id = client.submit_job(
            entrypoint=shlex.join(
                ["python", "-m", f"pipelines.{command[0]}", *command[1:], "scaling.address=auto"]
            ),
            runtime_env={"working_dir": str(package), "env_vars": dict(env)},
        )
    target = f"{job_id} --address {address}"
    logger.info("job %s: %d files shipped to %s", job_id, len(files), address)
    logger.info("it goes on without this command; stop it with: ray job stop %s", target)
    logger.info("and follow it again with: ray job logs --follow %s", target)
    details = asyncio.run(_follow(client, job_id, write))
    exit_status = details.driver_exit_code
    if exit_status is None:  # it never ran, or was stopped: the log does not say why
        logger.error("job %s: %s", job_id, details.message)
    return Outcome(
        job_id=job_id,
        status=details.status.value,
        exit_status=1 if exit_status is None else exit_status,
        result=last_json_line(client.get_job_logs(job_id)),
    )


def check_command(command: Sequence[str], working_dir: Path) -> None:
    """Check a pipeline's name, options and overrides without running it.

    Raises:
        ValueError: no such pipeline, space or preset, an override that Config refuses, or a place
            that would not outlive the job.
    """
    scripts = working_dir / "pipelines"
    allowed = sorted(
        path.stem for path in scripts.glob("*.py") if path.stem not in {"__init__", "submit"}
    )
    if not command or command[0] not in allowed:
        raise ValueError(
            f"pipeline {command[0] if command else ''!r} is not in {scripts}; "
            f"allowed: {', '.join(allowed)}"
        )
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in ("--preset", "--space", "--checkpoint", "--out"):
        parser.add_argument(option)
    try:
        args, rest = parser.parse_known_args(command[1:])
    except argparse.ArgumentError as error:
        raise ValueError(f"{shlex.join(command)}: {error}") from None
    preset = scripts / "presets" / f"{args.preset}.yaml" if args.preset else None
    if args.space and not (working_dir / "tune_spaces" / f"{args.space}.py").is_file():
        raise ValueError(f"--space {args.space} is not in {working_dir / 'tune_spaces'}")
    config = load(preset, [text for text in rest if "=" in text and text[0] != "-"])
    places = flatten(config)
    for key in _WRITES.get(command[0], ()):
        if not places[key]:
            raise ValueError(f"{key} is empty: a job must say where its work is kept, {_SHARED}")
    named = {key: places[key] for key in (*_READS, *_WRITES.get(command[0], ()))}
    named |= {"--checkpoint": args.checkpoint, "--out": args.out}
    for key, place in named.items():
        if place and "://" not in str(place) and not Path(str(place)).is_absolute():
            raise ValueError(f"{key}={place} is relative: the job runs elsewhere; give {_SHARED}")


def list_tree(working_dir: Path, max_mib: float = MAX_TREE_MIB) -> list[str]:
    """List the files of a git working tree: tracked, and new ones that are not ignored.

    Raises:
        ValueError: not a git working tree, or larger than `max_mib`.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=working_dir,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        raise ValueError(f"--working-dir {working_dir}: {listed.stderr.strip()}")
    names = sorted({name for name in listed.stdout.split("\0") if name})
    sizes = {
        name: (working_dir / name).stat().st_size
        for name in names
        if (working_dir / name).is_file()
    }
    size_mib = sum(sizes.values()) / 2**20
    if size_mib > max_mib:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        rows = ", ".join(f"{name} ({sizes[name] / 2**20:.1f} MiB)" for name in largest)
        raise ValueError(
            f"--working-dir {working_dir} holds {size_mib:.1f} MiB, allowed are {max_mib:.0f}; "
            f"the largest: {rows}; name them in .gitignore, data belongs on shared storage"
        )
    return list(sizes)


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the cluster's job server once it has answered.

    Raises:
        ValueError: nothing answers there, it is no Ray dashboard, or it wants another token.
    """
    place = urlsplit(address)
    if place.scheme not in {"http", "https"} or not place.hostname:
        raise ValueError(f"--address {address} is not a URL such as http://127.0.0.1:8265")
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if os.environ.get(variable, address) != address:
            raise ValueError(
                f"{variable}={os.environ[variable]} would win over --address {address}: "
                "unset it or give the same"
            )
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        socket.create_connection((place.hostname, port), timeout=10).close()
        return JobSubmissionClient(address)
    except (AuthenticationError, OSError, RuntimeError, ValueError, KeyError) as error:
        hint = "start one with `ray up cluster.yaml`, and `ray dashboard cluster.yaml` for the port"
        if isinstance(error, AuthenticationError):
            hint = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's token"
        raise ValueError(
            f"no Ray cluster takes jobs at --address {address} ({error}); {hint}"
        ) from None


async def _follow(
    client: JobSubmissionClient, job_id: str, write: Callable[[str], object]
) -> JobDetails:
    """Write the log until the job has ended; connect again whenever the connection is lost."""
    import aiohttp

    num_written = 0
    silent_since: float | None = None
    while True:
        num_read = 0  # every connection sends the log from its beginning
        try:
            async for text in client.tail_job_logs(job_id):
                num_read += len(text)
                write(text[len(text) - max(0, num_read - num_written) :])
                num_written = max(num_written, num_read)
                silent_since = None
            details = client.get_job_info(job_id)
            silent_since = None
            if details.status.is_terminal():
                return details
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > PATIENCE_S:
                raise
            logger.warning("job %s: its log was cut off (%r); connecting again", job_id, error)
        await asyncio.sleep(POLL_S)


def last_json_line(log: str) -> dict[str, object] | None:
    r"""Return the last line of a log that is a JSON object; None when there is none.

    >>> last_json_line('{"a": 1}\n{"b": 2}\nbye\n')
    {'b': 2}
    """
    for line in reversed(log.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
    return None
