"""The store of MLflow's runs: its URI, whether it answers, and waiting until it does.

The one idea: only faults of the connection are retried. An answer of the store is never retried,
not even a refusal. runs.py has the runs in it.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import requests
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.storage.credentials import PASSWORD, redact

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

SERVERS: Final = ("http", "https")
DATABASES: Final = ("postgresql", "mysql", "mssql")
ALLOWED: Final = (
    "allowed: a database (sqlite:///runs.db, postgresql://..., mysql://..., mssql://...) "
    "or an MLflow server (http://..., https://...)"
)
ANSWER_WITHIN_S: Final = 5.0
OUTAGE_S: Final = 900.0
"""Seconds that a store may be away; after that the call fails, and the run with it."""
PAUSE_S: Final = 2.0
ATTEMPTS: Final = 4
"""Tries of a call whose connection breaks while the store answers other calls."""
AWAY: Final = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED")
"""Error codes of MLflow after which the same call may succeed later."""
GATEWAY: Final = re.compile(r"failed with error code 50[234]\b")
SQLITE_BUSY: Final = ("locked", "busy", "unable to open")
LOST: Final = (
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.RetryError,
    requests.exceptions.ChunkedEncodingError,
    ConnectionError,
    TimeoutError,
    OperationalError,
    InterfaceError,
)
"""Errors of a connection, which MLflow's errors wrap."""


def tracking_uri(config: Config) -> str:
    """Return `tracking.uri` as an absolute URI, after its store has answered.

    Raises:
        UserError: MLflow cannot use the URI (the file store is refused), a server does not answer
            within ANSWER_WITHIN_S, or a database cannot be opened.
    """
    uri = config.tracking.uri or "sqlite:///mlflow.db"
    refusal = f"tracking.uri={redact(uri)} is not a store of runs; {ALLOWED}"
    try:
        url = make_url(uri)
    except (ValueError, ArgumentError):
        raise UserError(refusal) from None
    backend = url.drivername.partition("+")[0]
    if backend == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise UserError(f"tracking.uri={uri} names no file; write sqlite:///path/to/mlflow.db")
        url = url.set(database=str(Path(str(url.database)).absolute()))
        uri = url.render_as_string(hide_password=False)
    elif backend not in (*SERVERS, *DATABASES):
        raise UserError(refusal)
    _check_store(uri)
    return uri


def database_path(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for any other store."""
    url = make_url(uri)
    return Path(str(url.database)) if url.drivername.partition("+")[0] == "sqlite" else None


def client_of(uri: str) -> MlflowClient:
    """Return a client that waits while its store is away."""
    return cast("MlflowClient", _PatientClient(uri))


class _PatientClient:
    """An MlflowClient that makes every call `patiently`."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client = MlflowClient(tracking_uri=with_password(uri))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *args, **options: patiently(self._uri, lambda: method(*args, **options))


def patiently(uri: str, call: Callable[[], Answer]) -> Answer:
    """Call a store; repeat the call if the connection breaks.

    While the store is away, wait at most OUTAGE_S. The call must be harmless when repeated: it may
    have been carried out before its reply was lost.
    """
    started, attempts = time.monotonic(), 0
    while True:
        try:
            return call()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            if not is_connection_fault(error):
                raise
            attempts += 1
            waited = time.monotonic() - started
            if waited > OUTAGE_S:
                raise
            if not _answers(uri):
                attempts = 0
                left_s = OUTAGE_S - waited
                logger.warning(
                    "%s does not answer: waiting, at most %.0f s more", redact(uri), left_s
                )
                time.sleep(PAUSE_S)
            elif attempts >= ATTEMPTS:
                raise


def is_connection_fault(error: BaseException) -> bool:
    """Return whether an error is a fault of the connection, not an answer of the store."""
    causes = list(_causes(error))
    for each in causes:
        if isinstance(each, DBAPIError) and isinstance(each.orig, sqlite3.Error):
            return any(word in str(each.orig) for word in SQLITE_BUSY)
    return any(isinstance(each, LOST) or _is_of_a_gateway(each) for each in causes)


def _is_of_a_gateway(error: BaseException) -> bool:
    if isinstance(error, requests.exceptions.HTTPError):
        return error.response is not None and error.response.status_code in (502, 503, 504)
    if isinstance(error, MlflowException):
        return error.error_code in AWAY or bool(GATEWAY.search(str(error)))
    return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes; MLflow often sets only the context of an error."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or each.__context__


def with_password(uri: str) -> str:
    """Return the URI of a database with the password from the environment, if it has none.

    MLflow itself reads the password of a server there.
    """
    url = make_url(uri)
    password = os.environ.get(PASSWORD)
    if url.drivername.partition("+")[0] not in DATABASES or url.password or not password:
        return uri
    return url.set(password=password).render_as_string(hide_password=False)


def _answers(uri: str) -> bool:
    try:
        _check_store(uri)
    except UserError:
        return False
    return True


def _check_store(uri: str) -> None:
    url = make_url(uri)
    backend = url.drivername.partition("+")[0]
    if backend in SERVERS:
        _check_server(uri)
    elif backend == "sqlite":
        _check_sqlite(uri, Path(str(url.database)))
    else:
        _check_database(make_url(with_password(uri)))


def _check_server(uri: str) -> None:
    address = re.sub(r"://[^/@]*@", "://", uri).rstrip("/")  # without user and password
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=ANSWER_WITHIN_S):
            return
    except urllib.error.HTTPError:
        return  # it answers; the first call shows whether it is MLflow
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"tracking.uri={address}: the server does not answer: {reason}") from None


def _check_sqlite(uri: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise OSError(f"{path} cannot be written")
        if path.exists():
            connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
            try:
                connection.execute("select count(*) from sqlite_master")
            finally:
                connection.close()
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"tracking.uri={uri}: the database cannot be opened: {error}") from None


def _check_database(url: URL) -> None:
    """Open one connection; MLflow itself would retry for minutes, with a traceback each time."""
    default_port = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
    port = url.port or default_port[url.get_backend_name()]
    try:
        socket.create_connection((url.host or "localhost", port), ANSWER_WITHIN_S).close()
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        engine.connect().close()
    except (OSError, ImportError, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"tracking.uri={url}: the database cannot be opened: {reason}") from None
