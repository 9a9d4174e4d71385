"""The small files in the directory of a run: its settings, its owner, its result.

    config.yaml     settings of the run; a run of this name with other settings is refused
    result.json     output of the pipeline, once the run is finished
    owner.json      process that writes the run now (storage/claims.py)

The directory may be a URI. A damaged file counts as absent, with a line in the log. Ray Train
writes the checkpoints beside these files (slates/checkpoint.py reads them).
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from pyarrow.fs import FileSystem, FileType, LocalFileSystem

from recdiv_core.config import Config, flatten, from_tree, override
from recdiv_core.data.versions import is_same_set, open_version
from recdiv_core.errors import UserError
from recdiv_core.storage.claims import claimed
from recdiv_core.storage.given_paths import check_run_name, output_path
from recdiv_core.storage.places import filesystem_of, is_uri, joined
from recdiv_core.storage.whole_files import write_whole

if TYPE_CHECKING:
    import ray.train

logger = logging.getLogger(__name__)

SNAPSHOT: Final = "checkpoint_manager_snapshot.json"

FREE_TO_CHANGE: Final = (
    "tracking.",
    "scaling.address",
    "scaling.min_workers",
    "train.max_failures",
    "data.",  # except data.prepared: the other keys say how it was made
    "split.",
)
"""Keys that may differ when a run is resumed."""


def place_run(config: Config, default_name: str) -> Config:
    """Return the config with an absolute `run.storage` and a run name that is one directory in it.

    Args:
        config: config with a `run` section.
        default_name: first part of the name of a run without one; the time follows.

    Raises:
        UserError: a name that would leave `run.storage`, or a storage that cannot be written.
    """
    name = check_run_name(config.run.name) or time.strftime(f"{default_name}-%Y%m%d-%H%M%S")
    storage = config.run.storage
    if not is_uri(storage):
        storage = str(output_path(storage, "run.storage").absolute())
    filesystem_of(storage, "run.storage")  # refuses a URI that it cannot read
    return override(config, {"run.name": name, "run.storage": storage})


def claim_run(config: Config) -> AbstractContextManager[None]:
    """Return a context in which no other process can write the same run.

    Raises:
        UserError: (on entry) another process writes the run now.
    """
    filesystem, place = _file(config, "")
    what = f"run.name={config.run.name} in run.storage={config.run.storage}"
    return claimed(filesystem, place.rstrip("/"), what)


class OtherSettingsError(UserError):
    """A run of this name exists with other settings.

    Args:
        run: name and place of the run.
        changed: keys with their values then and now, as text.
    """

    def __init__(self, run: str, changed: str) -> None:
        super().__init__(
            f"{run} with other settings: {changed}. Give another run.name, or the same settings to "
            "resume it"
        )
        self.changed = changed


def existing_result(config: Config) -> dict[str, Any] | None:
    """Return the result of a finished run of this name; None = it is not finished.

    Raises:
        OtherSettingsError: the name was used with other settings.
    """
    before = read_run_config(config)
    if before is None:
        return None
    then = flatten(before)
    changed = [
        f"{key} was {then[key]!r}, is {value!r}"
        for key, value in flatten(config).items()
        if value != then[key] and (key == "data.prepared" or not key.startswith(FREE_TO_CHANGE))
    ]
    if changed:
        run = f"run.name={config.run.name} exists in {config.run.storage}"
        raise OtherSettingsError(run, "; ".join(changed))
    return read_result(config)


def on_own_version(config: Config) -> Config:
    """Return the config with the version of the data set that an unfinished run began with.

    A resumed run keeps its version as long as that still exists.
    """
    if not config.data.prepared or read_result(config) is not None:
        return config
    before = read_run_config(config)
    if before is None:
        return config
    current, own = open_version(config.data.prepared), Path(before.data.prepared)
    if own == current or not is_same_set(own, current) or not (own / "manifest.json").is_file():
        return config
    logger.warning(
        "run.name=%s continues on the data it began with, %s; data.prepared=%s was prepared again "
        "since. Give another run.name to train on the new version",
        config.run.name,
        own,
        config.data.prepared,
    )
    return override(config, {"data.prepared": str(open_version(own))})


def read_run_config(config: Config) -> Config | None:
    """Read the settings that a run of this name began with; None = there is no such run."""
    text = _read(config, "config.yaml")
    if not text:
        return None
    try:
        tree = yaml.load(text, yaml.CSafeLoader)
        if not (isinstance(tree, dict) and "seed" in tree and text.endswith("\n")):
            raise ValueError("it ends before its last setting, seed")
    except (yaml.YAMLError, ValueError) as error:
        _say_damaged(config, "config.yaml", error)
        return None
    try:
        return from_tree(tree)
    except UserError as error:
        raise UserError(
            f"run.name={config.run.name} exists in {config.run.storage}, written by another "
            f"version of recdiv ({error}): give another run.name"
        ) from None


def read_result(config: Config) -> dict[str, Any] | None:
    """Read the output of a finished run of this name; None = it is not finished."""
    text = _read(config, "result.json")
    if not text:
        return None
    try:
        tree = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(tree, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        _say_damaged(config, "result.json", error)
        return None
    return tree


def drop_damaged_snapshot(config: Config) -> None:
    """Remove Ray Train's list of the checkpoints of a run, if it is damaged.

    Ray 2.60 overwrites the list in place. A process that dies then leaves half a list, with which
    Ray refuses to restart. Without the list `last_checkpoint` finds the checkpoints.
    """
    filesystem, path = _file(config, SNAPSHOT)
    text = _read(config, SNAPSHOT)
    if not text:
        if filesystem.get_file_info(path).type == FileType.File:  # cut off before its first byte
            filesystem.delete_file(path)
        return
    try:
        listed = [row["checkpoint_dir_name"] for row in json.loads(text)["checkpoint_results"]]
    except (ValueError, KeyError, TypeError) as error:
        _say_damaged(config, SNAPSHOT, error)
    else:
        places = [_file(config, name)[1] for name in listed]
        missing = [p for p in places if filesystem.get_file_info(p).type == FileType.NotFound]
        if not missing:
            return
        _say_damaged(config, SNAPSHOT, ValueError(f"{missing[0]} is gone"))
    filesystem.delete_file(path)


def last_checkpoint(config: Config) -> ray.train.Checkpoint | None:
    """Return the checkpoint that a worker continues from; None = it starts from the beginning.

    It is Ray's last checkpoint. If Ray's list was damaged, it is the furthest one in storage.
    """
    import ray.train

    from recdiv_core.slates.checkpoint import by_progress, is_whole

    known = ray.train.get_checkpoint()
    if known is not None or is_uri(config.run.storage):
        return known
    found = next(filter(is_whole, by_progress(Path(_file(config, "")[1]))), None)
    if found is None:
        return None
    logger.info("%s: continuing from %s", config.run.name, found)
    return ray.train.Checkpoint(str(found))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


def _say_damaged(config: Config, name: str, error: Exception) -> None:
    reason = str(error).partition("\n")[0]
    place = joined(config.run.storage, config.run.name, name)
    logger.warning("%s is damaged (%s): it counts as absent", place, reason)


def _file(config: Config, name: str) -> tuple[FileSystem, str]:
    filesystem, root = filesystem_of(config.run.storage, "run.storage")
    return filesystem, f"{root}/{config.run.name}/{name}"


def _read(config: Config, name: str) -> str:
    """Return the text of a file; empty = the file is missing."""
    filesystem, path = _file(config, name)
    if filesystem.get_file_info(path).type != FileType.File:
        return ""
    with filesystem.open_input_stream(path) as stream:
        return stream.read().decode(errors="replace")


def write_run_file(config: Config, name: str, text: str) -> None:
    """Write a file into the run's directory in one step; the directory may be a URI."""
    filesystem, path = _file(config, name)
    filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    if isinstance(filesystem, LocalFileSystem):
        write_whole(Path(path), text)
        return
    with filesystem.open_output_stream(path) as stream:  # a store shows a file once it is closed
        stream.write(text.encode())


def write_result(config: Config, result: dict[str, Any]) -> None:
    """Write `result.json`, which marks the run as finished.

    Raises:
        ValueError: a metric that is not finite.
    """
    write_run_file(config, "result.json", json.dumps(result, allow_nan=False))
