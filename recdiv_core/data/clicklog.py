"""Prepare: a click log and a catalogue become a prepared data set.

This module holds the order of the steps: checks without Ray, staging.py (rows -> staged shards),
examples.py (shards -> examples), catalogue.py, the manifest. Everything is written to a new
directory, which becomes the current version when it is complete (versions.py).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import platform
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recdiv_core import shop
from recdiv_core.adapters.layout_files import Given, find_given
from recdiv_core.cluster.start import start_ray
from recdiv_core.config import Config
from recdiv_core.data import (
    catalogue,
    derived_categories,
    events,
    items,
    outcomes,
    staging,
)
from recdiv_core.data.audit import traces
from recdiv_core.data.audit.findings import write_audit
from recdiv_core.data.cuts import choose_protocol, parse_cut
from recdiv_core.data.door import TOMBSTONES, Door, open_door, read_tombstones
from recdiv_core.data.fingerprint import deciding_settings, fingerprint_of, is_made
from recdiv_core.data.retention import check_retention, expire
from recdiv_core.data.shards import describe_times
from recdiv_core.data.splitting import Splits, write_splits
from recdiv_core.data.text_vectors import make_item_vectors
from recdiv_core.data.tokeniser import audit_tokens, save_own
from recdiv_core.data.versions import building, find_view, point, publish, version_place
from recdiv_core.errors import UserError
from recdiv_core.formats import readers
from recdiv_core.formats.files import SourceFile, describe_sources, list_files
from recdiv_core.schema import (
    QUERY,
    SCHEMA_VERSION,
    EncoderSource,
    Manifest,
    read_manifest,
)
from recdiv_core.storage.credentials import redact
from recdiv_core.storage.given_paths import check_run_name, output_path
from recdiv_core.storage.whole_files import write_json
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

GENERIC_NAMES: Final = ("clicks", "click", "events", "log", "interactions", "data", "train")
LOG: Final = "log.json"
"""File of a data set: files of the log in order, its columns, and the origin of the catalogue."""


def prepare(config: Config, *, on_ray: bool = True) -> dict[str, object]:
    """Turn a click log and a catalogue into a prepared data set.

    An existing data set with the same fingerprint is reused. Without `on_ray` this process does the
    work and holds all events; the built-in shop needs Ray.

    Returns:
        `prepared` (its directory), `num_users`, `num_items`, `num_events`, `quarantined` (rows) and
        further counts.

    Raises:
        UserError: The input or a setting is wrong; no file is left behind.
    """
    from recdiv_core.models.text_encoder import check_encoder

    started = time.monotonic()
    out = find_target(config)
    is_demo = config.data.source == "demo"
    given = None if is_demo else find_given(config)
    config = given.config if given else config
    door = open_door(config, out)
    inputs = _open(given, door) if given else None
    sources = inputs.sources if inputs else _demo_sources(config)
    encoder_path, encoder = encoder_source(config)
    # the built-in shop has categories: they are derived only if a number is given
    derives = inputs.derives if inputs else config.data.derived_categories not in ("auto", 0)
    fingerprint = fingerprint_of(sources, config, encoder, door, derives=derives)
    version = version_place(out, fingerprint)
    if is_made(version, fingerprint, config):
        point(out, version)
        logger.info("%s exists already, made from the same input and settings", out)
        return summary(out, started, is_reused=True)
    check_encoder(encoder_path)
    with building(out) as work:
        if on_ray:
            start_ray(config)
        with _explained_failures():
            inputs = inputs or _generate(work, config, door)
            manifest = _build(inputs, config, work, encoder_path, encoder, on_ray=on_ray)
        complete = Manifest(
            **manifest,
            name=data_name(config),
            fingerprint=fingerprint,
            sources=sources,
            encoder=encoder,
            pseudonyms=door.pseudonyms.check if door.pseudonyms else "",
        )
        for name in ("counts", "traces", "source"):
            shutil.rmtree(work / name, ignore_errors=True)
        write_json(work / "manifest.json", complete.model_dump(mode="json"), indent=1)
        check_forgotten(out, door)
        publish(out, work, fingerprint)
    return summary(out, started, is_reused=False)


def check_forgotten(out: Path, door: Door) -> None:
    """Refuse to replace a data set in which users were forgotten meanwhile.

    Raises:
        UserError: the data set has tombstones that this process does not know.
    """
    if read_tombstones(out).joined(door.tombstones) != door.tombstones:
        raise UserError(
            f"data.out={out}: `recdiv forget` removed users while this command ran; run it again"
        )


def data_name(config: Config) -> str:
    """Return `data.name`, or a name from the path of the click log."""
    if config.data.name or config.data.source == "demo":
        return config.data.name or "demo"
    parts = [p for p in re.split(r"[/\\]", config.data.clicks) if p and not re.search(r"[*?\[]", p)]
    stems = [re.split(r"\.(?=[a-z])", part, maxsplit=1)[0] for part in reversed(parts)]
    return next((s for s in stems if s and s.lower() not in GENERIC_NAMES), "clicks")


def find_target(config: Config, default: str = "") -> Path:
    """Return the path of the link that a preparation makes or replaces.

    An empty `default` is `runs/prepared/<name>`.

    Raises:
        UserError: no data set can be written there.
    """
    check_run_name(config.data.name, "data.name")
    given = config.data.out or default or str(Path("runs", "prepared", data_name(config)))
    if "://" in given:
        raise UserError(f"data.out={given} must be a directory that all workers see, not a URI")
    out = find_view(output_path(given, "data.out"))
    is_free = out.is_symlink() or not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not is_free:
        raise UserError(
            f"data.out={given} exists and is not the link of a prepared data set; give another path"
        )
    return out


def _demo_sources(config: Config) -> tuple[dict[str, str | int], ...]:
    digest = hashlib.sha256()
    for path in sorted(Path(shop.__file__).parent.iterdir()):
        if path.suffix in (".py", ".yaml"):
            digest.update(path.read_bytes())
    source: dict[str, str | int] = {"path": "built-in shop", "sha256": digest.hexdigest()}
    return (source | {"num_events": config.data.demo_events, "seed": config.seed},)


@dataclass(frozen=True)
class _Inputs:
    """Checked input; `derives` says whether categories are derived from texts."""

    raw: catalogue.RawCatalogue
    log: events.ClickLog
    sources: tuple[dict[str, str | int], ...]
    derives: bool
    clicks: Sequence[SourceFile]
    items_from_log: bool


def _open(given: Given, door: Door) -> _Inputs:
    """Check the input as far as possible without Ray."""
    config = given.config
    raw = read_items(given.items, given.clicks, config)
    log = events.open_log(given.clicks, raw.item_ids, config, door)
    choose_protocol(config, log.has_timestamps)
    check_retention(config.data.retention_days, has_timestamps=log.has_timestamps)
    for name in ("val_from", "test_from"):
        if text := getattr(config.split, name):
            parse_cut(text, f"split.{name}")
    derives = derived_categories.is_wanted(
        catalogue.category_texts(raw.table),
        catalogue.make_texts(raw.table, config.model.text.fields),
        config.data.derived_categories,
    )
    sources = describe_sources([*given.clicks, *given.items, *given.beside])
    return _Inputs(raw, log, sources, derives, given.clicks, not given.items)


def _generate(work: Path, config: Config, door: Door) -> _Inputs:
    from recdiv_core.shop.generate import generate

    clicks, items = generate(
        work / "source",
        num_events=config.data.demo_events,
        seed=config.seed,
        words=config.data.demo_queries,
    )
    if (work / "source" / "truth").is_dir():
        (work / "source" / "truth").rename(work / "truth")
        door.rename_users(work / "truth")
    made = (list_files(str(clicks), "data.clicks"), list_files(str(items), "data.items"))
    return _open(Given(config, *made, []), door)


def read_items(
    files: Sequence[SourceFile], click_files: Sequence[SourceFile], config: Config
) -> catalogue.RawCatalogue:
    """Read the items of a catalogue, or those of the log if there is no catalogue.

    Raises:
        UserError: a column is missing, no row is usable, or too many rows are broken.
    """
    if not files:
        return items.read_items_of_log(click_files, config)
    raw = items.read_catalogue(files, config)
    counts = outcomes.RowCounts(num_rows=raw.num_rows, kept=len(raw.table))
    for reason, rows in raw.rejected.items():
        counts.rejected[reason] = len(rows)
        counts.examples[reason] = f"row {rows[0][0] % readers.FILE_STRIDE}"
    counts.check()
    outcomes.check_rejected(counts, config.data.max_quarantined, config, "data.items")
    if not len(raw.table):
        raise UserError(f"data.items={config.data.items} holds no usable row")
    return raw


def encoder_source(config: Config) -> tuple[str, EncoderSource]:
    """Return the path or hub name of the encoder, and how the data set uses it.

    Raises:
        UserError: the encoder is missing, or its pooling is not known.
    """
    from recdiv_core.models.encoder_description import describe_encoder
    from recdiv_core.models.text_encoder import encoder_sha256, resolve_encoder

    text = config.model.text
    path = resolve_encoder(text.encoder)
    pooling = None if text.pooling == "auto" else text.pooling
    own = describe_encoder(path, text.encoder, pooling)
    source = EncoderSource(
        name=text.encoder,
        sha256=encoder_sha256(path),
        max_tokens=min(text.max_tokens, own.max_tokens),
        fields=text.fields,
        pooling=own.pooling,
        query_prefix=own.query_prefix if text.query_prefix == "auto" else text.query_prefix,
        passage_prefix=own.passage_prefix if text.passage_prefix == "auto" else text.passage_prefix,
    )
    return path, source


@contextmanager
def _explained_failures() -> Iterator[None]:
    """Turn unreadable files into a UserError: Ray wraps the errors of tasks."""
    from ray.exceptions import RayTaskError

    try:
        yield
    except RayTaskError as error:  # first: the error of a task is of both types
        if isinstance(error.cause, readers.UnreadableFileError):
            raise UserError(str(error.cause).partition("\n")[0]) from None
        raise RuntimeError("a task of prepare failed") from error
    except readers.UnreadableFileError as error:
        raise UserError(str(error).partition("\n")[0]) from None


def _build(
    inputs: _Inputs,
    config: Config,
    work: Path,
    encoder_path: str,
    encoder: EncoderSource,
    *,
    on_ray: bool,
) -> dict[str, Any]:
    """Write all files except the manifest; return its counts and settings."""
    raw, log = inputs.raw, inputs.log
    protocol = choose_protocol(config, log.has_timestamps)
    logger.info("reading %s, split %s", counted(len(log.units), "part"), protocol)
    rows = staging.stage_shards(log, raw.item_ids, config, work, on_ray=on_ray)
    logger.info("%d rows read, %d quarantined", rows.num_rows, rows.rejected.total())
    if config.data.retention_days:
        expire(work, config.data.retention_days, log.times, int(config.data.session_gap_s * 1e6))
    times = {"unit": str(log.times)}
    if log.has_timestamps:
        times |= describe_times(work)
        logger.info("times: %s", times)
    _write_log(inputs, config, work)
    seen = traces.merge_traces(sorted((work / "traces").glob("*.npz")), len(raw.table))
    seen.save(work / "stage" / "traces.npz")
    splits = write_splits(
        config,
        protocol,
        seen,
        raw.table,
        work,
        has_queries=QUERY in log.columns,
        has_timestamps=log.has_timestamps,
        on_ray=on_ray,
    )
    names = _write_items(inputs, splits, config, work, encoder_path, encoder, on_ray=on_ray)
    lost = rows.kept - sum(splits.dropped().values()) - splits.num_events
    assert not lost, f"{lost} events of {rows.kept} are in no split and were dropped by no rule"
    by_reason = rows.rejected.copy()
    by_reason.update({reason: len(bad) for reason, bad in raw.rejected.items()})
    left_out = {**rows.dropped, **splits.dropped()}
    outcomes.log_left_out(by_reason, left_out, rows.left_out)
    return {
        "schema_version": SCHEMA_VERSION,
        **splits.describe(),
        "num_items": len(raw.table),
        "quarantined": dict(by_reason),
        "dropped": left_out,
        "files": tuple(staging.count_files(work / "counts", log.units)),
        "times": times,
        "has_timestamps": log.has_timestamps,
        "categories": tuple(names),
        "categories_from": "texts" if inputs.derives else "catalogue",
        "fragment_rows": config.data.fragment_rows,
        "settings": deciding_settings(config),
        "seed": config.seed,
        "versions": find_versions(),
    }


def _write_log(inputs: _Inputs, config: Config, work: Path) -> None:
    """Write what the log was read from, and the rejected rows of the catalogue."""
    for reason, rejected in inputs.raw.rejected.items():
        write_rejected_items(reason, rejected, config, work)
    if inputs.log.door.tombstones:
        write_json(work / TOMBSTONES, inputs.log.door.tombstones.as_json(), indent=1)
    files = [redact(file.path) for file in inputs.clicks]
    kept = {"files": files, "columns": inputs.log.columns, "items_from_log": inputs.items_from_log}
    write_json(work / LOG, kept)


def _write_items(
    inputs: _Inputs,
    splits: Splits,
    config: Config,
    work: Path,
    encoder_path: str,
    encoder: EncoderSource,
    *,
    on_ray: bool,
) -> list[str]:
    """Write the catalogue, the tokens of items and queries, and the audit.

    Returns:
        Names of the categories.
    """
    table, queries = inputs.raw.table, splits.queries
    texts = catalogue.make_texts(table, config.model.text.fields)
    catalogue.write_tokens(work, texts, queries, encoder_path, encoder, on_ray=on_ray)
    items_and = counted(len(texts), "item"), counted(len(queries), "query", "queries")
    logger.info("tokenised %s and %s", *items_and)
    tokenizer = save_own(work, texts, queries, encoder_path, encoder)
    of_texts = audit_tokens(work, {"item texts": texts, "queries": queries}, tokenizer)
    write_audit([*splits.findings, *of_texts], work)
    derived = None
    if inputs.derives:
        derived = derived_categories.derive_categories(
            texts,
            table["title"].combine_chunks(),
            make_item_vectors(work, encoder, encoder_path, on_ray=on_ray),
            config.data.derived_categories,
        )
    return catalogue.write_catalogue(
        inputs.raw,
        splits.popularity_V,
        config.data.category_level,
        work / "catalogue.parquet",
        derived,
    )


def find_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a data set."""
    names = ("recdiv", "ray", "pyarrow", "transformers")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }


def write_rejected_items(
    reason: str, rejected: Sequence[tuple[int, Any]], config: Config, work: Path, mark: str = ""
) -> None:
    """Write the rejected rows of a catalogue to the quarantine; `mark` tells appends apart."""
    table = outcomes.make_quarantine([(reason, place, row) for place, row in rejected])
    name = re.sub(r"\W+", "-", f"{mark}{'-' if mark else ''}{reason}")
    outcomes.write_quarantine(
        table, config.data.items, work / "quarantine" / f"items-{name}.parquet"
    )


def summary(out: Path, started: float, *, is_reused: bool) -> dict[str, object]:
    """Return what `prepare` prints."""
    manifest = read_manifest(out)
    return {
        "prepared": str(out),
        "num_users": manifest.num_users,
        "num_items": manifest.num_items,
        "num_events": manifest.num_events,
        "quarantined": sum(manifest.quarantined.values()),
        "num_examples": manifest.num_examples,
        "split": manifest.split["protocol"],
        "fingerprint": manifest.fingerprint,
        "is_reused": is_reused,
        "seconds": round(time.monotonic() - started, 1),
    }
