"""What an audit can find: the table of findings, how bad each is, and what to do about it.

The checks are elsewhere: preparing.py for prepare, traces.py for the raw log, prepared.py for a
prepared data set. A finding that was looked for and not there counts 0 and is ok; one that could
not be looked for is absent. Findings add up over shards by their name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from recdiv_core.errors import UserError

Severity = Literal["ok", "info", "warning", "severe"]

SEVERITIES: Final[tuple[Severity, ...]] = ("ok", "info", "warning", "severe")
NUM_EXAMPLES: Final = 5

AGAIN: Final = "the files are not what prepare wrote: run pipelines.prepare again"

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
        "give data.columns.timestamp real times, if the shop has them",
    ),
    "leave_last_out: train holds events later than other users' test events": (
        "warning",
        "use split.protocol=temporal for figures to decide by; this one compares with literature",
    ),
    "ties in time across a cut": (
        "warning",
        "the order in a tie is the file's: use finer times, or split.protocol=temporal",
    ),
    "items seen before they were available": (
        "warning",
        "mend the catalogue's available_from or the log's clock; it may be a date of relisting",
    ),
    "users at an inhuman rate": (
        "warning",
        "take them out of the click log, or out of data.events, before it teaches their taste",
    ),
    "click rate that depends on the position": (
        "warning",
        "clicks are places as much as taste: mix positions at random for a share of the slates, "
        "or weigh clicks by the inverse of their position's rate",
    ),
    "users with identical histories": (
        "warning",
        "join the accounts in the click log: one person in train and test flatters the figures",
    ),
    "items that share their title": (
        "info",
        "join them into one item, or read coverage as that of ids and not of goods",
    ),
    "items a tiny edit apart": (
        "info",
        "variants of one product: join them, or cap them a slate by brand or category",
    ),
    "items of different titles with identical text vectors": (
        "info",
        "the encoder cannot tell them apart: take one that reads their script, more "
        "model.text.max_tokens or more model.text.fields",
    ),
    "categories without a train event": (
        "info",
        "nothing is learnt of them, and category_coverage counts them in its denominator",
    ),
}

OF_A_SPLIT: Final[Mapping[str, tuple[Severity, str]]] = {
    "held-out events in {split} histories": ("severe", AGAIN),
    "cold users in {split}": ("info", "read the figures of cold users beside those of all"),
    "cold items among {split} targets": (
        "info",
        "text is all that is known of them; an id-only model cannot find them",
    ),
    "{split} targets that the user had before": (
        "info",
        "repeat purchases are easy to guess: compare with a baseline that repeats the history",
    ),
    "{split} targets nobody had seen before": (
        "info",
        "no other user had met the item at the time: as cold as an item can be",
    ),
    "{split} targets before their item was available": (
        "warning",
        "mend the catalogue's available_from or the log's clock; it may be a date of relisting",
    ),
    "candidates not yet there at {split} requests": (
        "info",
        "the whole catalogue is ranked, later arrivals too: leave those out of data.items, or "
        "move the cuts later",
    ),
}
"""Findings of val and of test, each by itself."""

CHECKS: Final[Mapping[str, tuple[Severity, str]]] = {
    **ANY,
    **{
        name.format(split=split): check
        for split in ("val", "test")
        for name, check in OF_A_SPLIT.items()
    },
}
"""Name -> how bad it is, and the remedy."""


@dataclass(frozen=True)
class Finding:
    """What was looked for, how often it was found, and a few that show it.

    Attributes:
        name: a name of CHECKS; it says what is counted.
        severity: of a count above 0; a count of 0 is shown as ok.
        count: events, users, items ..., as the name says.
        examples: user ids, item ids or names.
        figures: what the count does not say; they add up over shards too.
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
    """Make a finding of the table."""
    shown = list(examples)[:NUM_EXAMPLES]
    return Finding(name, CHECKS[name][0], int(count), shown, dict(figures or {}))


def merge(parts: Iterable[Sequence[Finding]]) -> list[Finding]:
    """Add the findings of all shards up, by name."""
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
    """Return findings as they stand in `audit.json`; one that counts 0 is ok."""
    rows: list[dict[str, Any]] = []
    for finding in findings:
        row = asdict(finding) | {"severity": finding.severity if finding.count else "ok"}
        if not row["figures"]:
            row.pop("figures")
        rows.append(row | {"remedy": CHECKS[finding.name][1] if finding.count else ""})
    return rows


def from_json(tree: Any, place: str) -> list[Finding]:
    """Return the findings of an `audit.json`, of an older version too.

    Raises:
        UserError: it is no list of findings.
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
        raise UserError(f"{place} is no audit; run pipelines.prepare again") from None
    return found


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the highest severity of what was found."""
    found = [SEVERITIES.index(finding.severity) for finding in findings if finding.count]
    return SEVERITIES[max(found, default=0)]
