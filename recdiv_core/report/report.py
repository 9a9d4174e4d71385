"""Report on a sweep: a JSON result, an HTML page and a PNG, logged to its parent run.

Not the reading of the sweep (fronts/reading.py), the choice of trials (fronts/trials.py) nor the
page (sweep_page.py). The one idea: everything comes from the MLflow store, so that any sweep can be
reported on at any time, on any machine that sees the store.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from recdiv_core.config import Config, dial_text
from recdiv_core.errors import UserError
from recdiv_core.fronts import trials
from recdiv_core.fronts import wording as trials_text
from recdiv_core.fronts.choice import KEEP, Choice, check_keep, choose
from recdiv_core.fronts.operating import Paired, kept_text, markdown_table, operating_rows
from recdiv_core.fronts.points import ended_points, points
from recdiv_core.fronts.reading import HYPERVOLUME, existing_store, read_sweep, sweep_run
from recdiv_core.fronts.trials import Front, Sweep, Trial
from recdiv_core.report.dashboard import trials_path, trials_url
from recdiv_core.report.first_screen import first_screen
from recdiv_core.report.picture import draw_png
from recdiv_core.report.slate_page import section, unseen
from recdiv_core.report.slate_views import MAX_SCORES, SlateViews, view_slates
from recdiv_core.report.sweep_page import sweep_page
from recdiv_core.storage.credentials import redact
from recdiv_core.storage.given_paths import output_path
from recdiv_core.storage.places import is_uri
from recdiv_core.storage.whole_files import write_whole
from recdiv_core.tracking import runs as tracking
from recdiv_core.tracking.find import RECOMMENDED
from recdiv_core.tracking.runs import RunHandle

logger = logging.getLogger(__name__)


def report(
    config: Config,
    *,
    parent_run_id: str = "",
    out: Path | None = None,
    slates: bool | None = None,
    show_ids: bool = False,
    keep: float = KEEP,
) -> dict[str, object]:
    """Find the front of a sweep, write `report.html` and `front.png`, log both to its parent run.

    Args:
        config: `tracking.uri` is read; `data.prepared` or `data.name` narrow the search for the
            newest sweep to that data set; `eval.slices` are the parts of the shop to show.
        parent_run_id: MLflow id of the sweep; empty = the newest.
        out: Directory of both files; None = `<run.storage>/reports/<name of the parent run>`.
        slates: Make the slates of a few runs again and show them; None = only where that takes no
            more than some minutes.
        show_ids: Show the user_ids of example users; False = number them.
        keep: Share of the accuracy of w = 0 that the recommended trial keeps, in (0, 1].

    Raises:
        UserError: no such sweep, its objectives are not declared, or `keep` is not allowed.
    """
    check_keep(keep)
    out = None if out is None else output_path(out, "--out")
    uri = existing_store(config)
    handle = sweep_run(uri, config, parent_run_id)
    sweep = read_sweep(handle)
    choice = choose(points(sweep), sweep.objectives, keep=keep, num_items=sweep.num_items)
    fronts = [trials.front_of(points(sweep), *pair) for pair in trials.axes(sweep)]
    main = choice.front
    headline, notes = trials_text.headline(choice), trials_text.notes(main, sweep)
    directory = out or _default_directory(config, sweep.name)
    directory.mkdir(parents=True, exist_ok=True)
    page, picture = directory / "report.html", directory / "front.png"
    shown, views = None, None
    if slates is not False:
        most = None if slates else MAX_SCORES
        shown, views = _slate_section(
            config, uri, choice, fronts, max_scores=most, show_ids=show_ids
        )
    paired = views.paired if views else {}
    first = first_screen(choice, paired, views)
    write_whole(page, sweep_page(sweep, choice, fronts, headline, notes, shown, paired, first))
    draw_png(sweep, choice, fronts, picture)
    logger.info("%s", headline)
    for warning in trials_text.few_users(main):
        logger.warning("%s", warning)
    _log(handle, sweep, choice, fronts, headline, paired, (page, picture))
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
        "knee": main.knee and _entry(main.knee),
        "baseline": main.baseline and _entry(main.baseline),
        "keep": keep,
        "recommended": choice.recommended and _entry(choice.recommended),
        "nearest": choice.nearest and _entry(choice.nearest),
        "fails_on": [objective.metric for objective in choice.failing],
        "operating_points": _operating_points(choice, paired),
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
    choice: Choice,
    fronts: Sequence[Front],
    *,
    max_scores: int | None,
    show_ids: bool,
) -> tuple[dict[str, object], SlateViews | None]:
    """Return the section on slates, and the slates; it never fails a report.

    Without slates the section is the reason.
    """
    prepared = config.data.prepared
    try:
        views = view_slates(
            choice,
            lambda: uri,
            {"data.prepared": str(Path(prepared).absolute())} if prepared else {},
            kinds=config.eval.slices,
            max_scores=max_scores,
            show_ids=show_ids,
        )
    except (ValueError, OSError, MemoryError, RuntimeError) as error:  # torch raises RuntimeError
        is_odd = not isinstance(error, UserError | OSError | MemoryError)
        logger.warning("the page shows no slates: %s", error, exc_info=is_odd)
        return unseen(str(error)), None
    return section(views, fronts), views


def _default_directory(config: Config, name: str) -> Path:
    storage = config.run.storage if not is_uri(config.run.storage) else "runs"
    return Path(storage) / "reports" / (re.sub(r"[^\w.-]+", "_", name).strip(".") or "sweep")


def _log(
    handle: RunHandle,
    sweep: Sweep,
    choice: Choice,
    fronts: Sequence[Front],
    headline: str,
    paired: Paired,
    files: Sequence[Path],
) -> None:
    """Log files, metrics and the description to the sweep's run, and tag the chosen trial."""
    main = choice.front
    for path in files:
        tracking.log_artifact(handle, path, "report")
    metrics = {"hypervolume": main.hypervolume}
    if main.test_hypervolume is not None:
        metrics["hypervolume_test"] = main.test_hypervolume
    # MLflow shows the description on the first screen of the run
    note = f"{headline}\n\n{markdown_table(choice, paired)}\n\nOn test, chosen on validation. "
    note += "In brackets: the change against w = 0, in per cent, with its 95 % interval. "
    note += "The page: artefact `report/report.html`. "
    note += f"Its trials in [charts]({trials_path(handle)})."
    tags = {"mlflow.note.content": note}
    if main.knee is not None:
        tags["recdiv.knee"] = main.knee.run
    shown = choice.recommended or main.knee
    if shown is not None:  # the sweep's row shows the metrics of the recommended trial
        metrics |= {f"best/val/{name}": value for name, value in shown.val.items()}
        metrics |= {f"test/{name}": value for name, value in shown.test.items()}
    tags[RECOMMENDED] = choice.recommended.run if choice.recommended else ""
    _tag_recommended(handle, choice)
    tracking.log_metrics(handle, metrics, step=0)
    tracking.set_tags(handle, tags)
    # hypervolumes after each trial, one step each; steps that are logged already stay
    axes = {HYPERVOLUME: sweep.objectives} | {
        f"hypervolume/{trials.metric_of(front.diversity)}": (front.accuracy, front.diversity)
        for front in fronts
    }
    ended = ended_points(sweep)
    volumes = {
        name: [volume for _, volume in trials.hypervolumes(ended, objectives)]
        for name, objectives in axes.items()
    }
    tracking.log_curves(handle, volumes)


