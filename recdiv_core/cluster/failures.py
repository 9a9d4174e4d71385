"""Find the user's mistake in what Ray makes of an error raised in a task, an actor or a worker.

Ray wraps an error that crosses processes: a task's in RayTaskError, a Train worker's in
WorkerGroupError. A pipeline asks here whether a UserError is inside, and then says that one line.
"""

from __future__ import annotations

import re
from typing import Final

from ray.exceptions import RayTaskError, UserCodeException
from ray.train import ControllerError, WorkerGroupError

from recdiv_core.errors import DivergedError, UserError

LINE: Final = re.compile(r"^recdiv_core\.errors\.UserError: (.*)$", re.MULTILINE)
"""How a traceback ends that a UserError ended."""


def mistake_behind(error: BaseException | None) -> UserError | None:
    """Return the UserError that an error is, or that Ray wrapped; None = it is no user's mistake.

    >>> mistake_behind(UserError("no such file"))
    UserError('no such file')
    >>> mistake_behind(ValueError("a bug"))
    """
    if isinstance(error, RayTaskError):
        # Ray's class derives from the cause's, too: its text is the whole remote traceback
        return mistake_behind(error.cause) or _of_ray_data(error)
    if isinstance(error, WorkerGroupError):
        found = told_failure(error)
        return found if isinstance(found, UserError) else None
    if isinstance(error, ControllerError):
        return mistake_behind(error.controller_failure)
    if isinstance(error, UserError):
        return error
    return mistake_behind(error.__cause__) if error is not None else None


def _of_ray_data(error: RayTaskError) -> UserError | None:
    """Ray Data 2.60 wraps what a function raises, and pickling loses it; its text stays."""
    if not isinstance(error.cause, UserCodeException):
        return None
    found = LINE.search(str(error))
    return UserError(found[1]) if found else None


def told_failure(error: Exception) -> UserError | DivergedError | None:
    """Return what a Train worker said of a failure that would happen again; None = another one."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    for failure in failures:
        for cause in (failure, *failure.args[:1]):  # Ray wraps what the training function raised
            raised = cause.cause if isinstance(cause, RayTaskError) else cause
            if isinstance(raised, DivergedError):
                return raised
            if isinstance(cause, Exception) and (mistake := mistake_behind(cause)) is not None:
                return mistake
    return None
