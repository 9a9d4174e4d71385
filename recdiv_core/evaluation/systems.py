"""What is compared: trained runs, and the slates of other systems; found by name and checked.

Not the comparison (compare.py) nor the metrics of each user (per_user.py). A RUN is the directory
of a training run, a checkpoint, or the id of an MLflow run. The id of a sweep names its recommended
point, with its re-ranking. Behind a RUN, each after a `+`, stand settings of this run alone: those
of the re-ranker and the dial of a conditioned model. All other settings hold for all runs, because
they change what is measured. `slates:PATH` names the slates of another system.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from recdiv_core.config import Config, check_dial, override
from recdiv_core.data.catalogue import load_catalogue
from recdiv_core.data.versions import with_version
from recdiv_core.errors import UserError
from recdiv_core.schema import Manifest, check_files, read_manifest
from recdiv_core.settings import parse_overrides
from recdiv_core.slates.checkpoint import (
    check_weights,
    read_config,
    read_trained_on,
)
from recdiv_core.slates.checkpoint_copies import given_checkpoint, local_checkpoint
from recdiv_core.slates.checks import (
    check_eligible,
    check_rerank,
    sampled_splits,
    warn_of_few_items,
)
from recdiv_core.slates.eligibility import (
    eligibility_of,
    lists_of,
    with_own_lists,
    with_whole_paths,
)
from recdiv_core.slates.inputs import check_prepared, slates_config
from recdiv_core.slates.lineage import check_lineage
from recdiv_core.storage.given_paths import local_path
from recdiv_core.storage.places import is_uri

OWN_SETTINGS: Final = ("rerank.", "model.diversity=")
"""How the settings begin that may differ between runs that are compared."""
OWN: Final = r"\+(?=[a-z_.]+=)"
"""Before each setting of a RUN."""
RUN_ID: Final = re.compile(r"[0-9a-f]{32}")
SLATES: Final = "slates:"
"""How the name of another system's slates begins."""


@dataclass(frozen=True, eq=False)
class NamedRun:
    """A trained run.

    `checkpoint` is a directory on this machine; `place` is a path or URI.
    """

    name: str
    checkpoint: Path
    config: Config
    place: str


@dataclass(frozen=True, eq=False)
class NamedSlates:
    """The slates of another system."""

    name: str
    place: str
    config: Config


System = NamedRun | NamedSlates


def find_systems(
    words: Sequence[str], settings: Mapping[str, object], uri: Callable[[], str]
) -> list[System]:
    """Find all systems that a comparison names; other systems are judged as the first run is.

    A word is a RUN or `slates:PATH`; for `settings` and `uri` see `find_run`.

    Raises:
        UserError: see `find_run`; or slates alone, and `data.prepared` is not set.
    """
    found = [find_run(word, settings, uri) for word in words if not word.startswith(SLATES)]
    runs = {run.name: run for run in on_newest(found)}
    config = next((run.config for run in runs.values()), None)
    if config is None:
        config = with_version(slates_config(settings))
        check_prepared(config)
    return [
        runs.get(word) or NamedSlates(word, word.removeprefix(SLATES), config) for word in words
    ]


def find_run(text: str, settings: Mapping[str, object], uri: Callable[[], str]) -> NamedRun:
    """Find the run that a RUN names.

    Args:
        text: directory or id, with `+key=value` for settings of this run alone.
        settings: dotted key -> value for all runs; a run's own settings override them.
        uri: returns the MLflow tracking URI; called only for an id.

    Raises:
        UserError: no run of that name, an unfinished run, or a setting that must hold for all.
    """
    place, *own = re.split(OWN, text)
    for setting in own:
        if not setting.startswith(OWN_SETTINGS):
            raise UserError(
                f"{text}: {setting} cannot be set for one run alone; allowed behind a + are "
                "rerank.* and model.diversity; give others as arguments, for all runs"
            )
    if RUN_ID.fullmatch(place) and not Path(place).is_dir():
        from recdiv_core.tracking.find import chosen_run

        place, *chosen = re.split(OWN, chosen_run(uri(), place))
        own = [*chosen, *own]  # those that are given win
    place = _checkpoint_of(place, uri)
    checkpoint = local_checkpoint(place, "RUN")
    trained = with_own_lists(read_config(checkpoint), checkpoint)
    config = with_whole_paths(override(trained, settings, parse_overrides(own)))
    if not (settings.get("data.prepared") and _is_of_lineage(with_version(config), checkpoint)):
        config = with_version(config, read_trained_on(checkpoint).fingerprint)
    check_dial(config)
    check_weights(checkpoint, config.rerank.lift)
    return NamedRun(text, checkpoint, config, place)


