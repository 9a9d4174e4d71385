"""A sweep in MLflow -> its front, as JSON, one HTML page and a PNG, logged to the parent run.

Not the choosing (trials.py) nor the drawing (report_page.py): here is what goes in and out of
MLflow. The one idea: everything is read back from the store, so that a report can be made of any
sweep, at any time, on any machine that sees the store.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from recdiv_core.config import Config
from recdiv_core.data.versions import open_version
from recdiv_core.errors import UserError
from recdiv_core.fronts import trials
from recdiv_core.fronts import wording as trials_text
from recdiv_core.fronts.points import ended_points, points
from recdiv_core.fronts.trials import Curve, Front, Sweep, Trial
from recdiv_core.report.mlflow_view import view_links, view_tag, view_url
from recdiv_core.report.page import CURVES, draw_png, render
from recdiv_core.report.slate_page import section, unseen
from recdiv_core.report.slate_views import MAX_SCORES, view_slates
from recdiv_core.schema import read_manifest
from recdiv_core.search_space import Objective
from recdiv_core.storage.credentials import redact
from recdiv_core.storage.given_paths import output_path
from recdiv_core.storage.places import is_uri
from recdiv_core.storage.whole_files import write_whole
from recdiv_core.tracking import runs as tracking
from recdiv_core.tracking.runs import RunHandle
from recdiv_core.tracking.store import client_of, database_path, tracking_uri

logger = logging.getLogger(__name__)

RUN_TUNE: Final = "run `python -m pipelines.tune --space tradeoff` first"
COURSE: Final = "front/hypervolume"
"""Metric of a sweep's run: of all its objectives, after each trial that ended, a step each."""
PROVENANCE: Final = ("manifest", "code_version", "seed", "command", "ray_job_id")


def report(
    config: Config,
    *,
    parent_run_id: str = "",
    out: Path | None = None,
    slates: bool | None = None,
    show_ids: bool = False,
) -> dict[str, object]:
    """Judge a sweep, write `report.html` and `front.png`, log both to its parent run.

    Args:
        config: `tracking.uri` is read; `data.prepared` or `data.name` narrow the search for the
            newest sweep to that data set; `eval.slices` are the parts of the shop to show.
        parent_run_id: the sweep; empty = the newest.
        out: directory of the two files; None = `<run.storage>/reports/<name of the parent run>`.
        slates: judge a few runs again and show what their slates are like; None = where that takes
            no more than some minutes.
        show_ids: name the users whose slates are shown by their user_id; False = number them.

    Raises:
        UserError: no such sweep, or its objectives are not declared.
    """
    out = None if out is None else output_path(out, "--out")
    uri = existing_store(config)
    parent = _parent_run(uri, config, parent_run_id)
    handle = RunHandle(uri, parent.info.experiment_id, parent.info.run_id)
    sweep = read_sweep(handle)
    fronts = [trials.judge(points(sweep), *pair) for pair in trials.axes(sweep)]
    main = fronts[0]
    headline, notes = trials_text.headline(main), trials_text.notes(main, sweep)
    directory = out or _default_directory(config, sweep.name)
    directory.mkdir(parents=True, exist_ok=True)
    page, picture = directory / "report.html", directory / "front.png"
    most = None if slates else MAX_SCORES
    shown = ""
    if slates is not False:
        shown = _slate_section(config, uri, fronts, max_scores=most, show_ids=show_ids)
    write_whole(page, render(sweep, fronts, headline, notes, shown))
    draw_png(fronts, picture, sweep.references)
    logger.info("%s", headline)
    for warning in trials_text.few_users(main):
        logger.warning("%s", warning)
    _log(handle, sweep, fronts, headline, (page, picture))
    _log_courses(handle, sweep, fronts)
    dashboard = view_url(uri, handle.experiment_id, handle.run_id)
    logger.info("the trials in MLflow (`make dashboard`): %s", dashboard)
    return {
        "experiment": sweep.experiment,
        "tracking_uri": redact(uri),
        "parent_run_id": sweep.run_id,
        "headline": headline,
        "front": [_entry(trial) for trial in main.members],
        "hypervolume": main.hypervolume,
        "hypervolume_test": main.test_hypervolume,
        "knee": None if main.knee is None else _entry(main.knee),
        "baseline": None if main.baseline is None else _entry(main.baseline),
        "references": {kind: _entry(run) for kind, run in sweep.references.items()},
        "hypervolumes": {front.diversity.metric: front.hypervolume for front in fronts},
        "num_trials": len(sweep.trials),
        "dashboard": dashboard,
        "report": str(page.absolute()),
        "picture": str(picture.absolute()),
    }


