"""How a process that drives Ray answers signals."""

import signal

import pytest

from recdiv_core.ray_start import end_as_on_ctrl_c


@pytest.mark.parametrize("disposition", [signal.SIG_IGN, signal.default_int_handler])
def test_sigterm_interrupts_also_a_process_that_ignores_ctrl_c(disposition):
    before = signal.signal(signal.SIGINT, disposition)
    try:
        with pytest.raises(KeyboardInterrupt):
            end_as_on_ctrl_c(signal.SIGTERM, None)
    finally:
        signal.signal(signal.SIGINT, before)
