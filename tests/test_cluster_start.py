"""How a process that drives Ray answers signals."""

import signal

import pytest

from recdiv_core.config import Config, override
from recdiv_core.storage.interrupts import end_as_on_ctrl_c
from recdiv_core.training.checks import cpus_per_worker


@pytest.mark.parametrize("disposition", [signal.SIG_IGN, signal.default_int_handler])
def test_sigterm_interrupts_also_a_process_that_ignores_ctrl_c(disposition):
    before = signal.signal(signal.SIGINT, disposition)
    try:
        with pytest.raises(KeyboardInterrupt):
            end_as_on_ctrl_c(signal.SIGTERM, None)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("asked", "cpus"), [(0.0, 1.0), (0.5, 0.5)])
def test_a_cluster_that_can_grow_is_asked_for_a_whole_cpu(asked, cpus, caplog):
    caplog.set_level("INFO")
    config = override(Config(), {"scaling.address": "auto", "scaling.cpus_per_worker": asked})
    assert cpus_per_worker(config, {"GPU": 0.0}) == cpus
    assert f"no CPU yet: asking for {cpus:g} a worker" in caplog.text
