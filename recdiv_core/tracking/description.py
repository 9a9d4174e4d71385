"""What a run in MLflow holds about itself: params, tags, its data set, its code version.

Texts only, no calls to the store: runs.py stores them.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag

import recdiv_core
from recdiv_core.config import Config, flatten
from recdiv_core.schema import Manifest
from recdiv_core.storage.credentials import redact, without_secrets

Kind = Literal["train", "sweep", "trial"]

OF_THE_PLACE: Final = (
    "run.",
    "tracking.",
    "data.",
    "split.",
    "scaling.address",
    "scaling.max_concurrent_trials",
    "scaling.trial_workers",  # a trial has it as scaling.num_workers
    "scaling.cpus_per_worker",
    "scaling.threads_per_worker",
    "train.max_failures",
    "train.keep_checkpoints",
    "eval.dials",
)
"""Starts of keys that change no metric of a run on the same prepared data."""
MAX_PARAM_LENGTH: Final = 6000  # characters, MLflow's limit
MAX_DIGEST_LENGTH: Final = 36  # characters, MLflow's limit


def params_of(config: Config) -> dict[str, str]:
    """Return the config as params: dotted key -> text, which is JSON unless the value is text."""
    return {key: _param(value) for key, value in flatten(config).items()}


def comparable_params(config: Config, swept: Collection[str]) -> dict[str, str]:
    """Return the params that two runs must share to differ in the swept settings alone."""
    return {
        key: text
        for key, text in params_of(config).items()
        if not key.startswith(OF_THE_PLACE) and key not in swept
    }


def param_value(text: str) -> object:
    """Return the value of a param: parsed JSON, or the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def tags_of(config: Config, name: str, kind: Kind, manifest: Manifest) -> dict[str, str]:
    """Return the tags that every run has: its kind, data, seed, command and code version."""
    facts: dict[str, object] = {
        "users": manifest.num_users,
        "items": manifest.num_items,
        "events": manifest.num_events,
        "cold users": manifest.num_cold_users,
        "cold items": manifest.num_cold_items,
        "categories": len(manifest.categories),
        "examples": manifest.num_examples,
        "split": manifest.split,
    }
    if manifest.categories_from != "catalogue":
        facts["categories from"] = manifest.categories_from
    tags = {
        "mlflow.user": os.environ.get("USER", "unknown"),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "recdiv.kind": kind,
        "recdiv.run_name": config.run.name or name,
        "recdiv.data": manifest.name,
        "recdiv.manifest": manifest.fingerprint,
        "recdiv.facts": json.dumps(facts, ensure_ascii=False),
        "recdiv.seed": str(config.seed),
        "recdiv.command": redact(" ".join(sys.argv)),
        "recdiv.code_version": _code_version(),
    }
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})
    if "job_submission_id" in job:
        tags["recdiv.ray_job_id"] = job["job_submission_id"]
    return tags


def dataset_input(config: Config, manifest: Manifest) -> DatasetInput:
    """Return the prepared data set as an MLflow input, by the digest of its manifest."""
    facts = {"users": manifest.num_users, "items": manifest.num_items, **manifest.num_examples}
    dataset = Dataset(
        name=manifest.name,
        digest=manifest.fingerprint[:MAX_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": config.data.prepared}),
        profile=json.dumps(facts),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


@functools.cache
def _code_version() -> str:
    """Return the commit of this checkout (`-dirty` if changed), else the installed version.

    A process asks git once: it runs the code that it has loaded, whatever changes on disk later.
    """
    here = Path(recdiv_core.__file__)

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-C", str(here.parent), *arguments], capture_output=True, text=True, check=False
        )

    try:
        is_ours = git("ls-files", "--error-unmatch", here.name).returncode == 0
    except FileNotFoundError:  # git is not installed
        is_ours = False
    if not is_ours:
        return importlib.metadata.version("recdiv")
    dirty = "-dirty" if git("status", "--porcelain", "--", ".").stdout else ""
    return git("rev-parse", "HEAD").stdout.strip() + dirty


def _param(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = without_secrets(text) if "://" in text else text
    return text if len(text) <= MAX_PARAM_LENGTH else text[: MAX_PARAM_LENGTH - 3] + "..."
