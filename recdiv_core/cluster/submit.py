"""Ship the working tree to a Ray cluster and start one pipeline there as a job.

Not the pipelines themselves: a job runs `python -m pipelines.NAME ... scaling.address=auto` from a
copy of the tree. Not its further life (jobs.py). The one idea: check everything here (command,
places, size of the tree, address), since a job that fails on the cluster costs minutes. The tree is
what git sees: tracked files and new files that .gitignore does not name.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from recdiv_core.cluster.jobs import connect
from recdiv_core.config import flatten
from recdiv_core.errors import UserError
from recdiv_core.settings import read_given
from recdiv_core.storage.credentials import passed_on
from recdiv_core.storage.given_paths import local_path
from recdiv_core.storage.places import is_uri
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

STOP_WAIT_S: Final = 120
"""Seconds in which a stopped job ends its workers and its MLflow runs before Ray kills it. Ray's
default of 3 s is too short."""
MAX_TREE_MIB: Final = 50.0
# keys that a job must set: its own directory, where it would write otherwise, is deleted by Ray
_WRITES: Final = {
    "prepare": ("data.out",),
    "train": ("run.storage", "tracking.uri"),
    "tune": ("run.storage", "tracking.uri"),
    "report": ("run.storage", "tracking.uri"),
}
_HERE_ONLY: Final = {"submit", "init", "dashboard"}
"""Pipelines that cannot run as a job."""
_SHARED: Final = "an absolute path on storage that all nodes share, or a URI"
_READS: Final = ("data.clicks", "data.items", "data.prepared", "train.init_from")


def submit(command: Sequence[str], address: str, working_dir: Path, env: Sequence[str]) -> str:
    """Start a pipeline as a job.

    Args:
        command: name of the pipeline and its arguments, e.g. `["tune", "--space", "tradeoff"]`.
        address: URL of the cluster's dashboard, e.g. `http://127.0.0.1:8265`.
        working_dir: a git working tree of this project.
        env: environment variables of the job, `NAME=VALUE`.

    Returns:
        The job's id.

    Raises:
        UserError: the command, a variable, the tree or the address is wrong, or the cluster refuses
            the job; nothing was submitted.
    """
    taken = passed_on()
    if taken:
        logger.warning(
            "%s go to the job as environment variables, which the cluster's dashboard shows; set "
            "them on the cluster instead",
            ", ".join(taken),
        )
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **taken, **_variables(env)}
    working_dir = local_path(working_dir, "--working-dir")
    check_command(command, working_dir)
    files = list_tree(working_dir)
    client = connect(address)
    entrypoint = ["python", "-m", f"pipelines.{command[0]}", *command[1:], "scaling.address=auto"]
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "tree.zip"
        with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(working_dir / file, file)
        try:
            job_id = client.submit_job(
                entrypoint=shlex.join(entrypoint),
                runtime_env={"working_dir": str(package), "env_vars": variables},
            )
        except RuntimeError as error:  # such as "No available agent" while a head node starts
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"--address {address}: the cluster refused the job: {reason}") from None
    again = f"recdiv submit --address {address}"
    shipped = counted(len(files), "file")
    logger.info("job %s: %s shipped to %s", job_id, shipped, address)
    logger.info("it runs on without this command; to stop it: %s --stop %s", again, job_id)
    logger.info("to follow it again: %s --follow %s", again, job_id)
    return job_id


def _variables(env: Sequence[str]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for text in env:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UserError(f"--env {text} is not NAME=VALUE")
        variables[name] = value
    return variables


def check_command(command: Sequence[str], working_dir: Path) -> None:
    """Check a pipeline's name, options and overrides without running it.

    Raises:
        UserError: no such pipeline, space or preset; an override that Config refuses; or a place
            that ends with the job.
    """
    scripts = working_dir / "pipelines"
    allowed = sorted(
        path.stem
        for path in scripts.glob("*.py")
        if path.stem[0] != "_" and path.stem not in _HERE_ONLY
    )
    if not allowed:
        raise UserError(
            f"{working_dir.absolute()} has no directory pipelines to send: run this in the "
            "project, or give its path as --working-dir"
        )
    if not command or command[0] not in allowed:
        raise UserError(
            f"pipeline {command[0] if command else ''!r} is not in {scripts}; "
            f"allowed: {', '.join(allowed)}"
        )
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in ("--preset", "--config", "--space", "--checkpoint", "--out"):
        parser.add_argument(option)
    try:
        args, rest = parser.parse_known_args(command[1:])
    except argparse.ArgumentError as error:
        raise UserError(f"{shlex.join(command)}: {error}") from None
    preset = scripts / "presets" / f"{args.preset}.yaml" if args.preset else None
    if args.space and not (working_dir / "tune_spaces" / f"{args.space}.py").is_file():
        raise UserError(f"--space {args.space} is not in {working_dir / 'tune_spaces'}")
    overrides = [text for text in rest if "=" in text and text[0] != "-"]
    file = _shipped(args.config, working_dir) if args.config else None
    config = read_given(preset, file, overrides).config
    places = flatten(config)
    for key in _WRITES.get(command[0], ()):
        if not places[key]:
            raise UserError(f"{key} is empty: a job must say where its work is kept, {_SHARED}")
    named = {key: places[key] for key in (*_READS, *_WRITES.get(command[0], ()))}
    named |= {"--checkpoint": args.checkpoint, "--out": args.out}
    for key, place in named.items():
        if place and not is_uri(str(place)) and not Path(str(place)).is_absolute():
            raise UserError(f"{key}={place} is relative: the job runs elsewhere; give {_SHARED}")


def _shipped(name: str, working_dir: Path) -> Path:
    """Return the config file of a job, which travels with the working tree.

    Raises:
        UserError: it is not in the tree, or git does not ship it.
    """
    file = working_dir / name
    if not file.is_file():
        raise UserError(f"--config {name} is not a file in --working-dir {working_dir}")
    if Path(name).is_absolute() or os.path.normpath(name) not in list_tree(working_dir):
        raise UserError(
            f"--config {name} would not be shipped: give a path below --working-dir {working_dir}, "
            "relative to it, that .gitignore does not name"
        )
    return file


def list_tree(working_dir: Path, max_mib: float = MAX_TREE_MIB) -> list[str]:
    """List the files of a git working tree: tracked, and new ones that are not ignored.

    Raises:
        UserError: not a git working tree, or larger than `max_mib`.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=working_dir,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        raise UserError(f"--working-dir {working_dir}: {listed.stderr.strip()}")
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
        raise UserError(
            f"--working-dir {working_dir} holds {size_mib:.1f} MiB, allowed are {max_mib:.0f}; "
            f"the largest: {rows}; name them in .gitignore, data belongs on shared storage"
        )
    return list(sizes)
