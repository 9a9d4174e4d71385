"""A sweep in MLflow -> its front, as JSON, one HTML page and a PNG, logged to the parent run.

Not the choosing (trials.py) nor the drawing (report_page.py): here is what goes in and out of
MLflow. The one idea: everything is read back from the store, so that a report can be made of any
sweep, at any time, on any machine that sees the store.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.fronts import trials
from recdiv_core.fronts import wording as trials_text
from recdiv_core.fronts.points import ended_points, points
from recdiv_core.fronts.reading import COURSE, existing_store, parent_run, read_sweep
from recdiv_core.fronts.trials import Front, Sweep, Trial
from recdiv_core.report.dashboard import trials_path, trials_url
from recdiv_core.report.slate_page import section, unseen
from recdiv_core.report.slate_views import MAX_SCORES, view_slates
from recdiv_core.report.sweep_page import draw_png, render
from recdiv_core.storage.credentials import redact
from recdiv_core.storage.given_paths import output_path
from recdiv_core.storage.places import is_uri
from recdiv_core.storage.whole_files import write_whole
from recdiv_core.tracking import runs as tracking
from recdiv_core.tracking.runs import RunHandle

logger = logging.getLogger(__name__)


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
    parent = parent_run(uri, config, parent_run_id)
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
    _log(handle, fronts, headline, (page, picture))
    _log_courses(handle, sweep, fronts)
    dashboard = trials_url(handle)
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


def _default_directory(config: Config, name: str) -> Path:
    storage = config.run.storage if not is_uri(config.run.storage) else "runs"
    return Path(storage) / "reports" / (re.sub(r"[^\w.-]+", "_", name).strip(".") or "sweep")


def _log(handle: RunHandle, fronts: Sequence[Front], headline: str, files: Sequence[Path]) -> None:
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
    note += f"Its trials in [charts]({trials_path(handle)})."
    tags = {"mlflow.note.content": note}
    if front.knee is not None:
        tags["recdiv.knee"] = front.knee.run_id
    tracking.set_tags(handle, tags)


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
