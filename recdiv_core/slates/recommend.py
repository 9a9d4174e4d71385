"""Make slates for every user and write them as Parquet, for a shop to ship.

Slates are made in the same batches as in evaluation. The users are cut into fixed parts. Ray Data
sends the parts to actors that hold the model, and each actor writes a part atomically. After a
killed job the same command makes only the missing parts, so no user is missing or written twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from recdiv_core.config import Config, flatten
from recdiv_core.data.catalogue import load_catalogue
from recdiv_core.data.queries import load_queries
from recdiv_core.data.reading import SplitRows
from recdiv_core.data.requests import REQUESTS, ensure_requests
from recdiv_core.data.text_vectors import ensure_vectors
from recdiv_core.data.versions import with_version
from recdiv_core.errors import UserError
from recdiv_core.formats.timestamps import show_time
from recdiv_core.rerank import NOVELTIES
from recdiv_core.schema import Manifest, check_unchanged
from recdiv_core.slates.carry import carried_place
from recdiv_core.slates.checkpoint_copies import local_checkpoint
from recdiv_core.slates.eligibility import (
    check_any,
    count_targets,
    eligibility_of,
    fitting,
    may_limit,
    request_time,
    with_whole_paths,
)
from recdiv_core.slates.files import (
    describe_short,
    freed_share,
    part_path,
    remove_unfinished,
    short_slates,
)
from recdiv_core.slates.inputs import check_inputs, start_with_gpu
from recdiv_core.slates.parts import PART_BATCHES, PartTask, make_parts
from recdiv_core.slates.search_requests import (
    SPLIT,
    SearchRequests,
    check_reads_queries,
    read_requests,
    with_stored_users,
    write_requests,
)
from recdiv_core.storage.given_paths import output_path
from recdiv_core.storage.whole_files import write_json

logger = logging.getLogger(__name__)

PLAN: Final = "_recommend.json"
"""File that describes a directory of slates; recommend writes only to directories that have it.
Readers of Parquet directories skip names that start with an underscore."""


HELD_OUT: Final = ("val", "test")
"""Splits whose requests have times of their own."""
KEPT: Final = ("model.", "rerank.", "eval.k", "eval.filter_seen", "eval.batch_size")
"""Sections of settings that determine the slates; the dials replace `rerank.diversity`."""


def recommend(
    config: Config,
    checkpoint: str | Path,
    out: Path,
    *,
    users: str,
    dials: Sequence[float] = (),
    explained: bool = False,
    queries: str = "",
) -> dict[str, Any]:
    """Make slates on `scaling.num_workers` Ray Data actors.

    Args:
        config: `data.prepared`, `eval`, `rerank`, `scaling`; see `inputs.checkpoint_config`.
        checkpoint: directory of the checkpoint, path or URI.
        out: output directory of `part-*.parquet` with rows of SLATE; a grid has one directory
            `diversity=D/` for each dial.
        users: `all` = complete histories of all users; or the name of a split.
        dials: dials of the re-ranker, made in one pass; none = that of the config.
        explained: whether to add the relevance and novelty of each item, the rule that decided, and
            what lift and logit adjustment added to its score.
        queries: file of queries to answer instead of the users, see `read_requests`; "" = none.

    Returns:
        `{"slates", "num_users", "num_parts", "dials", "num_short_slates", "num_empty_slates",
        "users_per_s"}`; the last is None if all parts existed. Slates are short if they have fewer
        than `eval.k` items; the empty ones are among them. Where some items may not be shown also
        `eligible`: `at` (time of the requests, None = that of each held-out event), `num_items`
        that may be shown, and `freed`, the share of places by score that other items would hold.

    Raises:
        UserError: files, data, checkpoint and settings do not fit together, or `out` holds
            something else.
    """
    config = with_whole_paths(with_version(config))
    prepared, manifest = check_inputs(
        config, checkpoint, swept=("rerank.diversity",) if dials else ()
    )
    _check_dials(config, dials)
    _check_asked(config, prepared, manifest, users, queries, explained=explained)
    requests = _requests(queries, config, prepared, manifest) if queries else None
    asked = users if requests is None else f"queries {requests.sha256[:16]}"
    eligible = _eligible(config, prepared, manifest, asked)
    out, is_grid = output_path(out, "--out").absolute(), bool(dials)
    dials = list(dials) or [config.rerank.diversity]
    weights = local_checkpoint(checkpoint, "--checkpoint") / "model.pt"
    plan = _plan(config, weights, manifest, asked, dials, explained)
    _open_directory(out, plan | ({} if eligible is None else {"eligible": eligible}))

    start_with_gpu(config, checkpoint)
    ensure_vectors(prepared, manifest)
    source, split = _write_requests(users, requests, out, prepared, manifest)
    num_users = SplitRows(source, split).num_rows
    part_users = PART_BATCHES * config.eval.batch_size
    places = [out / f"diversity={dial:g}" for dial in dials] if is_grid else [out]
    parts = range(-(-num_users // part_users))
    left = [part for part in parts if not all(part_path(p, part).is_file() for p in places)]
    if len(left) < len(parts):
        logger.info("parts that exist already: %d of %d", len(parts) - len(left), len(parts))
    remove_unfinished(out)
    place = carried_place(checkpoint, prepared, manifest)
    task = PartTask(config, place, source, split, part_users, places, dials, explained)
    rate = make_parts(task, left, lambda: check_unchanged(prepared, manifest))
    remove_unfinished(out)  # of workers that were lost
    result = {
        "slates": str(out),
        "num_users": num_users,
        "num_parts": len(parts),
        "dials": dials,
        **_count_short(places, config.eval.k, len(places) * num_users),
        "users_per_s": rate,
    }
    if eligible is not None:
        facts = {name: eligible[name] for name in ("at", "num_items")}
        result["eligible"] = {**facts, "freed": freed_share(places[0], config.eval.k)}
    return result


def _check_asked(
    config: Config,
    prepared: Path,
    manifest: Manifest,
    users: str,
    queries: str,
    *,
    explained: bool,
) -> None:
    """Check whose slates are asked for, and whether they can be explained.

    Raises:
        UserError: the data set has no such users, the model reads no queries, or the re-ranker does
            not choose place by place.
    """
    if explained and config.rerank.method not in NOVELTIES:
        raise UserError(
            f"--explain: rerank.method={config.rerank.method} does not choose place by place; "
            f"allowed: {', '.join(NOVELTIES)}"
        )
    if queries:
        if users != "all":
            raise UserError(f"--users {users} and --queries: give one of them")
        check_reads_queries(config, len(load_queries(prepared)))
    elif users != "all" and not manifest.num_examples.get(users):
        raise UserError(f"--users {users}: data.prepared={prepared} holds no {users} example")


def _requests(queries: str, config: Config, prepared: Path, manifest: Manifest) -> SearchRequests:
    """Read a file of queries; their conditions name attributes of the catalogue."""
    catalogue = load_catalogue(prepared)
    requests = read_requests(queries, lambda text: fitting(None, catalogue, text))
    return with_stored_users(requests, manifest, config.data.pseudonymise)


def _write_requests(
    users: str, requests: SearchRequests | None, out: Path, prepared: Path, manifest: Manifest
) -> tuple[Path, str]:
    """Write the requests that the data set does not hold; return where they are read.

    Returns:
        Directory and split of the requests.
    """
    if (users == "all" and requests is None) or (requests is not None and requests.names_users):
        ensure_requests(prepared, manifest)
    if requests is None:
        return prepared, REQUESTS if users == "all" else users
    item_ids = load_catalogue(prepared).item_ids
    write_requests(requests, out, prepared, item_ids, manifest.fragment_rows)
    return out, SPLIT


def _count_short(places: Sequence[Path], k: int, num_slates: int) -> dict[str, int]:
    """Return the numbers of short and of empty slates, and warn of them."""
    num_short, num_empty = short_slates(places, k)
    if num_short:
        logger.warning("%s", describe_short(num_short, num_empty, num_slates, k))
    return {"num_short_slates": num_short, "num_empty_slates": num_empty}


def _eligible(
    config: Config, prepared: Path, manifest: Manifest, users: str
) -> dict[str, Any] | None:
    """Return which items may be shown: `items`, a digest, `at` and `num_items`; None = all items.

    Raises:
        UserError: `eligible.at` is no time, or no item may be shown then.
    """
    at = request_time(config, manifest)
    is_limited = may_limit(config, prepared)
    found = eligibility_of(config, load_catalogue(prepared), manifest) if is_limited else None
    if config.eligible.at and (found is None or found.dates is None):
        logger.warning("eligible.at: no effect, because no item has a date (eligible.dates)")
    if found is None:
        return None
    if users in HELD_OUT and not config.eligible.at:
        at, num_items = None, count_targets(prepared, users, found)["num_items"]
    else:
        num_items = check_any(found, at)
    shown = None if at is None else show_time(at)
    logger.info(
        "%d of %d items may be shown at %s", num_items, manifest.num_items, shown or "the requests"
    )
    return {"items": found.digest(), "at": shown, "num_items": num_items}


def dials_of(text: str) -> list[float]:
    """Parse `--dial`.

    Raises:
        UserError: the text is no list of numbers with commas.
    """
    try:
        return [float(dial) for dial in text.split(",")] if text else []
    except ValueError:
        raise UserError(f"--dial {text}: allowed are numbers in [0, 1], as in 0,0.1,1") from None


def _check_dials(config: Config, dials: Sequence[float]) -> None:
    if dials and config.rerank.method == "none":
        raise UserError("--dial: rerank.method=none has no dial; set rerank.method")
    names = [f"{dial:g}" for dial in dials]
    for dial in dials:
        if not 0 <= dial <= 1:
            raise UserError(f"--dial {dial:g} must lie in [0, 1]: 0 = relevance, 1 = diversity")
    if len(set(names)) < len(names):
        raise UserError(f"--dial {','.join(names)} names a dial twice")


def _plan(
    config: Config,
    weights: Path,
    manifest: Manifest,
    users: str,
    dials: Sequence[float],
    explained: bool,
) -> dict[str, Any]:
    """Return the description of the slates, as JSON values."""
    settings = {
        key: value
        for key, value in flatten(config).items()
        if key.startswith(KEPT) and key != "rerank.diversity"
    }
    plan = {
        "checkpoint": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "manifest_fingerprint": manifest.fingerprint,
        "users": users,
        "dials": list(dials),
        "explained": explained,
        "part_batches": PART_BATCHES,
        **settings,
    }
    return json.loads(json.dumps(plan))


def _open_directory(out: Path, plan: Mapping[str, Any]) -> None:
    """Make the directory, or check that its slates have the same description.

    Raises:
        UserError: the directory holds other slates or other files.
    """
    path = out / PLAN
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a directory")
    if out.is_dir() and any(out.iterdir()):
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(
                f"--out {out} holds files that `recdiv recommend` did not write; give a new "
                "directory"
            ) from None
        changed = [
            f"{key} was {before.get(key)!r}, is {plan.get(key)!r}"
            for key in sorted({*before, *plan})
            if before.get(key) != plan.get(key)
        ]
        if changed:
            raise UserError(
                f"--out {out} holds other slates: {'; '.join(changed)}. Give a new directory, or "
                "the same settings to go on"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, plan, indent=1)
