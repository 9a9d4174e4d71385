"""The model registry: an operating point becomes a version of a model that makes slates.

    RUN --register--> version, alias `candidate` --promote, through the gate--> alias `champion`

A version is self-contained: weights, catalogue, text vectors, text encoder and code are its
artefacts. Loading `models:/NAME@champion` needs neither the click log, nor the cluster, nor a model
hub. No call relies on the global state of MLflow.
"""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import mlflow.pyfunc
import pandas as pd
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

import recdiv_core
from recdiv_core.config import Config, flatten, override, to_yaml
from recdiv_core.data.text_vectors import checked_encoder, vectors_path
from recdiv_core.errors import UserError
from recdiv_core.evaluation.systems import (
    NamedRun,
    check_comparable,
    find_run,
    judged_data,
    on_newest,
)
from recdiv_core.models.text_encoder import copy_encoder
from recdiv_core.release.gate import failed_floors, pass_gate
from recdiv_core.schema import read_manifest
from recdiv_core.slates.carry import carried
from recdiv_core.slates.checkpoint import ITEMS
from recdiv_core.slates.eligibility import copy_lists
from recdiv_core.slates.maker import SlateMaker
from recdiv_core.slates.query_index import read_queries, write_keys
from recdiv_core.storage.credentials import redact
from recdiv_core.storage.given_paths import check_run_name
from recdiv_core.storage.whole_files import write_whole
from recdiv_core.tracking.find import RECOMMENDED, run_of
from recdiv_core.tracking.runs import RunHandle
from recdiv_core.tracking.store import client_of, patiently, tracking_uri, with_password

logger = logging.getLogger(__name__)

CANDIDATE: Final = "candidate"
CHAMPION: Final = "champion"
SERVED: Final = ("checkpoint.json", "config.yaml", "model.pt")
RUN_TAG: Final = "recdiv.run"


