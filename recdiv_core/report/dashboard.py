"""MLflow's own pages: serve them for a database of runs, and link to the trials of a sweep.

The link holds a filter and an order as MLflow puts them into its own links. It opens the charts of
the page of runs: a bar per trial for each metric, the most accurate trial first. The table of that
page shows metrics only in columns that a person has chosen there. report.py draws our own page.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import sys
from typing import Final
from urllib.parse import urlencode

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.fronts.reading import existing_store, newest_sweep
from recdiv_core.tracking.runs import RunHandle, tag_of

logger = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
"""Address that the pages are served on: this machine only, because they ask for no password."""
PORT: Final = 5000
"""Port of `make dashboard`."""
LAST_PORT: Final = 65_535
"""Largest number of a port."""
TRAINED_MODELS: Final = "workflowType=machine_learning"
"""Option of a link; without it MLflow 3.17 opens its pages for language-model applications."""


def trials_url(sweep: RunHandle) -> str:
    """Return the link to a sweep's trials: on its MLflow server, or where a dashboard serves."""
    return f"{_root(sweep.uri)}/{trials_path(sweep)}"


def trials_path(sweep: RunHandle) -> str:
    """Return the link to a sweep's trials, from the root of MLflow's pages."""
    accuracy = json.loads(tag_of(sweep, "recdiv.objectives"))[0]["metric"]
    options = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{sweep.run_id}'",
        "orderByKey": f"metrics.`best/{accuracy}`",
        "orderByAsc": "false",
        "compareRunsMode": "CHART",
    }
    # a browser and a Markdown link both keep a path without blanks and quotes as it is
    query = f"{TRAINED_MODELS}&{urlencode(options).replace('+', '%20')}"
    return f"#/experiments/{sweep.experiment_id}/runs?{query}"


def serve(config: Config, port: int) -> dict[str, object]:
    """Serve MLflow's pages of `tracking.uri` until an interrupt; for a server only return the link.

    Raises:
        UserError: the database does not exist, or the port is taken or is no port.
    """
    if not 1 <= port <= LAST_PORT:
        raise UserError(f"--port {port}: allowed are 1 to {LAST_PORT}")
    uri = existing_store(config)
    sweep = newest_sweep(uri, config)
    path = trials_path(sweep) if sweep else f"#/experiments?{TRAINED_MODELS}"
    if _is_server(uri):
        return {"dashboard": f"{_root(uri)}/{path}"}
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise UserError(f"--port {port} is taken; another: make dashboard PORT={port + 1}")
    link = f"http://{HOST}:{port}/{path}"
    logger.info("open %s (stop with Ctrl-C)", link)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level warning"]  # a line per request would hide the link
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the server too
    with subprocess.Popen(command, stdout=sys.stderr) as server:
        try:
            if server.wait():
                raise RuntimeError(f"mlflow ui ended with status {server.returncode}")
        except KeyboardInterrupt:
            server.terminate()
    return {"dashboard": link}


def _root(uri: str) -> str:
    """Return the root of a store's pages: its MLflow server without user and password, or ours."""
    if _is_server(uri):
        return re.sub(r"://[^/@]*@", "://", uri).rstrip("/")
    return f"http://{HOST}:{PORT}"


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))
