# pyright: strict
"""Make SIGTERM end this process as Ctrl-C does.

Ctrl-C closes runs and removes half-written files; a plain SIGTERM would not.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType


def answer_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does. Outside the main thread it does nothing."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end_as_on_ctrl_c)


def end_as_on_ctrl_c(number: int, frame: FrameType | None) -> None:
    """Turn SIGTERM into Ctrl-C, even where SIGINT is ignored (Ray started with `nohup`)."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)
