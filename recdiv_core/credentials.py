# pyright: strict
"""Passwords and keys inside URIs: kept out of everything that is written or shown.

Not a store of secrets. The one idea: credentials live in the environment, under the names that
MLflow and AWS document; a URI that carries them is used, and written down without them.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"

USER_PASSWORD: Final = re.compile(
    r"""(://[^:/@\s'"]*):(?!\d{1,5}(?:[/?\#\s'"]|$))[^@\s'"]*@(?:[^/@\s'"]*@)*"""
)
"""`://user:password@`. The password may hold a slash, as keys of AWS do; a port is none."""

TOKEN: Final = re.compile(r"""(https?://)[^/@:\s'"]+@""")
"""`https://token@`."""

SECRET_OPTION: Final = re.compile(
    r"""([?&][\w.-]*(?:key|secret|token|password|passwd|pwd|sig|signature|credential|odbc_connect)"""
    r"""[\w.-]*=)[^&\s'"]+""",
    re.IGNORECASE,
)
"""`?secret_key=...`, `&sig=...` and their like."""


def redact(text: str) -> str:
    """Hide the secrets of every URI in a text, for what is shown.

    >>> redact("postgresql://me:secret@host/runs")
    'postgresql://me:***@host/runs'
    >>> redact("see s3://bucket/a?access_key=A&secret_key=S&region=eu")
    'see s3://bucket/a?access_key=***&secret_key=***&region=eu'
    """
    text = USER_PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    text = TOKEN.sub(rf"\1{HIDDEN}@", text)
    return SECRET_OPTION.sub(rf"\1{HIDDEN}", text)
