# pyright: strict
"""End this process as Ctrl-C would, when it is told to end by other means.

Ctrl-C closes runs and removes what is half-written; a plain SIGTERM would not.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType


def answer_sigterm() -> None:
    """From now on SIGTERM ends this process as Ctrl-C does; only the main thread can say so."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end_as_on_ctrl_c)


def end_as_on_ctrl_c(number: int, frame: FrameType | None) -> None:
    """Answer SIGTERM; also where SIGINT is ignored, as in jobs of a Ray started with `nohup`."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)
