# pyright: strict
"""The user's mistakes, told apart from ours.

A pipeline answers a UserError with its message and exit status 2. Any other exception, a ValueError
of a library or of ours included, is a bug: it shows its traceback and ends with status 1.
"""

from __future__ import annotations


class UserError(ValueError):
    """Wrong input: a file, a row, a setting or a name that the user gave.

    The message says what was given, what is allowed and the dotted config key.
    """
