import sys

import pytest

from pipelines.submit import main
from recdiv_core.cluster.jobs import Job, connect, job_table, last_json_line

TABLE = """\
job      status   started                    took     command
raysub1  STOPPED  2026-03-01T09:00:00+00:00  0:00:04  train seed=1
raysub2  RUNNING  2026-03-01T10:00:00+00:00  1:02:03  tune --space tradeoff"""


def test_a_table_of_jobs_is_aligned():
    jobs = [
        Job("raysub1", "STOPPED", "train seed=1", "2026-03-01T09:00:00+00:00", 4.2),
        Job("raysub2", "RUNNING", "tune --space tradeoff", "2026-03-01T10:00:00+00:00", 3723.0),
    ]
    assert job_table(jobs) == TABLE


def test_a_cluster_without_jobs_has_a_table_of_heads():
    assert job_table([]) == "job  status  started  took  command"


def test_an_address_that_does_not_answer_is_a_users_mistake():
    with pytest.raises(ValueError, match="no Ray cluster takes jobs at --address http"):
        connect("http://127.0.0.1:9")


def test_an_address_that_is_no_url_is_refused():
    with pytest.raises(ValueError, match="is not a URL"):
        connect("head:8265")


def test_an_environment_that_would_win_over_the_address_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    with pytest.raises(ValueError, match="RAY_ADDRESS=http://elsewhere:8265 would win"):
        connect("http://127.0.0.1:9")


def test_a_log_without_a_json_line_has_no_result():
    assert last_json_line('{"broken\nbye\n') is None


@pytest.mark.parametrize(
    "arguments", [["--list", "--stop", "raysub1"], ["--follow", "raysub1", "--", "tune"]]
)
def test_two_things_asked_at_once_are_refused(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
):
    monkeypatch.setattr(sys, "argv", ["submit", *arguments])
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 2
