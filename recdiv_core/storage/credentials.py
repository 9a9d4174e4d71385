# pyright: strict
"""Passwords and keys in URIs: they are used, but never written or shown.

Credentials live in the environment, under the names that MLflow and AWS document. A script first
moves the credentials of URIs there (`into_environment`), so that no config, log line or file holds
them. As a second guard, `redact` cleans text that is shown and `without_secrets` cleans settings
that are stored.

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
"""Variable with the names of the variables from URIs, which remote workers need too."""

USER_PASSWORD: Final = re.compile(
    r"""(://[^:/@\s'"]*):(?!\d{1,5}(?:[/?\#\s'"]|$))([^@\s'"]*@(?:[^/@\s'"]*@)*)"""
)
"""`://user:password@`. The password may hold a slash, as AWS keys do. A port is no password."""

SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9.-]*)(?:\+[\w.-]+)?://")
TOKEN: Final = re.compile(r"""(https?://)([^/@:\s'"]+)@""")
"""`https://token@`."""

SECRET_OPTION: Final = re.compile(
    r"""([?&])(?!orderByKey=)([\w.-]*"""
    r"""(?:key|secret|token|password|passwd|pwd|sig|signature|credential|odbc_connect)"""
    r"""[\w.-]*)=([^&\s'"]+)""",
    re.IGNORECASE,
)
"""`?secret_key=...`, `&sig=...` and similar options, but not `orderByKey` of MLflow's links."""


def redact(text: str) -> str:
    """Hide the secrets of every URI in a text that is shown.

    >>> redact("postgresql://me:secret@host/runs")
    'postgresql://me:***@host/runs'
    >>> redact("see s3://bucket/a?access_key=A&secret_key=S&region=eu")
    'see s3://bucket/a?access_key=***&secret_key=***&region=eu'
    """
    text = USER_PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    text = TOKEN.sub(rf"\1{HIDDEN}@", text)
    return SECRET_OPTION.sub(rf"\1\2={HIDDEN}", text)


def without_secrets(uri: str) -> str:
    """Return a URI without secrets, to be stored. The user name of a database stays.

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
    """Move the credentials of URIs into the environment; return the values without them.

    A setting is a (dotted key or option, value) pair, whose value may be a URI or anything else;
    the logger gets one warning for each setting with credentials.

    Raises:
        UserError: two URIs hold different keys, or the store cannot take keys from the environment.
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
                    f"{key}={redact(uri)} has another {name} than an earlier URI of this command; "
                    "only one is allowed. Use one AWS profile, or set the environment"
                )
        logger.warning(
            "%s=%s holds credentials. They are used but not stored. Better set them in the "
            "environment: %s",
            key,
            redact(uri),
            ", ".join(own),
        )
    if found:
        if AWS[0] in found and AWS[2] not in found:
            os.environ.pop(AWS[2], None)  # this session token belongs to other keys
        os.environ.update(found)
        os.environ[PASSED_ON] = ",".join({**passed_on(), **found})
    return left


def passed_on() -> dict[str, str]:
    """Return the variables that came from URIs, for workers on other machines.

    `into_environment` set them.
    """
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
            f"{key}={redact(uri)}: a URI cannot hold credentials of this kind; allowed: "
            "http(s)://user:password@ and databases (tracking.uri), s3://key:secret@. Set others "
            "in the environment, under the names that the store documents"
        )


def _scheme(text: str) -> str:
    """Return the scheme of the first URI in a text, without the name of a driver."""
    found = SCHEME.search(text)
    return found[1].lower() if found else ""


class RedactingFormatter(logging.Formatter):
    """Formats log records and tracebacks as logging does, and hides the secrets of URIs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or the lines."""
        return redact(super().format(record))


def show_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print the traceback of a bug without secrets; used as `sys.excepthook`."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
