"""Start Ray, or join a running cluster: the one way for all pipelines.

Not the training or the data work itself. Nothing happens on import; Ray is loaded when called.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import uuid
from collections.abc import Callable, Mapping
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any, Final

from recdiv_core.cluster.leftovers import end_leftovers, mark_session
from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.storage.credentials import RedactingFormatter, passed_on
from recdiv_core.storage.interrupts import answer_sigterm
from recdiv_core.storage.places import is_uri

IDLE_ENDS_AFTER_MS: Final = "RAY_idle_worker_killing_time_threshold_ms"
"""Ray's name for the time in ms after which it ends an idle process; Ray's default is 1,000."""

ON_LOOPBACK: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes a local Ray listen on 127.0.0.1 alone, on Linux too; read when ray is imported. (Ray 2.60
turns `ray.init(_node_ip_address="127.0.0.1")` back into the machine's own address.)"""

ENVIRONMENT: Final = {
    IDLE_ENDS_AFTER_MS: "120000",  # a reading process serves the next run too
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the pace of report()
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else each print appears twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process a run, for scaling.preemptible alone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # to Ray the lines of trials that run at once are the same line: it would show one of them
    "RAY_DEDUP_LOGS_ALLOW_REGEX": "trial-[0-9a-f]",
    "RAY_AIR_NEW_OUTPUT": "0",  # else a table of Tune's goes to stdout
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # after that tracking/store.py waits, and says so
}
"""Settings of Ray's processes, which inherit them; a value that the user has set stays."""

OWN_DASHBOARD: Final = "RAY_API_SERVER_ADDRESS"
"""Ray's name for the dashboard that its state API asks."""


def start_ray(config: Config, shared: Mapping[str, Path | str] | None = None) -> None:
    """Start or join Ray as `scaling.address` says; does nothing when Ray runs already.

    All nodes of a cluster must see the files and directories of `shared`, by key; a URI is not
    checked.

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
    if config.scaling.address == "local":
        session = Path(start_local().address_info["session_dir"])
        mark_session(session)
        end_leftovers(session.parent)
    else:
        _join(config.scaling.address)
    for name in ON_LOOPBACK:
        os.environ.pop(name, None)  # Ray's processes have it; a `ray start` of ours must not
    answer_sigterm()  # Ray's own answer aborts a sweep
    if shared and config.scaling.address != "local":
        check_shared({k: Path(v) for k, v in shared.items() if not is_uri(v)})


def start_local(**settings: Any) -> Any:
    """Start a Ray on this machine; return what `ray.init` returns.

    Ray Train frees the resources of a run whose controller has died. It asks the dashboard whether
    the controller lives, and without an address it asks any Ray of this machine. A foreign one does
    not know the controller: Ray Train would take a live run for dead and end it. So our Ray has a
    dashboard, and its processes inherit the address.
    """
    import ray

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = os.environ.get(OWN_DASHBOARD)
    os.environ[OWN_DASHBOARD] = f"http://127.0.0.1:{port}"
    try:
        started = ray.init(
            address="local",
            logging_level=logging.ERROR,  # it warns that a token guards this Ray
            include_dashboard=True,
            dashboard_port=port,
            **settings,
        )
        logging.getLogger("ray").setLevel(logging.WARNING)
        return started
    finally:
        del os.environ[OWN_DASHBOARD]
        if before is not None:
            os.environ[OWN_DASHBOARD] = before


def _join(address: str) -> None:
    import ray

    try:
        ray.init(
            address=address,
            logging_level=logging.WARNING,
            # not `env_vars`: the logs of the nodes and the dashboard show those
            runtime_env={"worker_process_setup_hook": worker_hook(passed_on())},
        )
    except ConnectionError as error:
        raise UserError(
            f"scaling.address={address}: no Ray cluster there ({error}); "
            f"allowed: local, auto, or host:port of a running one"
        ) from None


def worker_hook(credentials: Mapping[str, str]) -> Callable[[], None]:
    """Return `settle_worker` for these credentials; Ray needs the `__name__` that a partial lacks.

    >>> worker_hook({}).__name__
    'settle_worker'
    """
    hook = partial(settle_worker, credentials)
    return update_wrapper(hook, settle_worker)


def settle_worker(credentials: Mapping[str, str]) -> None:
    """Give a worker process the credentials that came from URIs, and the address of its Ray."""
    import ray

    os.environ.update(credentials)
    # the state API reads it: see start_local
    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


def set_environment(config: Config) -> None:
    """Set our settings of Ray for this process and its children, before ray is imported."""
    if config.scaling.address == "local":
        for name, value in ON_LOOPBACK.items():
            os.environ.setdefault(name, value)
    if config.scaling.preemptible:
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "1"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def check_shared(places: Mapping[str, Path]) -> None:
    """Refuse places that a node of the running cluster does not see as this process does.

    The content of a file is compared. In a directory, a temporary file is looked for: a node may
    have another directory of the same name.

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
        digests = _digests(looked_for)
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


def start_logging() -> None:
    """Show our progress in the log of a Ray process, and warnings of everybody else."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])  # in a training worker Ray has set one already
    logging.getLogger().setLevel(logging.WARNING)  # else Ray Train logs every report
    logging.getLogger("recdiv_core").setLevel(logging.INFO)
    quieten()


def quieten() -> None:
    """Hide lines of libraries that tell of no failure."""
    logging.getLogger("optuna").setLevel(logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # sweep/run.py says the same better
