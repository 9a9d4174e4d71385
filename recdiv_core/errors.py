# pyright: strict
"""The user's mistakes, told apart from ours.

A pipeline answers a UserError with its message and exit status 2, and a DivergedError with its
message and status 1. Any other exception, a ValueError of a library or of ours included, is a bug:
it shows its traceback and ends with status 1.
"""

from __future__ import annotations

from typing import Final


class UserError(ValueError):
    """Wrong input: a file, a row, a setting or a name that the user gave.

    The message says what was given, what is allowed and the dotted config key.
    """


class DivergedError(ArithmeticError):
    """A training that no further step brings back: numbers that are not finite.

    Neither wrong input nor a bug: exit status 1, the message without a traceback. The message says
    which settings to change.
    """


INIT_MENDS: Final = "`recdiv init FILES` writes a config for them"
"""Ends a refusal that a config made by `init` would mend."""
