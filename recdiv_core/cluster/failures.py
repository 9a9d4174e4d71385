"""Find the user's mistake, or a diverged training, in the errors that Ray raises.

Ray wraps an error that crosses processes: RayTaskError for a task, WorkerGroupError for a training
worker, ControllerError for a callback of Ray Train. A pipeline asks here whether a UserError or a
DivergedError is inside, and prints its message as one line.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Final, NoReturn

from ray.exceptions import RayTaskError, UserCodeException
from ray.train import ControllerError, UserCallback, WorkerGroupError

from recdiv_core.errors import DivergedError, UserError

LINE: Final = re.compile(r"^recdiv_core\.errors\.UserError: (.*)$", re.MULTILINE)
"""Last line of a traceback that a UserError caused."""


class NoRetry(UserCallback):
    """End a training whose failure would happen again; Ray Train retries every other failure."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the mistake that a worker has found, if there is one."""
        for error in worker_exceptions.values():
            found = told_failure(error)
            if found is not None:
                end_training(found)


def end_training(error: Exception) -> NoReturn:
    """End a training from a callback of Ray Train: it does not retry what a callback raises."""
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # else it logs the traceback
    raise error


def mistake_behind(error: BaseException | None) -> UserError | None:
    """Return the UserError that an error is or wraps; None = it is not the user's mistake.

    >>> mistake_behind(UserError("no such file"))
    UserError('no such file')
    >>> mistake_behind(ValueError("a bug"))
    """
    found = told_failure(error)
    return found if isinstance(found, UserError) else None


def told_failure(
    error: BaseException | None, around: tuple[BaseException, ...] = ()
) -> UserError | DivergedError | None:
    """Return the failure inside an error that would happen again; None = there is none.

    `around` are errors that wrap it. An error may be its own cause: Ray raises one where a node
    does not start.
    """
    if error is None or any(error is other for other in around):
        return None
    if isinstance(error, RayTaskError):
        # RayTaskError derives from the class of its cause: isinstance(error, UserError) may hold,
        # but its text is the whole remote traceback
        return told_failure(error.cause, (*around, error)) or _of_ray_data(error)
    if isinstance(error, UserError | DivergedError):
        return error
    if isinstance(error, WorkerGroupError):
        inner = list(error.worker_failures.values())
    elif isinstance(error, ControllerError):
        inner = [error.controller_failure]
    else:
        # Ray Train wraps the error of a training function: it is the first argument
        inner = [a for a in error.args[:1] if isinstance(a, Exception)] + [error.__cause__]
    found = (told_failure(each, (*around, error)) for each in inner)
    return next(filter(None, found), None)


def _of_ray_data(error: RayTaskError) -> UserError | None:
    """Return the UserError of a function that Ray Data ran: pickling keeps only its text."""
    if not isinstance(error.cause, UserCodeException):
        return None
    found = LINE.search(str(error))
    return UserError(found[1]) if found else None
