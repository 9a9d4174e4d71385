# pyright: strict
"""Passwords and keys inside URIs: used, and kept out of everything that is written or shown.

Not a store of secrets. The one idea: credentials live in the environment, under the names that
MLflow and AWS document. A script moves what a URI carries there before anything else happens
(`into_environment`), so that no config, no log line and no file holds it. `redact` and
`without_secrets` are the second line: they stand where text is shown and where settings are stored.

    tracking.uri=http://user:password@host      MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD
    tracking.uri=https://token@host             MLFLOW_TRACKING_TOKEN
    tracking.uri=postgresql://user:password@h   MLFLOW_TRACKING_PASSWORD
    s3://key:secret@bucket                      AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
    s3://bucket?access_key=...&secret_key=...   the same, and session_token=... AWS_SESSION_TOKEN
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final
from urllib.parse import unquote

from recdiv_core.errors import UserError

HIDDEN: Final = "***"
USER: Final = "MLFLOW_TRACKING_USERNAME"
PASSWORD: Final = "MLFLOW_TRACKING_PASSWORD"
BEARER: Final = "MLFLOW_TRACKING_TOKEN"
AWS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
S3_OPTIONS: Final = dict(zip(("access_key", "secret_key", "session_token"), AWS, strict=True))
PASSED_ON: Final = "RECDIV_PASSED_ON"
"""Variable that names those which came from URIs: workers on other machines need them too."""

USER_PASSWORD: Final = re.compile(
    r"""(://[^:/@\s'"]*):(?!\d{1,5}(?:[/?\#\s'"]|$))([^@\s'"]*@(?:[^/@\s'"]*@)*)"""
)
"""`://user:password@`. The password may hold a slash, as keys of AWS do; a port is none."""

SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9.-]*)(?:\+[\w.-]+)?://")
TOKEN: Final = re.compile(r"""(https?://)([^/@:\s'"]+)@""")
"""`https://token@`."""

SECRET_OPTION: Final = re.compile(
    r"""([?&])(?!viewStateShareKey=)([\w.-]*"""
    r"""(?:key|secret|token|password|passwd|pwd|sig|signature|credential|odbc_connect)"""
    r"""[\w.-]*)=([^&\s'"]+)""",
    re.IGNORECASE,
)
"""`?secret_key=...`, `&sig=...` and their like; MLflow's key of a view is none."""


def redact(text: str) -> str:
    """Hide the secrets of every URI in a text, for what is shown.

    >>> redact("postgresql://me:secret@host/runs")
    'postgresql://me:***@host/runs'
    >>> redact("see s3://bucket/a?access_key=A&secret_key=S&region=eu")
    'see s3://bucket/a?access_key=***&secret_key=***&region=eu'
    """
    text = USER_PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    text = TOKEN.sub(rf"\1{HIDDEN}@", text)
    return SECRET_OPTION.sub(rf"\1\2={HIDDEN}", text)


def without_secrets(uri: str) -> str:
    """Return a URI as it is stored: the user of a database stays, all else of its secrets goes.

    >>> without_secrets("http://me:secret@host:5000/mlflow")
    'http://host:5000/mlflow'
    >>> without_secrets("mysql+pymysql://me:secret@host/runs")
    'mysql+pymysql://me@host/runs'
    >>> without_secrets("https://token@host")
    'https://host'
    >>> without_secrets("s3://A:b/c@bucket/runs?secret_key=x&region=eu")
    's3://bucket/runs?region=eu'
    """
    has_users = _scheme(uri) in ("postgresql", "mysql", "mssql")
    uri = USER_PASSWORD.sub(r"\1@" if has_users else "://", uri)
    uri = TOKEN.sub(r"\1", uri)
    parts = SECRET_OPTION.sub(r"\1", uri)
    return uri if parts == uri else re.sub(r"&{2,}", "&", parts).replace("?&", "?").rstrip("?&")


def into_environment(settings: Sequence[tuple[str, str]], logger: logging.Logger) -> list[str]:
    """Move the credentials of URIs into the environment of this process; return what is left.

    Args:
        settings: dotted key or option, and its value: a URI, or anything else.
        logger: warns, once for each setting.

    Raises:
        UserError: two URIs with different keys, or keys of a store that takes none from the
            environment.
    """
    found: dict[str, str] = {}
    left: list[str] = []
    for key, uri in settings:
        left.append(without_secrets(uri) if "://" in uri else uri)
        if left[-1] == uri:
            continue
        own = dict(_variables(key, uri))
        for name, value in own.items():
            if found.setdefault(name, value) != value:
                raise UserError(
                    f"{key}={redact(uri)} brings another {name} than another URI of this call; "
                    f"allowed: one; the rest in the environment or in a profile of AWS"
                )
        logger.warning(
            "%s=%s holds credentials: they are used and stored nowhere. They had better stand in "
            "the environment: %s",
            key,
            redact(uri),
            ", ".join(own),
        )
    if found:
        if AWS[0] in found and AWS[2] not in found:
            os.environ.pop(AWS[2], None)  # of other keys
        os.environ.update(found)
        os.environ[PASSED_ON] = ",".join({**passed_on(), **found})
    return left


def passed_on() -> dict[str, str]:
    """Return the variables that came from URIs, for workers on other machines."""
    names = os.environ.get(PASSED_ON, "")
    return {name: os.environ[name] for name in names.split(",") if name in os.environ}


def _variables(key: str, uri: str) -> Iterator[tuple[str, str]]:
    """Yield the variables that carry the credentials of a URI."""
    scheme = _scheme(uri)
    found = USER_PASSWORD.search(uri)
    user, password = "", ""
    if found is not None:
        user, password = found[1].removeprefix("://"), found[2].removesuffix("@")
    options = {name: unquote(value) for _, name, value in SECRET_OPTION.findall(uri)}
    if scheme in ("s3", "s3a", "s3n") and not options.keys() - S3_OPTIONS:
        if found is not None:
            yield AWS[0], unquote(user)
            yield AWS[1], unquote(password)
        yield from ((S3_OPTIONS[name], value) for name, value in options.items())
    elif key == "tracking.uri" and not options and scheme in ("http", "https") and user:
        yield USER, unquote(user)
        yield PASSWORD, unquote(password)
    elif key == "tracking.uri" and not options and (token := TOKEN.search(uri)) is not None:
        yield BEARER, unquote(token[2])
    elif key == "tracking.uri" and not options and found is not None:
        yield PASSWORD, unquote(password)
    else:
        raise UserError(
            f"{key}={redact(uri)}: credentials of this kind cannot stand in a URI; allowed: "
            "http(s)://user:password@ and databases (tracking.uri), s3://key:secret@; others in "
            "the environment, under the names that their store documents"
        )


def _scheme(text: str) -> str:
    """Return the scheme of the first URI in a text, without the name of a driver."""
    found = SCHEME.search(text)
    return found[1].lower() if found else ""


class RedactingFormatter(logging.Formatter):
    """Formats log records as logging does, tracebacks too, and hides the secrets of URIs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or the lines."""
        return redact(super().format(record))


def show_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print the traceback of a bug, as Python does (`sys.excepthook`), without secrets."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
