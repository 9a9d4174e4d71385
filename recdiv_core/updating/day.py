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
from recdiv_core.schema import read_manifest
from recdiv_core.slates.checkpoint import read_config
from recdiv_core.storage.claims import scratch
from recdiv_core.storage.places import is_uri
from recdiv_core.storage.whole_files import write_json
from recdiv_core.training.launch import run as train
from recdiv_core.training.run_files import OtherSettingsError
from recdiv_core.updating.alarms import alarms
from recdiv_core.updating.forgetting import WINDOW, judge_window, window_of
from recdiv_core.updating.hold import Serving, choose_serving, levels_of, reached, ways_of
from recdiv_core.updating.timeline import past, write_timeline

logger = logging.getLogger(__name__)

OF_THE_MODEL: Final = ("model.", "loss.", "rerank.", "eval.")
"""Settings that a fine-tuned model takes from the champion; rules of the call replace its own."""
SHOWN: Final = ("ndcg", "coverage", "ild", "diversity_index", "narrowed")
"""Metrics of the result, at `eval.k`."""
NEW: Final = "item=cold"
"""Group of the items without a train event."""


@dataclass(frozen=True)
class Plan:
    """What an update does beside the settings.

    Attributes:
        name: name of the registered model.
        retrains: whether the candidate is trained from scratch, not from the champion's weights.
        epochs: epochs of a fine-tuning over the train split, old and new events alike.
        rate_share: share of `train.learning_rate` of a fine-tuning, in (0, 1].
        floors: see `gate.pass_gate`.
        largest_drop: share of the mean NDCG of the last week that the champion may lose, in [0, 1].
        has_yardstick: whether a model is also trained from scratch, for comparison alone.
        holds: whether the re-ranking is chosen such that diversity holds its levels, see hold.py.
    """

    name: str
    retrains: bool
    epochs: int
    rate_share: float
    floors: Mapping[str, float]
    largest_drop: float
    has_yardstick: bool = False
    holds: bool = True


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
    if not config.data.base:
        raise UserError(
            "data.base is not set: give the data set that the new files are appended to"
        )
    if is_uri(config.run.storage):
        raise UserError(f"run.storage={config.run.storage}: `update` needs a directory, not a URI")
    check_model_name(plan.name)  # before the append, which makes a new version of the data set
    prepared = Path(str(append(config)["prepared"])).resolve()
    manifest = read_manifest(prepared)
    config = override(config, {"data.prepared": str(prepared)})
    updates = Path(config.run.storage).absolute() / "updates" / plan.name
    home = updates / manifest.fingerprint[:16]
    home.mkdir(parents=True, exist_ok=True)
    window = once(updates, WINDOW, lambda: window_of(manifest))
    champion = once(home, "start", lambda: {"champion": champion_version(config, plan.name)})
    version: str | None = champion["champion"]
    before: dict[str, Any] = {}
    start: Path | None = None
    if version is not None:
        start = champion_checkpoint(config, plan.name, version, home)
        today = {k: v for k, v in flatten(config).items() if k.startswith("eligible.")}
        settings = {**_own(config, "eval."), **today, "data.prepared": str(prepared)}
        own = override(read_config(start), settings)
        before = once(
            home,
            "before",
            lambda: (
                judged(evaluate(own, start), own.eval.k)
                | judge_window(own, start, manifest, window)
            ),
        )
    run_name = f"{plan.name}-{manifest.generation:04d}-{manifest.fingerprint[:8]}"
    trained = _trained(training_config(config, plan, start, run_name), plan.name, home)
    chosen, held = serving_of(plan, Path(trained["checkpoint"]), updates)
    after = shown(chosen.test, config.eval.k)
    yardstick: dict[str, float] = {}
    if plan.has_yardstick:
        afresh = training_config(config, replace(plan, retrains=True), None, f"{run_name}-scratch")
        scratch_run = _trained(afresh, plan.name, home)
        yardstick = once(
            home,
            "yardstick",
            lambda: (
                shown(_on_test(scratch_run), config.eval.k)
                | judge_window(*_as_trained(scratch_run), manifest, window)
            ),
        )
    made = once(
        home,
        "registered",
        lambda: register_once(config, trained["checkpoint"], chosen.settings, plan.name),
    )
    gate = once(
        home,
        "gate",
        lambda: gate_versions(config, plan.name, version, made["version"], plan.floors),
    )
    promoted = all(row["passes"] is not False for row in gate["rows"])
    if promoted:
        set_champion(config, plan.name, made["version"])
    result = {
        "prepared": str(prepared),
        "generation": manifest.generation,
        "day": manifest.times.get("last"),
        "champion": version,
        "before": before,
        "run": run_name,
        "served": chosen.settings,
        "held": held,
        "after": after,
        "yardstick": yardstick,
        "version": made["version"],
        "promoted": promoted,
        "gate": gate["rows"],
        "data": gate["data"],
    }
    earlier = [row["before"].get("ndcg") for row in past(updates, manifest.generation)]
    result["alarms"] = alarms(result, [ndcg for ndcg in earlier if ndcg], plan.largest_drop)
    write_json(home / "outcome.json", result, indent=1)
    page = write_timeline(updates, plan.name, manifest.generation)
    return {**result, "page": str(page)}


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


def _as_trained(trained: Mapping[str, Any]) -> tuple[Config, Path]:
    """Return the settings and the checkpoint of a run."""
    checkpoint = Path(trained["checkpoint"])
    return read_config(checkpoint), checkpoint


def _on_test(trained: Mapping[str, Any]) -> dict[str, float]:
    return {name.removeprefix("test/"): value for name, value in trained["metrics"].items()}


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


def champion_checkpoint(config: Config, name: str, version: str, home: Path) -> Path:
    """Copy the champion's checkpoint into the directory of the update, once."""
    place = home / "champion"
    if not place.is_dir():
        with scratch(home) as work:
            copied = copy_version(config, name, version, work)
            copied.rename(place)
    return place


def training_config(config: Config, plan: Plan, start: Path | None, run_name: str) -> Config:
    """Return the settings of the training of the candidate.

    Args:
        config: settings of the call.
        plan: what to do.
        start: checkpoint of the champion; None = there is none, so the candidate starts afresh.
        run_name: name of the run.
    """
    named: dict[str, object] = {"run.name": run_name, "data.base": "", "data.out": ""}
    if start is None or plan.retrains:
        return override(config, named)
    champion = flatten(read_config(start))
    kept = {key: value for key, value in champion.items() if key.startswith(OF_THE_MODEL)}
    if config.rerank.rules:
        kept["rerank.rules"] = config.rerank.rules
    tuned: dict[str, object] = {
        "train.init_from": str(start),
        "train.epochs": plan.epochs,
        "train.learning_rate": config.train.learning_rate * plan.rate_share,
    }
    return override(config, {**kept, **named, **tuned})


def _own(config: Config, prefix: str) -> dict[str, object]:
    """Return the settings of a section that differ from the defaults."""
    usual = flatten(Config())
    return {
        key: value
        for key, value in flatten(config).items()
        if key.startswith(prefix) and value != usual[key]
    }


def shown(metrics: Mapping[str, float], k: int) -> dict[str, float]:
    """Return the metrics of the result, without their cut-off.

    >>> shown({"ndcg_at_10": 0.1, "ild_at_10": 0.5, "mrr_at_10": 0.2}, 10)
    {'ndcg': 0.1, 'ild': 0.5}
    """
    return {name: metrics[f"{name}_at_{k}"] for name in SHOWN if f"{name}_at_{k}" in metrics}
