"""How a process that drives Ray answers signals."""

import signal

import pytest
from ray._private.ray_logging import LogDeduplicator

from recdiv_core.cluster.start import ENVIRONMENT
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


def test_ray_shows_the_lines_of_all_trials_that_run_at_once():
    allowed = ENVIRONMENT["RAY_DEDUP_LOGS_ALLOW_REGEX"]
    deduplicator = LogDeduplicator(agg_window_s=5, allow_re=allowed, skip_re=None)
    lines = [f"trial-0000{number}: ease fitted in {number}.5 s" for number in range(4)]
    batches = [
        deduplicator.deduplicate({"ip": "127.0.0.1", "pid": number, "lines": [line]})
        for number, line in enumerate(lines)
    ]
    assert [line for shown in batches for batch in shown for line in batch["lines"]] == lines


@pytest.mark.parametrize(("asked", "cpus"), [(0.0, 1.0), (0.5, 0.5)])
def test_a_cluster_that_can_grow_is_asked_for_a_whole_cpu(asked, cpus, caplog):
    caplog.set_level("INFO")
    config = override(Config(), {"scaling.address": "auto", "scaling.cpus_per_worker": asked})
    assert cpus_per_worker(config, {"GPU": 0.0}) == cpus
    assert f"no CPU yet: asking for {cpus:g} a worker" in caplog.text