class SlateModel(PythonModel):
    """Registered model: a table with `history` (and `query`, `times`, `where`) gives slates."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load weights and catalogue."""
        places = {name: Path(path) for name, path in context.artifacts.items()}
        self.maker = SlateMaker(places["checkpoint"], places["prepared"], places["encoder"])

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]: MLflow's returns nothing
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return `item_ids`, `scores` and `query_is_known` for each row, in order."""
        asked = {name.replace(".", "_"): value for name, value in (params or {}).items()}
        queries = list(model_input["query"]) if "query" in model_input else None
        times = [list(own) for own in model_input["times"]] if "times" in model_input else None
        where = list(model_input["where"]) if "where" in model_input else None
        histories = [list(own) for own in model_input["history"]]
        slates = self.maker.slates(histories, queries, times, where=where, **asked)
        return pd.DataFrame(
            {
                "item_ids": [s.item_ids for s in slates],
                "scores": [s.scores for s in slates],
                "query_is_known": [s.query_is_known for s in slates],
            },
            index=model_input.index,
        )


def register(
    config: Config, text: str, settings: Mapping[str, object], name: str
) -> dict[str, Any]:
    """Register a run as a new version with the alias `candidate`.

    Args:
        config: config of this command, for `tracking.uri`.
        text: RUN as in `compare`: directory, checkpoint or MLflow id, with `+rerank.*` settings.
            The id of a sweep is its recommended point, with the re-ranking that was chosen.
        settings: dotted key -> value for the run.
        name: name of the registered model; created if it is new.

    Returns:
        `{"name", "version", "alias", "model_uri"}`.

    Raises:
        UserError: the run is unknown or not finished, or has no MLflow run.
    """
    check_model_name(name)
    uri = tracking_uri(config)
    run = find_run(text, settings, lambda: uri)
    check_comparable([run])  # with itself: its data are there, and fit
    handle = run_of(uri, run.config)
    client = client_of(uri)
    if warning := other_reranking(uri, handle, run.config):
        logger.warning("%s", warning)
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "model"
        _save(run, Path(directory), model)
        place = f"models/{name}-{uuid.uuid4().hex[:8]}"  # a run can be registered more than once
        client.log_artifacts(handle.run_id, str(model), place)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(handle.run_id).info.artifact_uri}/{place}"
    version = _create_version(uri, name, source, handle.run_id, run.place)
    logger.info("%s is version %s of %s, the candidate", text, version, name)
    return _made_candidate(client, name, version)


def _made_candidate(client: Any, name: str, version: str) -> dict[str, Any]:
    client.set_registered_model_alias(name, CANDIDATE, str(version))
    return {
        "name": name,
        "version": int(version),
        "alias": CANDIDATE,
        "model_uri": f"models:/{name}@{CANDIDATE}",
    }


def other_reranking(uri: str, handle: RunHandle, config: Config) -> str:
    """Return a warning if the sweep recommends this model with other re-ranking; else empty."""
    client = client_of(uri)
    parent = client.get_run(handle.run_id).data.tags.get("mlflow.parentRunId")
    chosen = client.get_run(parent).data.tags.get(RECOMMENDED, "") if parent else ""
    if chosen.partition("+")[0] != handle.run_id:
        return ""
    if find_run(chosen, {}, lambda: uri).config.rerank == config.rerank:
        return ""
    return f"the sweep recommends this model with other re-ranking; to register that: {chosen}"


def promote(
    config: Config, name: str, floors: Mapping[str, float], *, split: str = "test"
) -> dict[str, Any]:
    """Promote the candidate to champion if it passes the gate; a first champion always passes.

    Returns:
        `{"name", "version", "champion", "promoted", "gate", "data"}`; `champion` is the previous
        champion; for `gate` see `gate.pass_gate`; `data` is what both were judged on, or None.

    Raises:
        UserError: there is no candidate, or it cannot be compared with the champion.
    """
    check_model_name(name)
    uri = tracking_uri(config)
    client = client_of(uri)
    candidate = _version(client, name, CANDIDATE)
    if candidate is None:
        raise UserError(
            f"tracking.uri={redact(uri)}: {name} has no candidate; register a RUN first"
        )
    champion = _version(client, name, CHAMPION)
    before = None if champion is None else str(champion.version)
    gate = gate_versions(config, name, before, int(candidate.version), floors, split=split)
    rows = gate["rows"]
    promoted = all(row["passes"] is not False for row in rows)
    if promoted:
        set_champion(config, name, int(candidate.version))
    return {
        "name": name,
        "version": int(candidate.version),
        "champion": None if champion is None else int(champion.version),
        "promoted": promoted,
        "gate": rows,
        "data": gate["data"],
    }


def champion_version(config: Config, name: str) -> str | None:
    """Return the number of the champion; None = there is none."""
    check_model_name(name)
    found = _version(client_of(tracking_uri(config)), name, CHAMPION)
    return None if found is None else str(found.version)


def copy_version(config: Config, name: str, version: str, place: Path) -> Path:
    """Copy the checkpoint of a version into a directory; return the path of the copy."""
    client = client_of(tracking_uri(config))
    found: Any = client.get_model_version(name, version)
    root = client.get_run(found.run_id).info.artifact_uri
    inside = found.source.removeprefix(root).strip("/")
    artifact = f"{inside}/artifacts/checkpoint"
    return Path(client.download_artifacts(found.run_id, artifact, str(place)))


def register_once(
    config: Config, checkpoint: str, settings: Mapping[str, object], name: str
) -> dict[str, Any]:
    """Register a checkpoint as the candidate, unless a version of it exists already.

    See `register`.
    """
    client = client_of(tracking_uri(config))
    try:
        versions = client.search_model_versions(f"name = '{name}'")
    except MlflowException:
        versions = []
    known = [each for each in versions if each.tags.get(RUN_TAG) == checkpoint]
    if not known:
        return register(config, checkpoint, settings, name)
    return _made_candidate(client, name, min((each.version for each in known), key=int))


def gate_versions(
    config: Config,
    name: str,
    champion: str | None,
    candidate: int,
    floors: Mapping[str, float],
    *,
    split: str = "test",
) -> dict[str, Any]:
    """Compare two versions on the newest data set of theirs; without a champion all is well.

    Returns:
        `{"rows", "data"}`; for `rows` see `gate.pass_gate`, for `data` see `judged_data`.
    """
    if champion is None or champion == str(candidate):
        return {"rows": [], "data": None}
    uri = tracking_uri(config)
    with tempfile.TemporaryDirectory() as directory:
        found: list[NamedRun] = []
        for word, version in ((CHAMPION, champion), (CANDIDATE, str(candidate))):
            place = Path(directory) / word
            place.mkdir()
            copy = copy_version(config, name, version, place)
            run = find_run(str(copy), {}, lambda: uri)
            found.append(replace(run, name=f"{name}, the {word}"))
        sides = on_newest(found)
        # both are judged on the items that may be shown today
        today = {k: v for k, v in flatten(sides[1].config).items() if k.startswith("eligible.")}
        sides[0] = replace(sides[0], config=override(sides[0].config, today))
        rows = pass_gate(sides[0], sides[1], floors, split)
        if failed := failed_floors(rows):
            logger.warning("%s: version %d does not pass the gate: %s", name, candidate, failed)
        return {"rows": rows, "data": judged_data(sides)}


def set_champion(config: Config, name: str, version: int) -> None:
    """Give a version the alias `champion`."""
    client = client_of(tracking_uri(config))
    client.set_registered_model_alias(name, CHAMPION, str(version))


def check_model_name(name: str) -> None:
    """Refuse a name that MLflow's registry or a file system cannot store.

    Raises:
        UserError: the name is empty, holds a colon (which ends a name in `models:/`), or fails
            `check_run_name`.
    """
    check_run_name(name, "--name")
    if not name or ":" in name:
        raise UserError(f"--name {name!r}: a registered model needs a name without a colon")


def _save(run: NamedRun, work: Path, model: Path) -> None:
    """Write the model's directory."""
    checkpoint, prepared = work / "checkpoint", work / "prepared"
    checkpoint.mkdir()
    source = Path(run.config.data.prepared)
    manifest = read_manifest(source)
    fitting = carried(run.checkpoint, source, manifest)
    for file in (*SERVED, *([ITEMS] if (fitting / ITEMS).is_file() else [])):
        shutil.copy2(fitting / file, checkpoint / file)
    write_whole(checkpoint / "config.yaml", to_yaml(run.config))
    copy_lists(run.config, manifest, checkpoint)
    vectors = [vectors_path(source, manifest, name) for name in ("tokens", "queries")]
    files = [source / file for file in ("manifest.json", "catalogue.parquet")]
    for path in (*files, *vectors):
        target = prepared / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    write_keys(read_queries(source), prepared)
    encoder = work / "encoder"
    copy_encoder(checked_encoder(manifest), encoder)
    mlflow.pyfunc.save_model(
        model,
        python_model=SlateModel(),
        artifacts={
            "checkpoint": str(checkpoint),
            "prepared": str(prepared),
            "encoder": str(encoder),
        },
        signature=_signature(run.config),
        input_example=pd.DataFrame({"history": [_some_items(source), []]}),
        code_paths=[str(Path(recdiv_core.__file__).parent)],
        pip_requirements=_requirements(),
    )


