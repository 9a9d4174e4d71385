"""Start Ray, or join the cluster that is running, in the one way that every pipeline does.

Not the training or the data work itself. Nothing happens on import; Ray is loaded when called.
"""

from __future__ import annotations

import logging
import os
from typing import Final

from recdiv_core.config import Config

ENVIRONMENT: Final = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the pace of report()
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else each print appears twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process a run that nothing here asks
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # else a table of Tune's goes to stdout
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # beyond that tracking.py waits, and says so
}
"""Settings of Ray's processes, which inherit them; what the user has set stays."""


def start_ray(config: Config) -> None:
    """Start or join Ray as `scaling.address` says; does nothing when Ray runs already.

    Raises:
        ValueError: no cluster answers at `scaling.address`.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    quieten()
    ray.data.DataContext.get_current().enable_progress_bars = False
    if ray.is_initialized():
        return
    address = config.scaling.address
    try:
        ray.init(
            address=address,
            logging_level=logging.WARNING,
            # without it Train's clean-up actor complains every second of a run
            include_dashboard=True if address == "local" else None,
        )
    except ConnectionError as error:
        raise ValueError(
            f"scaling.address={address}: no Ray cluster there ({error}); "
            f"allowed: local, auto, or host:port of a running one"
        ) from None


def quieten() -> None:
    """Leave our own lines in the log of this process, and of Ray's those that tell of a failure."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.execution").setLevel(logging.WARNING)
    for name in (
        "ray.data._internal.issue_detection",  # memory of operators, as "high" from 1 MiB on
        "ray.data._internal.progress",  # says that progress bars are off
        "ray._private.authentication",  # says that a token guards the local cluster
        "ray.tune",  # says what sweep.py says better
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