def _checkpoint_of(named: str, uri: Callable[[], str]) -> str:
    """Return the path or URI of the checkpoint that a RUN names."""
    place = named
    if RUN_ID.fullmatch(named) and not Path(named).is_dir():
        from recdiv_core.tracking.find import run_directory

        place = run_directory(uri(), named)
    if not is_uri(place) and not local_path(place, "RUN").is_dir():
        raise UserError(
            f"RUN {named}: there is no directory {place}; allowed: the directory of a training "
            "run (runs/NAME), a checkpoint, either as a path or a URI, or the id of an MLflow run"
        )
    return given_checkpoint(place, "RUN")


def _is_of_lineage(config: Config, checkpoint: Path) -> bool:
    """Return whether the current version of the data is of the lineage of a checkpoint."""
    prepared = Path(config.data.prepared)
    is_there = (prepared / "manifest.json").is_file()
    return is_there and read_manifest(prepared).root == read_trained_on(checkpoint).lineage


def on_newest(runs: Sequence[NamedRun]) -> list[NamedRun]:
    """Return runs of one lineage with its newest data set among theirs; others stay as they are.

    So all are judged on the same users, the same window and the same items. No run has learned the
    held-out events of the newest data set.
    """
    places: dict[str, tuple[int, str]] = {}
    for run in runs:
        prepared = Path(run.config.data.prepared)
        if run.config.data.prepared and (prepared / "manifest.json").is_file():
            manifest = read_manifest(prepared)
            newest = places.get(manifest.root, (-1, ""))
            places[manifest.root] = max(newest, (manifest.generation, str(prepared)))
    moved: list[NamedRun] = []
    for run in runs:
        lineage = read_trained_on(run.checkpoint).lineage
        place = places.get(lineage, (0, run.config.data.prepared))[1]
        config = override(run.config, {"data.prepared": place})
        moved.append(replace(run, config=config))
    return moved


def check_comparable(systems: Sequence[System]) -> None:
    """Refuse runs that are measured differently: data, split, cut-off, seen items, catalogue.

    Slates of other systems always compare: they are judged with the settings of the first run.

    Raises:
        UserError: names the two runs and what differs; or the data do not fit the checkpoints.
    """
    runs = [system for system in systems if isinstance(system, NamedRun)]
    if not runs:
        return
    first = runs[0]
    prepared = Path(first.config.data.prepared)
    manifest = read_manifest(prepared)
    wanted = _measured_on(first, manifest)
    for run in runs[1:]:
        found = _measured_on(run, manifest)
        differing = [
            f"{fact}: {found[fact]}, not {wanted[fact]}"
            for fact in wanted
            if found[fact] != wanted[fact]
        ]
        if differing:
            raise UserError(
                f"{run.name} does not compare with {first.name}: it differs in "
                f"{'; '.join(differing)}"
            )
    for run in runs:
        check_lineage(run.checkpoint, manifest, prepared)
    check_files(prepared, manifest)
    for run in {repr(run.config.rerank): run for run in runs}.values():  # each warning once
        check_rerank(run.config, prepared)
    check_eligible(first.config, prepared)
    warn_of_few_items(first.config.eval.k, manifest.num_items)


def _measured_on(run: NamedRun, manifest: Manifest) -> dict[str, object]:
    """Return the facts that must be equal for metrics to be comparable.

    `manifest` is of the first run's data; another run's own manifest is read where it is judged on
    other data.
    """
    trained_on = read_trained_on(run.checkpoint)
    own = Path(run.config.data.prepared) if run.config.data.prepared else None
    if trained_on.fingerprint != manifest.fingerprint and own is not None:
        manifest = read_manifest(own) if own.is_dir() else manifest
    is_related = trained_on.lineage == manifest.root
    fingerprint = manifest.fingerprint if is_related else trained_on.fingerprint
    name = manifest.name if is_related else trained_on.name
    return {
        "manifest fingerprint": f"{fingerprint[:12]} {f'({name})' if name else ''}".strip(),
        "split.protocol": manifest.split.get("protocol"),
        "items that may be recommended": manifest.num_items,
        "eval.k": run.config.eval.k,
        "eval.filter_seen": run.config.eval.filter_seen,
        "users that are evaluated": sampled_splits(run.config, manifest) or "all",
        "eligible": _eligible_items(run.config, manifest),
    }


def _eligible_items(config: Config, manifest: Manifest) -> str:
    """Return a text that is equal for runs whose slates may hold the same items."""
    if not any(lists_of(config).values()) and not config.eligible.where:
        return f"dates={config.eligible.dates}"
    catalogue = load_catalogue(Path(config.data.prepared))
    found = eligibility_of(config, catalogue, manifest)
    return "all items" if found is None else found.digest()


def judged_data(systems: Sequence[System]) -> dict[str, object]:
    """Describe the data set that comparable systems are judged on: users, window and items."""
    prepared = Path(systems[0].config.data.prepared)
    manifest = read_manifest(prepared)
    windows = ("val_from", "test_from")
    cuts = {name: manifest.split[name] for name in windows if name in manifest.split}
    return {
        "prepared": str(prepared),
        "name": manifest.name,
        "fingerprint": manifest.fingerprint,
        "append": manifest.generation,
        "num_items": manifest.num_items,
        **cuts,
    }
