"""Read a sweep from MLflow: its trials as plain data; find the newest sweep.

Everything comes from the store, so a report can be made of any sweep, at any time, on any machine
that can reach the store. trials.py chooses between trials.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from recdiv_core.config import DIALS_FILE, Config
from recdiv_core.data.versions import open_version
from recdiv_core.errors import UserError
from recdiv_core.fronts import trials
from recdiv_core.fronts.trials import CURVES, Curve, Sweep, Trial, broken
from recdiv_core.schema import read_manifest
from recdiv_core.search_space import Objective
from recdiv_core.storage.credentials import redact
from recdiv_core.tracking.children import children
from recdiv_core.tracking.description import OF_THE_PLACE, param_value
from recdiv_core.tracking.find import experiment_ids, newest_run
from recdiv_core.tracking.runs import FILE_TAG, RunHandle, read_text
from recdiv_core.tracking.store import client_of, database_path, tracking_uri

RUN_TUNE: Final = "run `recdiv tune --space tradeoff` first"
HYPERVOLUME: Final = "front/hypervolume"
"""Metric of a sweep's run: the hypervolume of all objectives, one step per ended point."""
PROVENANCE: Final = ("manifest", "code_version", "seed", "command", "ray_job_id")


def read_sweep(handle: RunHandle, *, curves: bool = True) -> Sweep:
    """Read a sweep's parent run and all its trials.

    Curves cost one query each.

    Raises:
        UserError: the run declares fewer than two objectives.
    """
    client = client_of(handle.uri)
    parent = client.get_run(handle.run_id)
    tags = parent.data.tags
    declared = json.loads(tags.get("recdiv.objectives", "[]"))
    if tags.get("recdiv.kind") != "sweep" or len(declared) < 2:
        raise UserError(
            f"run {handle.run_id} is not a sweep with two objectives or more; {RUN_TUNE}"
        )
    objectives = tuple(Objective(**objective) for objective in declared)
    parameters = tuple(json.loads(tags["recdiv.parameters"]))
    cut_off = objectives[0].metric.rpartition("_at_")[2]
    drawn = {objective.metric for objective in objectives} | set(CURVES)
    drawn |= {f"val/{name}_at_{cut_off}" for name in trials.DIVERSITY_METRICS}
    facts = json.loads(tags.get("recdiv.facts", "{}"))
    least: dict[str, float] = json.loads(tags.get("recdiv.least", "{}"))
    runs = children(handle)
    plain, shown = _plain_runs(runs), sorted(drawn) if curves else ()
    return Sweep(
        run_id=handle.run_id,
        name=parent.info.run_name or handle.run_id,
        experiment=client.get_experiment(handle.experiment_id).name,
        status=parent.info.status,
        space=tags.get("recdiv.space", ""),
        started_ms=parent.info.start_time,
        objectives=objectives,
        parameters=parameters,
        trials=tuple(
            _with_dials(_trial(client, run, parameters, shown, plain, least), run, handle, least)
            for run in runs
        ),
        facts={"name": tags.get("recdiv.data", ""), **facts},
        provenance={key: tags[f"recdiv.{key}"] for key in PROVENANCE if f"recdiv.{key}" in tags},
        references=_references(client, parent, objectives[0]),
        least=least,
        seeds=tuple(json.loads(tags.get("recdiv.seeds", "[]"))),
    )


def read_trial(handle: RunHandle, sweep: Sweep) -> Trial:
    """Read one trial of a sweep, without its curves."""
    client = client_of(handle.uri)
    run = client.get_run(handle.run_id)
    plain = {handle.run_id} if _is_plain(run) else set[str]()
    trial = _trial(client, run, sweep.parameters, (), plain, sweep.least)
    return _with_dials(trial, run, handle, sweep.least)


def existing_store(config: Config) -> str:
    """Return the absolute tracking URI, without creating a database.

    Raises:
        UserError: the store does not exist or does not answer.
    """
    uri = tracking_uri(config)
    path = database_path(uri)
    if path is not None and not path.exists():
        shown = redact(uri)
        raise UserError(f"tracking.uri={shown}: there is no such database; {RUN_TUNE}")
    return uri


def newest_sweep(uri: str, config: Config) -> RunHandle | None:
    """Return the newest sweep, of the data set `data.prepared` or `data.name` if one is given."""
    experiments = experiment_ids(uri, _experiment_name(config))
    return newest_run(uri, experiments, "tags", {"recdiv.kind": "sweep"})


def sweep_run(uri: str, config: Config, run_id: str) -> RunHandle:
    """Return the run of a sweep, by its id or, without one, of the newest sweep.

    Raises:
        UserError: the run does not exist, or there is no sweep.
    """
    if run_id:
        try:
            run = client_of(uri).get_run(run_id)
        except MlflowException:
            raise UserError(f"no run {run_id} in {redact(uri)}") from None
        return RunHandle(uri, run.info.experiment_id, run_id)
    found = newest_sweep(uri, config)
    if found is None:
        name = _experiment_name(config)
        where = f" of data set {name!r}" if name else ""
        raise UserError(f"no sweep{where} in tracking.uri={redact(uri)}; {RUN_TUNE}")
    return found


