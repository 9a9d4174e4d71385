"""Which data sets a checkpoint fits: its own, and those of the same lineage.

`prepare data.base=OLD` makes a data set of the lineage of OLD. In a lineage an item keeps its
item_id, and carry.py maps the rows of the weights by it. Between other data sets item_index 7 means
two different items, so they are refused.
"""

from __future__ import annotations

import logging
from pathlib import Path

from recdiv_core.data.versions import other_version
from recdiv_core.errors import UserError
from recdiv_core.schema import Manifest
from recdiv_core.slates.checkpoint import TrainedOn, read_trained_on

logger = logging.getLogger(__name__)


def check_data(checkpoint: Path, manifest: Manifest, prepared: Path | None = None) -> None:
    """Refuse a checkpoint that was trained on another prepared data set.

    `prepared` is the directory of the data set; a message names the version beside it that fits.

    Raises:
        UserError: the fingerprints differ.
    """
    trained_on = read_trained_on(checkpoint)
    if trained_on.fingerprint != manifest.fingerprint:
        raise _refusal(checkpoint, trained_on, manifest, prepared)


def check_lineage(checkpoint: Path, manifest: Manifest, prepared: Path | None = None) -> None:
    """Refuse a checkpoint that was trained on a data set of another lineage.

    For `prepared` see `check_data`.

    Raises:
        UserError: neither data set was appended to the other.
    """
    trained_on = read_trained_on(checkpoint)
    if trained_on.fingerprint == manifest.fingerprint:
        return
    if trained_on.lineage != manifest.root:
        raise _refusal(checkpoint, trained_on, manifest, prepared)
    if trained_on.generation > manifest.generation:
        logger.warning(
            "checkpoint %s was trained on a later data set (%s, append %d) than data.prepared "
            "(append %d): it may have learned the held-out events, so metrics are too high",
            checkpoint,
            trained_on.fingerprint[:12],
            trained_on.generation,
            manifest.generation,
        )


def _refusal(
    checkpoint: Path, trained_on: TrainedOn, manifest: Manifest, prepared: Path | None
) -> UserError:
    fitting = other_version(prepared, trained_on.fingerprint) if prepared is not None else None
    name = f" ({trained_on.name})" if trained_on.name else ""
    return UserError(
        f"checkpoint {checkpoint} was trained on data with fingerprint "
        f"{trained_on.fingerprint[:12]}{name}, data.prepared has {manifest.fingerprint[:12]} "
        f"({manifest.name}): they do not fit, as neither is an append to the other (data.base)"
        + (f"; its version is still there: data.prepared={fitting}" if fitting else "")
    )