def read_sweep(handle: RunHandle, *, curves: bool = True) -> Sweep:
    """Read a sweep's parent run and all its trials.

    Args:
        handle: of the parent run.
        curves: those of the trials too, at a query each.

    Raises:
        UserError: the run does not declare two objectives or more.
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
    runs = tracking.children(handle)
    plain = _plain_runs(runs)
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
            _trial(client, run, parameters, sorted(drawn) if curves else (), plain, least=least)
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
    return _trial(client, run, sweep.parameters, (), plain, least=sweep.least)


def _slate_section(
    config: Config,
    uri: str,
    fronts: Sequence[Front],
    *,
    max_scores: int | None,
    show_ids: bool,
) -> str:
    """Return what the page says of slates; where it cannot, why: a report never fails for that."""
    prepared = config.data.prepared
    try:
        views = view_slates(
            fronts[0],
            lambda: uri,
            {"data.prepared": str(Path(prepared).absolute())} if prepared else {},
            kinds=config.eval.slices,
            max_scores=max_scores,
            show_ids=show_ids,
        )
    except (ValueError, OSError, MemoryError, RuntimeError) as error:  # torch's are the last
        is_odd = not isinstance(error, UserError | OSError | MemoryError)
        logger.warning("the page shows no slates: %s", error, exc_info=is_odd)
        return unseen(str(error))
    return section(views, fronts)


def existing_store(config: Config) -> str:
    """Return the absolute tracking URI; a database that is not there is not made.

    Raises:
        UserError: there is no such store, or it does not answer.
    """
    uri = tracking_uri(config)
    path = database_path(uri)
    if path is not None and not path.exists():
        shown = redact(uri)
        raise UserError(f"tracking.uri={shown}: there is no such database; {RUN_TUNE}")
    return uri


def newest_sweep(uri: str, config: Config) -> RunHandle | None:
    """Return the parent run of the newest sweep, of `data.prepared` or `data.name` where given."""
    run = _newest_sweep(uri, _experiment_name(config))
    return run and RunHandle(uri, run.info.experiment_id, run.info.run_id)


def _parent_run(uri: str, config: Config, parent_run_id: str) -> Run:
    shown = redact(uri)
    if parent_run_id:
        try:
            return client_of(uri).get_run(parent_run_id)
        except MlflowException:
            raise UserError(f"no run {parent_run_id} in {shown}") from None
    name = _experiment_name(config)
    run = _newest_sweep(uri, name)
    if run is None:
        where = f" of data set {name!r}" if name else ""
        raise UserError(f"no sweep{where} in tracking.uri={shown}; {RUN_TUNE}")
    return run


def _experiment_name(config: Config) -> str:
    if config.data.prepared:
        return read_manifest(open_version(config.data.prepared)).name
    return config.data.name


def _newest_sweep(uri: str, name: str) -> Run | None:
    experiments = tracking.experiment_ids(uri, name)
    if not experiments:
        return None
    runs = client_of(uri).search_runs(
        experiments,
        "tags.`recdiv.kind` = 'sweep'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return runs[0] if runs else None


def _plain_runs(runs: Sequence[Run]) -> set[str]:
    """Return the ids of the runs at w = 0, or at dial 0, without re-ranking.

    Where some of them went on from a base model, as all trials did, the base itself is none: it has
    had fewer epochs, and would make every trial look better than the dial made it.
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
    return tracking.param_value(run.data.params.get(key, ""))


def _references(client: MlflowClient, parent: Run, accuracy: Objective) -> dict[str, Trial]:
    """Return of each kind of baseline its most accurate run on the sweep's data, by kind.

    Finished, ranked as they are, under the sweep's own `eval.filter_seen`; its own trials are none.
    """
    metric, tags = f"best/{accuracy.metric}", parent.data.tags
    runs = client.search_runs(
        [parent.info.experiment_id],
        "params.`model.kind` != 'neural' and attributes.status = 'FINISHED' and "
        f"tags.`recdiv.kind` != 'sweep' and "  # a sweep carries its recommended trial's figures
        f"tags.`recdiv.manifest` = '{tags.get('recdiv.manifest', '')}'",
    )
    comparable = [
        run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") != parent.info.run_id
        and metric in run.data.metrics
        and _is_ranked_plainly(run)
        and _param(run, "rerank.logit_adjustment") == 0
        and _param(run, "eval.filter_seen") == _param(parent, "eval.filter_seen")
    ]
    sign = 1 if accuracy.direction == "max" else -1
    ranked = sorted(comparable, key=lambda run: sign * run.data.metrics[metric])
    best = {run.data.params["model.kind"]: run for run in ranked}  # the last of a kind stays
    return {kind: _trial(client, best[kind], (), (), set(), least={}) for kind in sorted(best)}


