"""Find the user's mistake in what Ray makes of an error raised in a task, an actor or a worker.

Ray wraps an error that crosses processes: a task's in RayTaskError, a Train worker's in
WorkerGroupError. A pipeline asks here whether a UserError is inside, and then says that one line.
"""

from __future__ import annotations

from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError

from recdiv_core.errors import UserError


def mistake_behind(error: BaseException | None) -> UserError | None:
    """Return the UserError that an error is, or that Ray wrapped; None = it is no user's mistake.

    >>> mistake_behind(UserError("no such file"))
    UserError('no such file')
    >>> mistake_behind(ValueError("a bug"))
    """
    if isinstance(error, RayTaskError):
        # Ray's class derives from the cause's, too: its text is the whole remote traceback
        return mistake_behind(error.cause) or mistake_behind(error.__cause__)
    if isinstance(error, WorkerGroupError):
        found = [mistake_behind(failure) for failure in error.worker_failures.values()]
        return next(filter(None, found), None)
    if isinstance(error, ControllerError):
        return mistake_behind(error.controller_failure)
    if isinstance(error, UserError):
        return error
    return mistake_behind(error.__cause__) if error is not None else None