def _experiment_name(config: Config) -> str:
    if config.data.prepared:
        return read_manifest(open_version(config.data.prepared)).name
    return config.data.name


def _plain_runs(runs: Sequence[Run]) -> set[str]:
    """Return the ids of the baselines: runs at w = 0 or dial 0, without re-ranking.

    The base model of a warm start is left out if a baseline was trained from it. The base has had
    fewer epochs, which would credit the dial with the difference.
    """
    plain = [run for run in runs if _is_plain(run)]
    warm = [run for run in plain if run.data.params.get("train.init_from")]
    return {run.info.run_id for run in warm or plain}


def _is_plain(run: Run) -> bool:
    is_at_0 = _param(run, "loss.conditioned") is True and _param(run, "model.diversity") == 0
    is_trained = run.data.params.get("model.kind", "neural") == "neural"
    without_diversity = _param(run, "loss.diversity_weight") == 0 or is_at_0
    return is_trained and without_diversity and _is_ranked_plainly(run)


def _is_ranked_plainly(run: Run) -> bool:
    has_no_dial = _param(run, "rerank.method") == "none" or _param(run, "rerank.diversity") == 0
    return has_no_dial and not _param(run, "rerank.rules")


def _param(run: Run, key: str) -> object:
    return param_value(run.data.params.get(key, ""))


def _references(client: MlflowClient, parent: Run, accuracy: Objective) -> dict[str, Trial]:
    """Return kind of reference baseline -> its most accurate run on the sweep's data.

    The runs have finished, are not re-ranked, have the sweep's `eval.filter_seen` and are none of
    its trials.
    """
    metric, tags = f"best/{accuracy.metric}", parent.data.tags
    runs = client.search_runs(
        [parent.info.experiment_id],
        "params.`model.kind` != 'neural' and attributes.status = 'FINISHED' and "
        f"tags.`recdiv.kind` != 'sweep' and "  # a sweep has its recommended trial's metrics
        f"tags.`recdiv.manifest` = '{tags.get('recdiv.manifest', '')}'",
    )
    comparable = [
        run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") != parent.info.run_id
        and metric in run.data.metrics
        and _is_ranked_plainly(run)
        and _param(run, "rerank.logit_adjustment") == 0
        and not _param(run, "rerank.lift")
        and _param(run, "eval.filter_seen") == _param(parent, "eval.filter_seen")
    ]
    sign = 1 if accuracy.direction == "max" else -1
    ranked = sorted(comparable, key=lambda run: sign * run.data.metrics[metric])
    best = {run.data.params["model.kind"]: run for run in ranked}  # keeps the last of a kind
    return {kind: _trial(client, best[kind], (), (), set(), {}) for kind in sorted(best)}


def _trial(
    client: MlflowClient,
    run: Run,
    parameters: Sequence[str],
    drawn: Sequence[str],
    plain: set[str],
    least: Mapping[str, float],
) -> Trial:
    params, metrics = run.data.params, run.data.metrics
    ended, started = run.info.end_time, run.info.start_time
    val = _below("best/val/", metrics)
    return Trial(
        run_id=run.info.run_id,
        name=run.data.tags.get("recdiv.run_name") or run.info.run_id,
        status=run.info.status,
        params={key: param_value(params[key]) for key in parameters if key in params},
        val=val,
        test=_below("test/", metrics),
        curves={key: _curve(client, run, key) for key in drawn if key in metrics},
        best_epoch=int(metrics["best/epoch"]) if "best/epoch" in metrics else None,
        duration_s=(ended - started) / 1000 if ended else None,
        is_plain=run.info.run_id in plain,
        breaks=broken(val, least),
        ended_ms=ended,
        point=_point(params) if "seed" in parameters else "",
    )


def _with_dials(trial: Trial, run: Run, handle: RunHandle, least: Mapping[str, float]) -> Trial:
    """Return a trial that has its model under each entry of `eval.dials`."""
    if f"{FILE_TAG}{DIALS_FILE}" not in run.data.tags:
        return trial
    entries = json.loads(read_text(replace(handle, run_id=trial.run_id), DIALS_FILE))
    reranked = tuple(
        replace(
            trial,
            val=entry["val"],
            test=entry["test"],
            dials=entry["settings"],
            curves={},
            is_plain=False,
            breaks=broken(entry["val"], least),
        )
        for entry in entries
    )
    return replace(trial, reranked=reranked)


def _point(params: Mapping[str, str]) -> str:
    """Return a text that trials share if they differ by seed alone."""
    settings = {
        key: text
        for key, text in params.items()
        if key != "seed" and not key.startswith(OF_THE_PLACE)
    }
    return json.dumps(settings, sort_keys=True)


def _below(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {
        key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)
    }


def _curve(client: MlflowClient, run: Run, metric: str) -> Curve:
    """Return the last value of each epoch; a resumed trial may log an epoch twice."""
    history = client.get_metric_history(run.info.run_id, metric)
    return tuple(sorted({point.step: point.value for point in history}.items()))
