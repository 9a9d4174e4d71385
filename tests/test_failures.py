import pickle

import pytest
from ray.train import ControllerError, WorkerGroupError

from recdiv_core.cluster.failures import NoRetry, mistake_behind, told_failure
from recdiv_core.errors import DivergedError, UserError


class WrappedError(Exception):
    """Stands for Ray Train's wrapper: the error of the training function and its traceback."""


def from_worker(error):
    """Return what reaches the driver when a training function raises."""
    return pickle.loads(pickle.dumps(WorkerGroupError("text", {0: WrappedError(error, "trace")})))


@pytest.mark.parametrize(
    "error", [UserError("data.prepared=x was changed"), DivergedError("lower it")]
)
def test_what_a_worker_said_is_found(error):
    found = told_failure(from_worker(error))
    assert (type(found), str(found)) == (type(error), str(error))


def test_another_failure_of_a_worker_is_a_bug():
    assert told_failure(from_worker(ValueError("a bug"))) is None
    assert told_failure(RuntimeError("not of a worker")) is None


def test_a_worker_that_was_lost_is_tried_again():
    for failure in (RuntimeError("A worker health check failed."), RuntimeError(), KeyError(1)):
        assert told_failure(WorkerGroupError("text", {0: failure})) is None


def test_only_a_users_mistake_is_one():
    assert mistake_behind(from_worker(DivergedError("lower it"))) is None
    assert str(mistake_behind(from_worker(UserError("given: x")))) == "given: x"


def test_a_failure_that_would_happen_again_ends_the_training():
    with pytest.raises(UserError, match="given: x"):
        NoRetry().after_exception(None, from_worker(UserError("given: x")).worker_failures)


def test_a_lost_worker_does_not_end_the_training():
    NoRetry().after_exception(None, {0: RuntimeError("A worker health check failed.")})


def test_what_a_callback_raised_is_found():
    assert isinstance(told_failure(ControllerError(DivergedError("lower it"))), DivergedError)


def test_an_error_that_is_its_own_cause_is_no_mistake():
    first, second = RuntimeError("no dashboard"), ValueError("no node")
    first.__cause__ = first
    assert mistake_behind(first) is None
    first.__cause__, second.__cause__ = second, first
    assert mistake_behind(second) is None
    second.args = (UserError("given: x"),)
    assert str(mistake_behind(first)) == "given: x"
