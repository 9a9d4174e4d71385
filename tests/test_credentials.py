"""Secrets in URIs: used, and neither written nor shown."""

import io
import json
import logging
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import start_logging
from recdiv_core import config as config_module
from recdiv_core.config import Config, flatten, from_tree, override, to_yaml
from recdiv_core.errors import UserError
from recdiv_core.storage.credentials import (
    AWS,
    PASSED_ON,
    RedactingFormatter,
    into_environment,
    passed_on,
    redact,
    show_uncaught,
    without_secrets,
)
from tests.log_capture import LogCapture

logger = logging.getLogger(__name__)

SECRETS = st.text("abcdefXYZ0189+/=%._~-", min_size=8, max_size=40).map(lambda text: f"q{text}q")
FORMS = st.sampled_from(
    [
        "http://me:{}@host:5000/mlflow",
        "https://{}@host",
        "postgresql://me:{}@host/runs",
        "mysql+pymysql://me:{}@host:3306/runs?charset=utf8",
        "s3://AKIA:{}@bucket/runs?region=eu",
        "s3://bucket/a%20b?access_key=AKIA&secret_key={}&scheme=http",
        "s3://bucket/log/*.csv?session_token={}",
        "abfs://:{}@account/shop",
    ]
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch):
    """Undo what a test moves into the environment."""
    for name in (*AWS, PASSED_ON):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")


def is_plain(secret: str, form: str) -> bool:
    """Tell whether a secret may stand in this part of a URI as it is."""
    return "/" not in secret or "me:" in form or "AKIA" in form or form.endswith("token={}")


@given(SECRETS, FORMS)
def test_no_secret_is_shown(secret: str, form: str):
    secret = secret if is_plain(secret, form) else secret.replace("/", "")
    line = f"tracking.uri={form.format(secret)} does not answer: {form.format(secret)!r}"
    assert secret not in redact(line)
    assert redact(redact(line)) == redact(line)
    assert "does not answer" in redact(line)


@given(SECRETS, FORMS)
def test_no_secret_is_stored(secret: str, form: str):
    secret = secret if is_plain(secret, form) else secret.replace("/", "")
    uri = form.format(secret)
    given = override(Config(), {"tracking.uri": uri, "run.storage": uri, "data.clicks": uri})
    text = to_yaml(given)
    assert secret not in text
    stored = from_tree(config_module.yaml.load(text, config_module.yaml.CSafeLoader))
    assert stored.tracking.uri == without_secrets(uri)
    assert flatten(stored).keys() == flatten(given).keys()


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/health",
        "http://host:80",
        "s3://bucket/a@b.csv",
        "see http://host:5000, or mail me@host.example",
        "s3://bucket/log/?.csv?region=eu",
        "sqlite:////shared/mlflow.db",
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=a&orderByKey=metrics.%60a%60",
        "epoch 3: 120 rows/s, {'key': 'value', 'token': 3}",
        "postgresql://me@host:5432/runs",
    ],
)
def test_what_is_no_secret_stays(text: str):
    assert redact(text) == text
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("key", "uri", "left", "variables"),
    [
        (
            "tracking.uri",
            "http://me:p%40ss@host:5000",
            "http://host:5000",
            {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "p@ss"},
        ),
        ("tracking.uri", "https://tok@host", "https://host", {"MLFLOW_TRACKING_TOKEN": "tok"}),
        (
            "tracking.uri",
            "postgresql+psycopg2://me:word@host/runs",
            "postgresql+psycopg2://me@host/runs",
            {"MLFLOW_TRACKING_PASSWORD": "word"},
        ),
        (
            "run.storage",
            "s3://AKIA:a/b+c@bucket/runs?region=eu",
            "s3://bucket/runs?region=eu",
            {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "a/b+c"},
        ),
        (
            "data.clicks",
            "s3a://bucket/*.csv?access_key=A&secret_key=B&session_token=C&region=eu",
            "s3a://bucket/*.csv?region=eu",
            {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "B", "AWS_SESSION_TOKEN": "C"},
        ),
    ],
)
def test_credentials_go_into_the_environment_with_a_warning(
    key: str, uri: str, left: str, variables: dict[str, str], caplog: LogCapture
):
    assert into_environment([(key, uri), ("seed", "1")], logger) == [left, "1"]
    assert passed_on() == variables
    (record,) = caplog.records
    assert key in record.message
    assert all(name in record.message for name in variables)


def test_a_token_of_other_keys_does_not_stay(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(AWS[2], "of another key")
    into_environment([("run.storage", "s3://A:B@bucket")], logger)
    assert AWS[2] not in os.environ


def test_two_pairs_of_keys_are_refused():
    pair = [("data.clicks", "s3://A:B@one/log"), ("run.storage", "s3://C:D@two/runs")]
    with pytest.raises(UserError, match=r"run\.storage=s3://C:\*\*\*@two/runs has another"):
        into_environment(pair, logger)


@pytest.mark.parametrize(
    ("key", "uri"),
    [
        ("data.clicks", "https://me:topword@host/clicks.csv"),
        ("run.storage", "abfs://:topword@account/runs"),
        ("tracking.uri", "mssql+pyodbc://host/runs?odbc_connect=topword"),
    ],
)
def test_credentials_that_no_variable_takes_are_refused(key: str, uri: str):
    with pytest.raises(UserError, match=f"{key}=.*allowed") as refused:
        into_environment([(key, uri)], logger)
    assert "topword" not in str(refused.value)


def test_a_command_line_is_freed_of_its_secrets(monkeypatch: pytest.MonkeyPatch):
    words = ["tracking.uri=http://me:word@h", "--checkpoint", "s3://A:B@b/c", "--out=s3://A:B@b/d"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *words, "seed=1"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    start_logging("%(message)s")
    kept = ["tracking.uri=http://h", "--checkpoint", "s3://b/c", "--out=s3://b/d", "seed=1"]
    assert sys.argv[1:] == kept


def test_a_traceback_that_is_logged_or_printed_hides_secrets(monkeypatch: pytest.MonkeyPatch):
    try:
        raise RuntimeError("postgresql://me:topword@host/runs")
    except RuntimeError as error:
        kind, value, trace = type(error), error, error.__traceback__
    record = logging.LogRecord(
        "a", logging.ERROR, "a.py", 1, "lost %s", ("s3://A:topword@b",), None
    )
    record.exc_info = (kind, value, trace)
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    show_uncaught(kind, value, trace)
    for text in (RedactingFormatter().format(record), stderr.getvalue()):
        assert "Traceback" in text
        assert "topword" not in text


def test_a_result_that_is_printed_hides_secrets():
    text = json.dumps({"checkpoint": "s3://A:secret@b/c", "uri": "http://me:secret@host"})
    assert json.loads(redact(text)) == {"checkpoint": "s3://A:***@b/c", "uri": "http://me:***@host"}
