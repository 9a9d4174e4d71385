"""A trial of a sweep that is killed or fails leaves the resources of its workers to the next one.

test_sweep.py has the same of a trial that is stopped.
"""

from typing import Any

import pytest
import ray
from ray import tune

from recdiv_core.config import to_tree
from recdiv_core.schema import read_manifest
from recdiv_core.settings import load
from recdiv_core.sweep.trial import Trial
from tests.cluster.conftest import reserved, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.faults]


def endless_trial(shop, name) -> Any:
    """Return the class of a trial with more epochs than any test waits for."""
    long = ("train.epochs=4000", "train.patience=4000", "train.batch_size=4", "model.blend=[]")
    config = load(overrides=shop.arguments(*long))
    return tune.with_parameters(
        Trial,
        shared=to_tree(config),
        fingerprint=read_manifest(shop.prepared).fingerprint,
        root=str(shop.storage / name),
        concurrent=1,
    )


def test_a_killed_trial_frees_what_its_workers_had(shop):
    assert not reserved()
    trial: Any = ray.remote(num_cpus=0)(endless_trial(shop, "killed")).remote(config={"seed": 2})
    result: Any = ray.get(trial.train.remote())
    assert result["epoch"] == 1
    assert reserved()
    ray.kill(trial)
    wait_until(lambda: not reserved())


@pytest.mark.slow
def test_a_failed_trial_says_why(shop):
    trial = endless_trial(shop, "failed")(config={"train.learning_rate": 1e30})
    with pytest.raises(ArithmeticError, match="training diverged"):
        [trial.train() for _ in range(10)]
    trial.stop()
    assert not reserved()
