"""Start Ray, or join the cluster that is running, in the one way that every pipeline does.

Not the training or the data work itself. Nothing happens on import; Ray is loaded when called.
"""

from __future__ import annotations

import logging
import os

from recdiv_core.config import Config


def start_ray(config: Config) -> None:
    """Start or join Ray as `scaling.address` says; does nothing when Ray runs already.

    Raises:
        ValueError: no cluster answers at `scaling.address`.
    """
    # Workers inherit these, so they are set before Ray starts; what the user has set stays.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # the pace of report()
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # else each print appears twice
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
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
