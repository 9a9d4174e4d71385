"""A real MLflow server in this process that can drop its replies."""

import importlib
import logging
import os
import socket
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Server:
    """MLflow's own application; it can close the connection after a request without a reply."""

    def __init__(self, application: Callable[..., Any]) -> None:
        from werkzeug.serving import make_server

        self.application = application
        self.to_lose: list[str] = []
        """Suffixes of request paths; the next reply to each is dropped."""
        self.requests: list[str] = []
        self.server = make_server("127.0.0.1", 0, self, threaded=True)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ["PATH_INFO"]
        self.requests.append(path)
        lost = next((end for end in self.to_lose if path.endswith(end)), None)
        if lost is None:
            return self.application(environ, start_response)
        self.to_lose.remove(lost)
        b"".join(self.application(environ, lambda *_: lambda _: None))
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionError("the reply is dropped")

    def asked(self, end: str) -> int:
        """Return the number of requests to paths with this suffix."""
        return sum(path.endswith(end) for path in self.requests)


def serve(store: str) -> Server:
    """Serve a SQLite store."""
    place = Path(store.removeprefix("sqlite:///")).parent
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = store
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = str(place / "served")
    os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("starlette.middleware.wsgi")  # imported while MLflow answers
        from mlflow.server import app
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    return Server(app.wsgi_app)
