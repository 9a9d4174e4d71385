"""The trials of a sweep as MLflow's own page of runs shows them: which columns, which charts.

A view that is saved with an experiment is a tag (MLflow 3.15 and later); whoever opens the
experiment finds it under "Views". Not our own page of a sweep, which is report_page.py.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

from recdiv_core.trials import Sweep, axes, metric_of

PREFIX: Final = "mlflow.sharedViewState."
CURVES: Final = ("train/loss", "train/penalty")


def view_tag(sweep: Sweep) -> tuple[str, str]:
    """Return the tag of the experiment that holds the view, and its value."""
    state = zlib.compress(json.dumps(_state(sweep)).encode())
    view = {
        "name": f"Trials of {sweep.name}",
        "createdAt": sweep.started_ms,
        "state": f"deflate;{base64.b64encode(state).decode()}",
    }
    return f"{PREFIX}{sweep.run_id}", json.dumps(view)


def view_links(sweep: Sweep, experiment_id: str) -> str:
    """Return where the view is in MLflow's pages, as Markdown."""
    place = f"#/experiments/{experiment_id}/runs?viewStateShareKey={sweep.run_id}"
    return f"Its trials in [a table]({place}) and in [charts]({place}&compareRunsMode=CHART)."


def _state(sweep: Sweep) -> dict[str, object]:
    """Return what the page of runs keeps of itself."""
    pairs = axes(sweep)
    accuracy = metric_of(pairs[0][0])
    others = [metric_of(diversity) for _, diversity in pairs]
    metrics = [accuracy, *others]
    f1 = f"f1_at_{accuracy.rpartition('_at_')[2]}"
    selected = [
        *(("params", name) for name in sweep.parameters),
        *(("metrics", f"best/val/{name}") for name in metrics),
        *(("metrics", f"test/{name}") for name in [*metrics, f1]),
        ("attributes", "Duration"),
    ]
    columns = [f"{kind}.`{name}`" for kind, name in selected]
    fronts = [
        {
            "type": "SCATTER",
            "xaxis": {"key": f"test/{name}", "type": "METRIC"},
            "yaxis": {"key": f"test/{accuracy}", "type": "METRIC"},
            "runsCountToCompare": 100,
        }
        for name in others
    ]
    curves = [_line(name) for name in (*(f"val/{name}" for name in metrics), *CURVES)]
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{sweep.run_id}'",
        "orderByKey": f"metrics.`best/val/{accuracy}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": columns,
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,  # ours first, then a section of each kind of metric
        "compareRunSections": [_section("Accuracy and diversity"), _section("Curves")],
        "compareRunCharts": _cards("Accuracy and diversity", fronts) + _cards("Curves", curves),
    }


def _section(name: str) -> dict[str, object]:
    section = {"uuid": name, "name": name, "display": True}
    return {**section, "isReordered": True, "deleted": False, "isGenerated": False}


def _cards(section: str, charts: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    common = {"metricSectionId": section, "deleted": False, "isGenerated": False}
    return [
        {**chart, **common, "uuid": f"{section} {number}"} for number, chart in enumerate(charts)
    ]


def _line(metric: str) -> dict[str, object]:
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "runsCountToCompare": 100,
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "range": {},
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
    }