def _trial(
    client: MlflowClient,
    run: Run,
    parameters: Sequence[str],
    drawn: Sequence[str],
    plain: set[str],
    *,
    least: Mapping[str, float],
) -> Trial:
    params, metrics = run.data.params, run.data.metrics
    ended, started = run.info.end_time, run.info.start_time
    return Trial(
        run_id=run.info.run_id,
        name=run.data.tags.get("recdiv.run_name") or run.info.run_id,
        status=run.info.status,
        params={key: tracking.param_value(params[key]) for key in parameters if key in params},
        val=_below("best/val/", metrics),
        test=_below("test/", metrics),
        curves={key: _curve(client, run, key) for key in drawn if key in metrics},
        best_epoch=int(metrics["best/epoch"]) if "best/epoch" in metrics else None,
        duration_s=(ended - started) / 1000 if ended else None,
        is_plain=run.info.run_id in plain,
        breaks=tuple(
            name for name, value in least.items() if metrics.get(f"best/{name}", value) < value
        ),
        ended_ms=ended,
        point=_point(params) if "seed" in parameters else "",
    )


def _point(params: Mapping[str, str]) -> str:
    """Return all that trials share that differ by seed alone."""
    settings = {
        key: text
        for key, text in params.items()
        if key != "seed" and not key.startswith(tracking.OF_THE_PLACE)
    }
    return json.dumps(settings, sort_keys=True)


def _below(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {
        key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)
    }


def _curve(client: MlflowClient, run: Run, metric: str) -> Curve:
    """Return the last value of each epoch: a resumed trial logs an epoch twice."""
    history = client.get_metric_history(run.info.run_id, metric)
    return tuple(sorted({point.step: point.value for point in history}.items()))


def _default_directory(config: Config, name: str) -> Path:
    storage = config.run.storage if not is_uri(config.run.storage) else "runs"
    return Path(storage) / "reports" / (re.sub(r"[^\w.-]+", "_", name).strip(".") or "sweep")


def _log(
    handle: RunHandle, sweep: Sweep, fronts: Sequence[Front], headline: str, files: Sequence[Path]
) -> None:
    front = fronts[0]
    for path in files:
        tracking.log_artifact(handle, path, "report")
    figures = {"hypervolume": front.hypervolume}
    if front.test_hypervolume is not None:
        figures["hypervolume_test"] = front.test_hypervolume
    if front.knee is not None:  # the sweep's row shows the recommended point
        figures |= {f"best/val/{name}": value for name, value in front.knee.val.items()}
        figures |= {f"test/{name}": value for name, value in front.knee.test.items()}
    tracking.log_metrics(handle, figures, step=0)
    # what MLflow shows on the first screen of the run
    note = f"{headline}\n\n{trials_text.choice_table(fronts)}\n\nOn test, chosen on validation. "
    note += "The page: artefact `report/report.html`. "
    note += view_links(handle.experiment_id, handle.run_id)
    tags = {"mlflow.note.content": note}
    if front.knee is not None:
        tags["recdiv.knee"] = front.knee.run_id
    tracking.set_tags(handle, tags)
    view = view_tag(sweep.run_id, sweep.name, sweep.started_ms, sweep.objectives, sweep.parameters)
    tracking.set_experiment_tag(handle, *view)


def _log_courses(handle: RunHandle, sweep: Sweep, fronts: Sequence[Front]) -> None:
    """Log the hypervolumes after each trial, a step each; those that are there already stay."""
    axes = {COURSE: sweep.objectives} | {
        f"hypervolume/{trials.metric_of(front.diversity)}": (front.accuracy, front.diversity)
        for front in fronts
    }
    tracking.log_course(
        handle,
        {
            name: [volume for _, volume in trials.course(ended_points(sweep), objectives)]
            for name, objectives in axes.items()
        },
    )


def _entry(trial: Trial) -> dict[str, object]:
    """Return what the JSON says of a point; of one of several seeds also which runs they are."""
    repeated: dict[str, object] = {}
    if trial.repeats:
        repeated = {
            "seeds": {str(own.seed): own.run_id for own in trial.repeats},
            "half_width": {"val": dict(trial.val_half), "test": dict(trial.test_half)},
        }
    return repeated | {
        "run_id": trial.run_id,
        "name": trial.name,
        "params": dict(trial.params),
        "val": dict(trial.val),
        "test": dict(trial.test),
    }
