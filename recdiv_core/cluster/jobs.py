"""List, follow and stop jobs on a Ray cluster, each by its id.

Not their submission (submit.py). The one idea: a job lives on the cluster alone. With the address
and the id, any machine shows the same log, exit status and JSON as the terminal that submitted it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from recdiv_core.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

logger = logging.getLogger(__name__)

POLL_S: Final = 2.0
PATIENCE_S: Final = 600.0
INTERRUPTED: Final = 130


@dataclass(frozen=True)
class Outcome:
    """End of a job."""

    job_id: str
    status: str
    """`SUCCEEDED`, `FAILED` or `STOPPED`."""
    exit_status: int
    """Exit status of the pipeline: 0 done, 1 failed while running, 2 wrong input, 130 stopped."""
    result: dict[str, object] | None
    """JSON line that the pipeline printed; None = it printed none."""


@dataclass(frozen=True)
class Job:
    """A row of the list of jobs."""

    job_id: str
    status: str
    """`PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED` or `STOPPED`."""
    command: str
    """Arguments of `submit`; for a job of another origin, its whole command."""
    started: str
    """Time of the start, ISO 8601, UTC."""
    took_s: float
    """Seconds from the start to the end, or until now."""


def list_jobs(address: str) -> list[Job]:
    """Return the jobs that the cluster remembers, the latest last, and log them as a table.

    Raises:
        UserError: see `connect`.
    """
    found = _submitted(connect(address)).items()
    jobs = sorted((_job(job_id, details) for job_id, details in found), key=lambda job: job.started)
    logger.info("%d jobs\n%s", len(jobs), job_table(jobs))
    return jobs


def _submitted(client: JobSubmissionClient) -> dict[str, JobDetails]:
    """Return the submitted jobs by id; drivers that joined the cluster themselves have no id."""
    return {job.submission_id: job for job in client.list_jobs() if job.submission_id}


def _job(job_id: str, details: JobDetails) -> Job:
    assert details.start_time is not None  # ms; Ray sets it when it takes the job
    end_s = time.time() if details.end_time is None else details.end_time / 1000
    started = datetime.fromtimestamp(details.start_time // 1000, UTC)
    command = details.entrypoint.removeprefix("python -m pipelines.")
    return Job(
        job_id=job_id,
        status=details.status.value,
        command=command.removesuffix(" scaling.address=auto"),
        started=started.isoformat(),
        took_s=max(0.0, end_s - details.start_time / 1000),
    )


def job_table(jobs: Sequence[Job]) -> str:
    """Return jobs as lines of text; the command, which is longest, is the last column."""
    rows = [("job", "status", "started", "took", "command")]
    for job in jobs:
        took = str(timedelta(seconds=round(job.took_s)))
        rows.append((job.job_id, job.status, job.started, took, job.command))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    padded = ([c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def stop(job_id: str, address: str) -> Outcome:
    """Stop a job as Ctrl-C would, and wait until it has ended.

    Raises:
        UserError: see `connect`; or no such job, or one that has ended already.
    """
    client = connect(address)
    details = _find(client, job_id, "--stop")
    if details.status.is_terminal():
        raise UserError(f"--stop {job_id}: the job has ended already, {details.status.value}")
    while not details.status.is_terminal():
        client.stop_job(job_id)  # repeated: a job that has just started may miss the first call
        time.sleep(POLL_S)
        details = client.get_job_info(job_id)
    logger.info("job %s: %s", job_id, details.status.value)
    return _outcome(client, job_id, details)


def follow(job_id: str, address: str, write: Callable[[str], object]) -> Outcome:
    """Follow a job's log from its beginning until the job has ended.

    Raises:
        UserError: see `connect`; or no such job.
    """
    client = connect(address)
    _find(client, job_id, "--follow")
    details = asyncio.run(_follow(client, job_id, write))
    if details.driver_exit_code is None:  # it never ran or was stopped; the log does not say why
        logger.error("job %s: %s", job_id, details.message)
    return _outcome(client, job_id, details)


def _find(client: JobSubmissionClient, job_id: str, option: str) -> JobDetails:
    jobs = _submitted(client)
    if job_id not in jobs:
        going = [name for name, job in jobs.items() if not job.status.is_terminal()]
        raise UserError(
            f"{option} {job_id}: the cluster knows no such job; jobs that have not ended: "
            f"{', '.join(going) or 'none'} (--list shows all)"
        )
    return jobs[job_id]


def _outcome(client: JobSubmissionClient, job_id: str, details: JobDetails) -> Outcome:
    exit_status = details.driver_exit_code
    if exit_status is None:  # Ray does not read the exit status of a job that it stopped
        exit_status = INTERRUPTED if details.status.value == "STOPPED" else 1
    return Outcome(
        job_id=job_id,
        status=details.status.value,
        exit_status=exit_status,
        result=last_json_line(client.get_job_logs(job_id)),
    )


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the cluster's job server once it has answered.

    Raises:
        UserError: nothing answers there, it is no Ray dashboard, or it wants another token.
    """
    place = urlsplit(address)
    if place.scheme not in {"http", "https"} or not place.hostname:
        raise UserError(f"--address {address} is not a URL such as http://127.0.0.1:8265")
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if os.environ.get(variable, address) != address:
            raise UserError(
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
        raise UserError(
            f"no Ray cluster takes jobs at --address {address} ({error}); {hint}"
        ) from None


async def _follow(
    client: JobSubmissionClient, job_id: str, write: Callable[[str], object]
) -> JobDetails:
    """Write the log until the job has ended; reconnect when the connection is lost."""
    import aiohttp

    num_written = 0
    silent_since: float | None = None
    while True:
        num_read = 0  # each connection sends the log from its beginning
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
    r"""Return the last line of a log that is a JSON object; None = there is none.

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
