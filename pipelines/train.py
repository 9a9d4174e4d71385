"""Train one model on a prepared data set, on one or many workers.

    recdiv train --preset demo data.prepared=runs/prepared/demo run.name=first
    recdiv train data.prepared=DIR loss.diversity_weight=0.3 scaling.num_workers=4
    recdiv train data.prepared=DIR train.init_from=CHECKPOINT train.epochs=5

Run the same command again to resume a killed run; a finished run returns its result at once.
Prints {"run", "checkpoint", "mlflow_run_id", "metrics"}.
"""

from __future__ import annotations

import argparse

from pipelines import run_pipeline
from recdiv_core.config import Config


def main(config: Config, args: argparse.Namespace) -> dict[str, object]:
    """Train one run."""
    from recdiv_core.training import launch

    return launch.run(config)


if __name__ == "__main__":
    run_pipeline(main)
