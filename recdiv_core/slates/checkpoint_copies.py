"""Copies of checkpoints that are in a store, on this machine.

Not the content of a checkpoint (checkpoint.py), which is read from directories alone. A process
copies the files that evaluation needs once, into a temporary directory that ends with the process.
A checkpoint on this machine is used where it is.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Final

import pyarrow.fs

from recdiv_core.errors import UserError
from recdiv_core.slates.checkpoint import ITEMS, chosen_checkpoint
from recdiv_core.storage.credentials import redact
from recdiv_core.storage.given_paths import local_path
from recdiv_core.storage.places import filesystem_of, is_uri, joined

COPIED: Final = ("checkpoint.json", "config.yaml", "model.pt")
"""Files of a checkpoint without the state of the optimiser, which only the same run needs."""


def given_checkpoint(place: str, key: str) -> str:
    """Return the path or URI of a checkpoint; for a training run, that of its last one.

    Args:
        place: checkpoint, or directory of a training run.
        key: option or key that names it, for messages.

    Raises:
        UserError: it is neither a checkpoint nor the directory of a finished training run.
    """
    if is_uri(place):
        return checkpoint_of_run(place, key)
    directory = local_path(place, key).absolute()
    if not directory.is_dir():
        raise UserError(
            f"{key}={place} is not a directory (working directory {Path.cwd()}); give the "
            "directory of a training run (runs/NAME) or a checkpoint"
        )
    is_checkpoint = (directory / "checkpoint.json").is_file()
    return str(directory if is_checkpoint else chosen_checkpoint(directory))


def local_checkpoint(place: str | Path, key: str) -> Path:
    """Return the directory of a checkpoint on this machine, absolute.

    Raises:
        UserError: a URI that cannot be read, or that holds no checkpoint.
    """
    return _copied(str(place), key) if is_uri(place) else local_path(place, key).absolute()


def checkpoint_of_run(place: str, key: str) -> str:
    """Return the URI of a checkpoint; for the URI of a training run, that of its last one.

    Raises:
        UserError: it is neither a checkpoint nor the directory of a finished training run.
    """
    filesystem, path = filesystem_of(place, key)
    try:
        if _is_file(filesystem, f"{path}/checkpoint.json"):
            return place
        listed = filesystem.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
        names = [info.base_name for info in listed if info.base_name.startswith("checkpoint_")]
        with tempfile.TemporaryDirectory() as scratch:
            for name in names:
                if _is_file(filesystem, f"{path}/{name}/checkpoint.json"):
                    Path(scratch, name).mkdir()
                    _copy(filesystem, f"{path}/{name}/checkpoint.json", Path(scratch, name))
            try:
                return joined(place, chosen_checkpoint(Path(scratch)).name)
            except UserError as error:
                raise UserError(str(error).replace(scratch, redact(place))) from None
    except OSError as error:
        raise UserError(f"{key}={redact(place)} cannot be read: {error}") from None


@functools.cache
def _copied(place: str, key: str) -> Path:
    filesystem, path = filesystem_of(place, key)
    directory = Path(tempfile.mkdtemp(prefix="recdiv-checkpoint-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    try:
        for name in COPIED:
            if not _is_file(filesystem, f"{path}/{name}"):
                raise UserError(f"{key}={redact(place)} holds no {name}: not a whole checkpoint")
            _copy(filesystem, f"{path}/{name}", directory)
        if _is_file(filesystem, f"{path}/{ITEMS}"):
            _copy(filesystem, f"{path}/{ITEMS}", directory)
    except OSError as error:
        raise UserError(f"{key}={redact(place)} cannot be read: {error}") from None
    return directory


def _is_file(filesystem: pyarrow.fs.FileSystem, path: str) -> bool:
    return filesystem.get_file_info(path).type == pyarrow.fs.FileType.File


def _copy(filesystem: pyarrow.fs.FileSystem, path: str, directory: Path) -> None:
    with (
        filesystem.open_input_stream(path) as source,
        Path(directory, path.rpartition("/")[2]).open("wb") as target,
    ):
        shutil.copyfileobj(source, target)