def _tag_recommended(handle: RunHandle, choice: Choice) -> None:
    """Tag the recommended trial with the share it keeps, and take the tag off the one before."""
    before = tracking.tag_of(handle, RECOMMENDED).partition("+")[0]
    pick = choice.recommended
    if before and (pick is None or pick.run_id != before):
        tracking.drop_tag(replace(handle, run_id=before), RECOMMENDED)
    if pick is not None:
        kept = f"keeps {100 * choice.keep:.4g} % of {choice.accuracy.metric}"
        kept += f", re-ranked by {dial_text(pick.dials)}" if pick.dials else ""
        tracking.set_tags(replace(handle, run_id=pick.run_id), {RECOMMENDED: kept})


def _operating_points(choice: Choice, paired: Paired) -> list[dict[str, object]]:
    return [
        {
            "keeps": kept_text(row, choice),
            "run_id": row.trial.run_id,
            "run": row.trial.run,
            "name": row.trial.name,
            "metrics": {name: asdict(own) for name, own in row.metrics.items()},
        }
        for row in operating_rows(choice, paired)
    ]


def _entry(trial: Trial) -> dict[str, object]:
    """Return a point as JSON; a point of several seeds also names its runs."""
    entry: dict[str, object] = {
        "run_id": trial.run_id,
        "run": trial.run,
        "name": trial.name,
        "params": dict(trial.params),
        "val": dict(trial.val),
        "test": dict(trial.test),
    }
    if trial.repeats:
        entry["seeds"] = {str(own.seed): own.run_id for own in trial.repeats}
        entry["half_width"] = {"val": dict(trial.val_half), "test": dict(trial.test_half)}
    return entry
