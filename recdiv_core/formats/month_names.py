"""Find the format of times whose month is a word, such as `12 Jan 2024 10:00`.

Not the other formats (timestamps.py). A month in words leaves no doubt about the day, so the format
is read off a value: each part becomes its directive of strptime, and all else stays as it is.
English names alone, because strptime knows no others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MONTHS: Final = "jan feb mar apr may jun jul aug sep oct nov dec"
MONTH: Final = rf"(?:{'|'.join(MONTHS.split())})[a-z]*"
DATE: Final = (
    rf"(?:[a-z]{{3,9}},? )?(?:[0-9]{{1,2}}[ /-]{MONTH}[ /-][0-9]{{4}}"
    rf"|{MONTH}\.? [0-9]{{1,2}},? (?:[0-9]{{2}}:.* )?[0-9]{{4}})"
)
"""Pattern of a date with the name of its month, in small letters; a time of day may follow."""

PARTS: Final = re.compile(
    rf"(?P<month>\b{MONTH})|(?P<weekday>\b(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*)"
    r"|(?P<clock>\b[0-9]{1,2}:[0-9]{2}(?P<seconds>:[0-9]{2})?(?P<parts>\.[0-9]+)?"
    r"(?P<half>(?P<gap> ?)[ap]m)?)"
    r"|(?P<zone>(?:(?<=[0-9] )|(?<=[0-9]))[+-][0-9]{2}:?[0-9]{2}\b)"
    r"|(?P<year>\b[0-9]{4}\b)|(?P<day>\b[0-9]{1,2}\b)|(?P<percent>%)",
    re.IGNORECASE,
)
ALIKE: Final = "may"
"""The month whose name is its abbreviation."""


def named_format(values: Sequence[str]) -> str:
    """Return the strptime format of times, read off the first value that tells it.

    >>> named_format(["12 Jan 2024 10:00"]), named_format(["May 3, 2024", "June 3, 2024"])
    ('%d %b %Y %H:%M', '%B %d, %Y')
    """
    telling = (value for value in values if not re.search(rf"\b{ALIKE}\b", value, re.IGNORECASE))
    return PARTS.sub(_directive, next(telling, values[0]).strip())


def _directive(part: re.Match[str]) -> str:
    """Return the directive of a part of a time."""
    kind, text = str(part.lastgroup), part.group()
    if kind == "clock":
        hours = "%I:%M" if part["half"] else "%H:%M"
        seconds = ":%S" if part["seconds"] else ""
        half = f"{part['gap']}%p" if part["half"] else ""
        return f"{hours}{seconds}{'.%f' if part['parts'] else ''}{half}"
    if kind in ("month", "weekday"):
        short, long = ("%b", "%B") if kind == "month" else ("%a", "%A")
        return short if len(text) == len(ALIKE) else long
    return {"zone": "%z", "year": "%Y", "day": "%d", "percent": "%%"}[kind]