def _some_items(prepared: Path) -> list[str]:
    table = pq.read_table(prepared / "catalogue.parquet", columns=["item_id"])
    return table["item_id"].slice(0, 2).to_pylist()


def _signature(config: Config) -> ModelSignature:
    text = Array(DataType.string)
    return ModelSignature(
        inputs=Schema(
            [
                ColSpec(text, "history"),
                ColSpec("string", "query", required=False),
                ColSpec(Array(DataType.long), "times", required=False),
                ColSpec("string", "where", required=False),
            ]
        ),
        outputs=Schema(
            [
                ColSpec(text, "item_ids"),
                ColSpec(Array(DataType.double), "scores"),
                ColSpec("boolean", "query_is_known"),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("k", "long", config.eval.k),
                ParamSpec("model.diversity", "double", config.model.diversity),
                ParamSpec("rerank.diversity", "double", config.rerank.diversity),
                ParamSpec("eligible.at", "string", config.eligible.at),
                ParamSpec("eligible.block", "string", [], (-1,)),
                ParamSpec("eligible.only", "string", [], (-1,)),
            ]
        ),
    )


def _requirements() -> list[str]:
    """Return the requirements of the package, without its extras."""
    wanted = importlib.metadata.requires("recdiv") or []
    return [text for text in wanted if "extra ==" not in text]


def _create_version(uri: str, name: str, source: str, run_id: str, place: str) -> str:
    """Create one version of a model, even if a reply is lost, and return its number."""
    client = MlflowClient(tracking_uri=with_password(uri))

    def create() -> str:
        found = client.search_model_versions(f"name = '{name}' and source_path = '{source}'")
        if found:
            return min((each.version for each in found), key=int)
        return client.create_model_version(
            name, source, run_id=run_id, tags={RUN_TAG: place}
        ).version

    patiently(uri, create)
    return create()


def _version(client: Any, name: str, alias: str) -> Any:
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
