"""One day: append, judge yesterday's champion, train on, choose the re-ranking, register, gate.

The champion is judged on the newest window before any training has seen it (prequential). Each step
leaves its result in a file, whole or absent, or is a step that resumes by itself. So the same
command after a kill goes on, and ends as if nothing had happened:

    <run.storage>/updates/<name>/<start of the fingerprint of the data>/
        champion/        the champion's checkpoint, as it was registered
        *.json           results of the steps
    <run.storage>/updates/<name>/levels_at_<k>.json    the diversity to hold, see hold.py
    <run.storage>/updates/<name>/window.json    the first window, see forgetting.py
    <run.storage>/updates/<name>/index.html    the page over time, see timeline.py
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from recdiv_core.config import Config, flatten, override
from recdiv_core.data.append import append
from recdiv_core.errors import UserError
from recdiv_core.evaluation.evaluate import evaluate
from recdiv_core.release.registry import (
    champion_version,
    check_model_name,
    copy_version,
    gate_versions,
    register_once,
    set_champion,
)
from recdiv_core.schema import Manifest, read_manifest
from recdiv_core.slates.checkpoint import read_config
from recdiv_core.storage.claims import scratch
from recdiv_core.storage.places import is_uri
from recdiv_core.storage.whole_files import write_json
from recdiv_core.training.launch import run as train
from recdiv_core.training.run_files import OtherSettingsError
from recdiv_core.updating.alarms import alarms, described
from recdiv_core.updating.forgetting import WINDOW, judge_window, window_of
from recdiv_core.updating.hold import Serving, choose_serving, levels_of, reached, ways_of
from recdiv_core.updating.plan import Plan, own_settings, training_config
from recdiv_core.updating.timeline import past, write_timeline

logger = logging.getLogger(__name__)

SHOWN: Final = ("ndcg", "coverage", "ild", "diversity_index", "narrowed")
"""Metrics of the result, at `eval.k`."""
NEW: Final = "item=cold"
"""Group of the items without a train event."""


@dataclass(frozen=True)
class _Day:
    """An update under way.

    Attributes:
        config: settings of the call, with the data set of the day as `data.prepared`.
        plan: what to do.
        manifest: of the data set.
        updates: directory of all updates of the model.
        home: directory of this update, with the results of its steps.
        window: the first test window, on which every update measures what was forgotten.
        champion: version of the champion; None = there is none yet.
    """

    config: Config
    plan: Plan
    manifest: Manifest
    updates: Path
    home: Path
    window: Mapping[str, Any]
    champion: str | None

    @property
    def run_name(self) -> str:
        """Name of the candidate's run."""
        data = f"{self.manifest.generation:04d}-{self.manifest.fingerprint[:8]}"
        return f"{self.plan.name}-{data}"

    def once(self, name: str, step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of a step of this update; see `once`."""
        return once(self.home, name, step)


def update(config: Config, plan: Plan) -> dict[str, Any]:
    """Do a day's update.

    Args:
        config: `data.base` and the new files; settings of a training, a run and MLflow.
        plan: what to do.

    Returns:
        `{"prepared", "generation", "day", "champion", "before", "run", "served", "held", "after",
        "yardstick", "version", "promoted", "gate", "data", "alarms", "page"}`; `before`, `after`
        and `yardstick` hold metrics of the newest test window, and `old_ndcg` of the first one;
        `served` is the re-ranking of the candidate, and `held` the smallest share of a level that
        it reaches.

    Raises:
        UserError: a setting or an input is wrong.
    """
    day = _begin(config, plan)
    start = champion_checkpoint(day)
    before = {} if start is None else _judge_champion(day, start)
    trained = _trained(training_config(day.config, plan, start, day.run_name), plan.name, day.home)
    chosen, held = serving_of(plan, Path(trained["checkpoint"]), day.updates)
    result = {
        "prepared": day.config.data.prepared,
        "generation": day.manifest.generation,
        "day": day.manifest.times.get("last"),
        "champion": day.champion,
        "before": before,
        "run": day.run_name,
        "served": chosen.settings,
        "held": held,
        "after": shown(chosen.test, config.eval.k),
        "yardstick": _judge_yardstick(day) if plan.has_yardstick else {},
        **_ship(day, trained["checkpoint"], chosen),
    }
    earlier = [row["before"].get("ndcg") for row in past(day.updates, day.manifest.generation)]
    result["alarms"] = alarms(result, [ndcg for ndcg in earlier if ndcg], plan.largest_drop)
    for alarm in result["alarms"]:
        logger.warning("%s: alarm: %s", plan.name, described(alarm))
    write_json(day.home / "outcome.json", result, indent=1)
    page = write_timeline(day.updates, plan.name, day.manifest.generation)
    return {**result, "page": str(page)}


def _begin(config: Config, plan: Plan) -> _Day:
    """Check the call, append the new files and open the directory of the update.

    Raises:
        UserError: a setting or an input is wrong.
    """
    if not config.data.base:
        raise UserError(
            "data.base is not set: give the data set that the new files are appended to"
        )
    if is_uri(config.run.storage):
        raise UserError(f"run.storage={config.run.storage}: `update` needs a directory, not a URI")
    check_model_name(plan.name)  # before the append, which makes a new version of the data set
    prepared = Path(str(append(config)["prepared"])).resolve()
    manifest = read_manifest(prepared)
    updates = Path(config.run.storage).absolute() / "updates" / plan.name
    home = updates / manifest.fingerprint[:16]
    home.mkdir(parents=True, exist_ok=True)
    window = once(updates, WINDOW, lambda: window_of(manifest))
    found = once(home, "start", lambda: {"champion": champion_version(config, plan.name)})
    config = override(config, {"data.prepared": str(prepared)})
    return _Day(config, plan, manifest, updates, home, window, found["champion"])


def champion_checkpoint(day: _Day) -> Path | None:
    """Copy the champion's checkpoint into the directory of the update, once; None = no champion."""
    if day.champion is None:
        return None
    place = day.home / "champion"
    if not place.is_dir():
        with scratch(day.home) as work:
            copied = copy_version(day.config, day.plan.name, day.champion, work)
            copied.rename(place)
    return place


def _judge_champion(day: _Day, start: Path) -> dict[str, Any]:
    """Return the metrics of the champion on the newest window, which it has not learned."""
    settings = own_settings(day.config, "eval.")
    settings |= {k: v for k, v in flatten(day.config).items() if k.startswith("eligible.")}
    prepared = {"data.prepared": day.config.data.prepared}
    own = override(read_config(start), settings, prepared)
    return day.once(
        "before",
        lambda: (
            judged(evaluate(own, start), own.eval.k)
            | judge_window(own, start, day.manifest, day.window)
        ),
    )


def _judge_yardstick(day: _Day) -> dict[str, Any]:
    """Train a model from scratch, for comparison alone, and return its metrics."""
    plan, run_name = replace(day.plan, retrains=True), f"{day.run_name}-scratch"
    trained = _trained(training_config(day.config, plan, None, run_name), plan.name, day.home)
    checkpoint = Path(trained["checkpoint"])
    on_test = {name.removeprefix("test/"): value for name, value in trained["metrics"].items()}
    return day.once(
        "yardstick",
        lambda: (
            shown(on_test, day.config.eval.k)
            | judge_window(read_config(checkpoint), checkpoint, day.manifest, day.window)
        ),
    )


def _ship(day: _Day, checkpoint: str, chosen: Serving) -> dict[str, Any]:
    """Register the candidate, pass it through the gate, and make it the champion if it passes."""
    config, name = day.config, day.plan.name
    made = day.once("registered", lambda: register_once(config, checkpoint, chosen.settings, name))
    gate = day.once(
        "gate",
        lambda: gate_versions(config, name, day.champion, made["version"], day.plan.floors),
    )
    promoted = all(row["passes"] is not False for row in gate["rows"])
    if promoted:
        set_champion(config, name, made["version"])
    return {
        "version": made["version"],
        "promoted": promoted,
        "gate": gate["rows"],
        "data": gate["data"],
    }


def serving_of(plan: Plan, checkpoint: Path, updates: Path) -> tuple[Serving, float]:
    """Return how a candidate is served, and the smallest share of a level that it then reaches.

    Both follow from the run and from the levels alone, so they are the same after a kill. Levels
    belong to one slate length, because coverage grows with it.

    Args:
        plan: what to do.
        checkpoint: last checkpoint of the candidate's run.
        updates: directory of the updates of the model, with the levels; written if it has none.
    """
    ways, own = ways_of(checkpoint), read_config(checkpoint).eval
    if not plan.holds:
        return ways[0], 1.0
    levels = once(updates, f"levels_at_{own.k}", lambda: levels_of(ways[0].val, own.k))
    chosen = choose_serving(ways, levels, own.objective_at_k)
    return chosen, reached(chosen.val, levels)


def _trained(config: Config, name: str, home: Path) -> dict[str, Any]:
    """Train a run of an update, see `training.launch.run`; the user cannot choose its name.

    Raises:
        UserError: also if the run was begun with other settings.
    """
    try:
        return train(config)
    except OtherSettingsError as error:
        is_used = (home / "registered.json").is_file()
        way = "" if is_used else f", or remove {Path(config.run.storage) / config.run.name} first"
        raise UserError(
            f"--name {name}: the update with these files was begun with other settings: "
            f"{error.changed}. Give the same settings{way}. Others take effect with the next files"
        ) from None


def judged(found: Mapping[str, Any], k: int) -> dict[str, float]:
    """Return the metrics of an evaluation, and the share of places with items new to training.

    Args:
        found: see `evaluate`; without the slice `item` the share is left out.
        k: slate length.
    """
    new = {"new_items": found["exposure"][NEW]} if NEW in found["exposure"] else {}
    return shown(found["metrics"], k) | new


def once(home: Path, name: str, step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of a step: from its file, or by doing it and writing the file whole."""
    path = home / f"{name}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    result = step()
    write_json(path, result, indent=1)
    return result


def shown(metrics: Mapping[str, float], k: int) -> dict[str, float]:
    """Return the metrics of the result, without their cut-off.

    >>> shown({"ndcg_at_10": 0.1, "ild_at_10": 0.5, "mrr_at_10": 0.2}, 10)
    {'ndcg': 0.1, 'ild': 0.5}
    """
    return {name: metrics[f"{name}_at_{k}"] for name in SHOWN if f"{name}_at_{k}" in metrics}
