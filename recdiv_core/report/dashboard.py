"""MLflow's page of a store of runs, served on loopback, and where in it the newest sweep is.

Not the page itself (MLflow's), nor what it shows of a sweep (trials_view.py). Whoever tracks on an
MLflow server has a page already, and is told its link.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.fronts.reading import existing_store, newest_sweep
from recdiv_core.report.mlflow_view import MODELS, page_of, view_path

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
"""Only this machine: the page asks nobody for a password."""


def serve(config: Config, port: int) -> dict[str, object]:
    """Serve the page of `tracking.uri` until it is interrupted; of a server only say where it is.

    Raises:
        UserError: no such database, or the port is taken.
    """
    uri = existing_store(config)
    sweep = newest_sweep(uri, config)
    path = view_path(sweep.experiment_id, sweep.run_id) if sweep else f"#/experiments?{MODELS}"
    if uri.startswith(("http://", "https://")):
        return {"dashboard": f"{page_of(uri)}/{path}"}
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise UserError(f"--port {port} is taken; another: make dashboard PORT={port + 1}")
    link = f"http://{HOST}:{port}/{path}"
    logger.info("open %s (Ctrl-C ends the page)", link)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level warning"]  # else each request buries the link
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the page too
    with subprocess.Popen(command, stdout=sys.stderr) as page:
        try:
            if page.wait():
                raise RuntimeError(f"mlflow ui ended with status {page.returncode}")
        except KeyboardInterrupt:
            page.terminate()
    return {"dashboard": link}
