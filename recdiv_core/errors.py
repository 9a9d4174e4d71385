# pyright: strict
"""Exceptions that end a pipeline with a message instead of a traceback.

A UserError gives exit status 2, a DivergedError exit status 1. Every other exception is a bug, also
a ValueError: it shows its traceback and gives exit status 1.
"""

from __future__ import annotations

from typing import Final


class UserError(ValueError):
    """Wrong input of the user: a file, a row, a setting or a name.

    The message names the given value, the allowed values and the dotted config key.
    """


class DivergedError(ArithmeticError):
    """A training with numbers that are not finite, so that further steps are useless.

    The message names the settings to change.
    """


INIT_MENDS: Final = "`recdiv init FILES` writes a config for them"
"""End of an error message for files that a config from `init` can describe."""
