"""The table of findings: name, severity and remedy of everything that an audit can find.

The checks are elsewhere: preparing.py and busy_users.py for prepare, traces.py for the raw log,
prepared.py for a prepared data set. A finding with count 0 was checked and is ok. A missing finding
could not be checked. Findings add up over shards by name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from recdiv_core.errors import UserError
from recdiv_core.storage.whole_files import write_json

logger = logging.getLogger(__name__)

Severity = Literal["ok", "info", "warning", "severe"]

SEVERITIES: Final[tuple[Severity, ...]] = ("ok", "info", "warning", "severe")
NUM_EXAMPLES: Final = 5
GRAVE: Final[tuple[Severity, ...]] = ("severe", "warning")
"""Severities that `prepare` logs."""

AGAIN: Final = "the files are not what prepare wrote: run `recdiv prepare` again"

OTHER_ENCODER: Final = (
    "texts in it look alike: set model.text.encoder to a multilingual encoder, such as "
    "intfloat/multilingual-e5-small, and prepare again"
)

ANY: Final[Mapping[str, tuple[Severity, str]]] = {
    "events of the future in train": ("severe", AGAIN),
    "events in two splits": ("severe", AGAIN),
    "users with several rows in a held-out split": ("severe", AGAIN),
    "val and test rows that contradict each other": ("severe", AGAIN),
    "items outside the catalogue": ("severe", AGAIN),
    "popularity that is not the train shards'": ("severe", AGAIN),
    "categories that are not the catalogue's": ("severe", AGAIN),
    "cold-user flags that are wrong": ("severe", AGAIN),
    "figures of the manifest that the files do not bear out": ("severe", AGAIN),
    "figures that prepare's audit counted otherwise": ("severe", AGAIN),
    "order-only log: no check against the clock": (
        "warning",
        "map data.columns.timestamp to a column of real times, if there is one",
    ),
    "leave_last_out: train holds events later than other users' test events": (
        "warning",
        "use split.protocol=temporal for decisions; leave_last_out serves comparisons with papers",
    ),
    "ties in time across a cut": (
        "warning",
        "ties keep the order of the file: use finer times, or split.protocol=temporal",
    ),
    "items seen before they were available": (
        "warning",
        "correct available_from or the clock of the log; the date may be of a relisting",
    ),
    "users at an inhuman rate": (
        "warning",
        "remove these users from the click log, or their kind of event from data.events",
    ),
    "users with a large share of all events": (
        "warning",
        "one id for all visitors without a login, or a robot? They decide popularity and novelty: "
        "give each visit an id of its own, or remove the rows from the click log",
    ),
    "click rate that depends on the position": (
        "warning",
        "clicks depend on the position as much as on taste: randomise positions in some slates, "
        "or weight clicks by the inverse click rate of their position",
    ),
    "users with identical histories": (
        "warning",
        "merge the accounts in the click log: one person in train and test inflates metrics",
    ),
    "items that share their title": (
        "info",
        "merge them into one item, or read coverage as coverage of ids, not of products",
    ),
    "items a tiny edit apart": (
        "info",
        "variants of one product? merge them, or cap them by brand or category in a slate",
    ),
    "items of different titles with identical text vectors": (
        "info",
        "the encoder cannot distinguish them: use an encoder for their script, a larger "
        "model.text.max_tokens or more model.text.fields",
    ),
    "items with a price below 0": (
        "info",
        "a refund, a discount or a correction is no item: leave its rows out, or correct the price",
    ),
    "item texts in a script that the encoder does not know": ("severe", OTHER_ENCODER),
    "queries in a script that the encoder does not know": ("severe", OTHER_ENCODER),
    "categories derived from texts": (
        "info",
        "the shop gives no categories, so metrics of categories are of clusters of texts; map "
        "data.columns.category if there is such a column",
    ),
    "categories without a train event": (
        "info",
        "the model learns nothing about them; category_coverage still counts them",
    ),
}

OF_A_SPLIT: Final[Mapping[str, tuple[Severity, str]]] = {
    "held-out events in {split} histories": ("severe", AGAIN),
    "cold users in {split}": (
        "info",
        "compare the metrics of cold users with the metrics of all users",
    ),
    "cold items among {split} targets": (
        "info",
        "only their text is known; a model without text cannot recommend them",
    ),
    "{split} targets that the user had before": (
        "info",
        "with eval.filter_seen=true slates leave these items out, and they do not count; if "
        "customers buy the same items again, set eval.filter_seen=false, and compare with "
        "model.kind=buy_again",
    ),
    "{split} targets nobody had seen before": (
        "info",
        "no user had an event with the item before the request",
    ),
    "{split} targets before their item was available": (
        "warning",
        "correct available_from or the clock of the log; the date may be of a relisting",
    ),
    "{split} targets not on sale at their request": (
        "warning",
        "evaluation counts them as misses: correct available_from and available_until, or set "
        "eligible.dates=false",
    ),
    "candidates not yet there at {split} requests": (
        "info",
        "items with an available_from are not shown before it; give all items one, or move the "
        "cuts later",
    ),
}
"""Name -> severity and remedy of the findings that exist for val and for test."""

CHECKS: Final[Mapping[str, tuple[Severity, str]]] = {
    **ANY,
    **{
        name.format(split=split): check
        for split in ("val", "test")
        for name, check in OF_A_SPLIT.items()
    },
}
"""Name -> severity and remedy."""


NOT_OF_USERS: Final = ("items ", "item ", "queries ", "categories ", "figures ", "popularity ")
"""Starts of the names of findings whose examples are not user ids."""


@dataclass(frozen=True)
class Finding:
    """One check, its count and a few examples.

    Attributes:
        name: Name in CHECKS; it says what is counted.
        severity: Severity of a count above 0; a count of 0 is shown as ok.
        count: Number of events, users or items, as the name says.
        examples: User ids, item ids or names; at most NUM_EXAMPLES.
        figures: Further numbers by name; they add up over shards too.
    """

    name: str
    severity: Severity
    count: int
    examples: list[str] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)


def find(
    name: str,
    count: int,
    examples: Iterable[str] = (),
    figures: Mapping[str, list[float]] | None = None,
) -> Finding:
    """Make a finding with the severity of the table."""
    shown = list(examples)[:NUM_EXAMPLES]
    return Finding(name, CHECKS[name][0], int(count), shown, dict(figures or {}))


def merge(parts: Iterable[Sequence[Finding]]) -> list[Finding]:
    """Sum the findings of all shards by name."""
    merged: dict[str, Finding] = {}
    for finding in (finding for part in parts for finding in part):
        before = merged.get(finding.name, replace(finding, count=0, examples=[], figures={}))
        examples = sorted({*before.examples, *finding.examples})[:NUM_EXAMPLES]
        merged[finding.name] = replace(
            before,
            count=before.count + finding.count,
            examples=examples,
            figures={
                name: [a + b for a, b in zip(before.figures.get(name, []), values, strict=True)]
                if name in before.figures
                else values
                for name, values in finding.figures.items()
            },
        )
    return list(merged.values())


def to_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return findings as `audit.json` holds them; count 0 is ok."""
    rows: list[dict[str, Any]] = []
    for finding in findings:
        row = asdict(finding) | {"severity": finding.severity if finding.count else "ok"}
        if not row["figures"]:
            row.pop("figures")
        rows.append(row | {"remedy": CHECKS[finding.name][1] if finding.count else ""})
    return rows


def write_audit(findings: Sequence[Finding], work: Path) -> None:
    """Write `audit.json`, and log the findings that need care in one line."""
    write_json(work / "audit.json", to_json(findings), indent=1)
    grave = [each for each in findings if each.count and each.severity in GRAVE]
    if grave:
        said = "; ".join(f"{each.severity}: {each.name} ({each.count})" for each in grave)
        logger.warning("audit: %s. `recdiv audit` shows examples and remedies", said)


def from_json(tree: Any, place: str) -> list[Finding]:
    """Return the findings of an `audit.json`, also from older versions.

    Raises:
        UserError: The file is no list of findings.
    """
    found: list[Finding] = []
    try:
        for row in tree:
            name, count = row["name"], row["count"]
            severity = row["severity"] if count else CHECKS[name][0]
            if name not in CHECKS or severity not in SEVERITIES:
                raise KeyError(name)
            found.append(
                Finding(name, severity, int(count), row["examples"], row.get("figures", {}))
            )
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{place} is no audit; run `recdiv prepare` again") from None
    return found


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the highest severity among findings with a count above 0."""
    found = [SEVERITIES.index(finding.severity) for finding in findings if finding.count]
    return SEVERITIES[max(found, default=0)]
