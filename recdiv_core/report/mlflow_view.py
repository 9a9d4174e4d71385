"""The trials of a sweep as MLflow's own page shows them: which columns, which charts, and the link.

A view that is saved with an experiment is a tag (MLflow 3.15 and later). A link opens it; without
one MLflow 3.17 shows an experiment as an application of language models ("Traces: 0"). The page
takes its columns from a saved view alone: no parameter of the link names them. Not our own page
of a sweep, which is report_page.py.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

from recdiv_core.fronts.trials import CURVES, DIVERSITY_METRICS, metric_of
from recdiv_core.search_space import Objective

PREFIX: Final = "mlflow.sharedViewState."
MODELS: Final = "workflowType=machine_learning"
"""Part of a link that asks MLflow for trained models."""
PAGE: Final = "http://127.0.0.1:5000"
"""Where `make dashboard` serves a database."""


def view_tag(
    run_id: str,
    name: str,
    created_ms: int,
    objectives: Sequence[Objective],
    parameters: Sequence[str],
) -> tuple[str, str]:
    """Return the tag of the experiment that holds the view of a sweep, and its value."""
    packed = zlib.compress(json.dumps(_state(run_id, objectives, parameters)).encode())
    state = f"deflate;{base64.b64encode(packed).decode()}"
    view = {"name": f"Trials of {name}", "createdAt": created_ms, "state": state}
    return f"{PREFIX}{run_id}", json.dumps(view)


def view_path(experiment_id: str, run_id: str) -> str:
    """Return where the view of a sweep is in MLflow's pages, from their root."""
    return f"#/experiments/{experiment_id}/runs?{MODELS}&viewStateShareKey={run_id}"


def view_url(uri: str, experiment_id: str, run_id: str) -> str:
    """Return the link of a sweep's view: on its MLflow server, or where `make dashboard` serves."""
    return f"{page_of(uri)}/{view_path(experiment_id, run_id)}"


def page_of(uri: str) -> str:
    """Return the root of a store's page: its MLflow server, without user and password, or PAGE."""
    is_served = uri.startswith(("http://", "https://"))
    return re.sub(r"://[^/@]*@", "://", uri).rstrip("/") if is_served else PAGE


def view_links(experiment_id: str, run_id: str) -> str:
    """Return where the view is in MLflow's pages, as Markdown."""
    place = view_path(experiment_id, run_id)
    return f"Its trials in [a table]({place}) and in [charts]({place}&compareRunsMode=CHART)."


def _state(
    run_id: str, objectives: Sequence[Objective], parameters: Sequence[str]
) -> dict[str, object]:
    """Return what the page of runs keeps of itself."""
    accuracy, *others = map(metric_of, objectives)
    cut_off = accuracy.rpartition("_at_")[2]
    usual = (f"{name}_at_{cut_off}" for name in DIVERSITY_METRICS)
    others = list(dict.fromkeys([*others, *usual]))
    metrics = [accuracy, *others, f"f1_at_{cut_off}"]
    selected = [
        *(("params", name) for name in parameters),
        *(("metrics", f"best/val/{name}") for name in metrics),
        *(("metrics", f"test/{name}") for name in metrics),
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
        "searchFilter": f"tags.`mlflow.parentRunId` = '{run_id}'",
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
