"""Start Ray, or join the cluster that is running, in the one way that every pipeline does.

Not the training or the data work itself. Nothing happens on import; Ray is loaded when called.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from recdiv_core.cluster.leftovers import end_leftovers, mark_session
from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.storage.credentials import passed_on
from recdiv_core.storage.interrupts import answer_sigterm
from recdiv_core.storage.places import is_uri

IDLE_ENDS_AFTER_MS: Final = "RAY_idle_worker_killing_time_threshold_ms"
"""Ray's setting of a node, which its processes inherit; a second unless set."""

ON_LOOPBACK: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes a local Ray listen on 127.0.0.1 alone, on Linux too; read when ray is imported. (Ray 2.60
turns `ray.init(_node_ip_address="127.0.0.1")` back into the machine's own address.)"""

ENVIRONMENT: Final = {
    IDLE_ENDS_AFTER_MS: "120000",  # a reading process serves the next run too
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the pace of report()
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else each print appears twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process a run, for scaling.preemptible alone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # else a table of Tune's goes to stdout
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # beyond that tracking.py waits, and says so
}
"""Settings of Ray's processes, which inherit them; what the user has set stays."""


def start_ray(config: Config, shared: Mapping[str, Path | str] | None = None) -> None:
    """Start or join Ray as `scaling.address` says; does nothing when Ray runs already.

    Args:
        config: its `scaling`.
        shared: files and directories that all nodes of a cluster must see, by key; a URI is taken
            at its word.

    Raises:
        UserError: no cluster answers at `scaling.address`, or a node of it does not see a place.
    """
    set_environment(config)
    import ray
    import ray.data

    quieten()
    ray.data.DataContext.get_current().enable_progress_bars = False
    if ray.is_initialized():
        return
    address = config.scaling.address
    is_local = address == "local"
    try:
        joined: Any = ray.init(
            address=address,
            logging_level=logging.WARNING,
            # of a Ray that ends with this process: two seconds of its start, and CPU as long
            include_dashboard=False if is_local else None,
            runtime_env=None if is_local else _passing_on(),
        )
    except ConnectionError as error:
        raise UserError(
            f"scaling.address={address}: no Ray cluster there ({error}); "
            f"allowed: local, auto, or host:port of a running one"
        ) from None
    for name in ON_LOOPBACK:
        os.environ.pop(name, None)  # Ray's processes have it; a `ray start` of ours must not
    if is_local:
        session = Path(joined.address_info["session_dir"])
        mark_session(session)
        end_leftovers(session.parent)
    answer_sigterm()  # Ray's own answer aborts a sweep
    if shared and not is_local:
        check_shared({k: Path(v) for k, v in shared.items() if not is_uri(v)})


def _passing_on() -> dict[str, Any] | None:
    """Return what gives the workers of a cluster the credentials that came from URIs.

    Not `env_vars`: the nodes' logs and the dashboard show those.
    """
    taken = passed_on()
    return {"worker_process_setup_hook": partial(os.environ.update, taken)} if taken else None


def set_environment(config: Config) -> None:
    """Give this process, and those that it starts, our settings of Ray; before ray is imported."""
    if config.scaling.address == "local":
        for name, value in ON_LOOPBACK.items():
            os.environ.setdefault(name, value)
    if config.scaling.preemptible:
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "1"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def check_shared(places: Mapping[str, Path]) -> None:
    """Refuse places that a node of the running cluster does not see as this process does.

    Of a file the content is compared; into a directory a file is put for a moment, to be looked
    for, since a node may have another directory of that name.

    Raises:
        UserError: names the key, the place and the node.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    marks: list[Path] = []
    looked_for: dict[str, Path] = {}
    try:
        for key, place in places.items():
            looked_for[key] = place
            if not place.is_file():
                place.mkdir(parents=True, exist_ok=True)
                looked_for[key] = place / f".seen-by-all-nodes-{uuid.uuid4().hex}"
                looked_for[key].write_text(uuid.uuid4().hex)
                marks.append(looked_for[key])
        digests = {key: _digest(path) for key, path in looked_for.items()}
        look = ray.remote(num_cpus=0)(_digests)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        strategies = [NodeAffinitySchedulingStrategy(n["NodeID"], soft=False) for n in nodes]
        answers = [look.options(scheduling_strategy=s).remote(looked_for) for s in strategies]
        for node, answer in zip(nodes, answers, strict=True):
            for key, digest in ray.get(answer).items():
                if digest != digests[key]:
                    raise UserError(
                        f"{key}={places[key]}: the node {node['NodeManagerAddress']} does not see "
                        "it; give a place on storage that all nodes share, or a URI"
                    )
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)


def _digests(files: Mapping[str, Path]) -> dict[str, str]:
    return {key: _digest(path) for key, path in files.items()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def quieten() -> None:
    """Leave our own lines in the log of this process, and others' where they tell of a failure."""
    logging.getLogger("optuna").setLevel(logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.execution").setLevel(logging.WARNING)
    for name in (
        "ray.data._internal.issue_detection",  # memory of operators, as "high" from 1 MiB on
        "ray.data._internal.progress",  # says that progress bars are off
        "ray._private.authentication",  # says that a token guards the local cluster
        "ray.tune",  # says what sweep.py says better
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
