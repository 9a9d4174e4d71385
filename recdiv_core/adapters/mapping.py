"""Derive the settings that read the files of a shop, with reasons and open questions.

look.py decides which files are the log and the catalogue; guess.py guesses the role of a column. An
ambiguous setting becomes a question with its possible answers.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from recdiv_core.adapters import by_values, guess
from recdiv_core.adapters.guess import Column, Guess
from recdiv_core.formats.csv_files import TAB_EXTENSIONS
from recdiv_core.formats.readers import cut_units, read_unit
from recdiv_core.formats.sniff import SAMPLE_ROWS, Sniffed
from recdiv_core.formats.values import as_text
from recdiv_core.storage.places import name_of
from recdiv_core.wording import counted

MAX_IDS: Final = 1_000_000
"""Largest number of catalogue ids that are compared with the ids of the log."""
LEAST_DISTINCT: Final = 0.9
"""Least share of different item ids among the rows of a catalogue."""


@dataclass(frozen=True)
class Question:
    """A question that the files do not answer."""

    text: str
    answers: tuple[tuple[str, object], ...]


@dataclass
class Findings:
    """Settings and open questions.

    `settings` and their reasons in `notes` have dotted keys; `table` has lines for people: (file or
    column, role, evidence).
    """

    settings: dict[str, object] = field(default_factory=dict[str, object])
    notes: dict[str, str] = field(default_factory=dict[str, str])
    questions: list[Question] = field(default_factory=list[Question])
    table: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    def set(self, key: str, value: object, note: str = "") -> None:
        """Record a setting and its reason."""
        self.settings[key] = value
        if note:
            self.notes[key] = note


@dataclass(frozen=True)
class Group:
    """Files with the same columns.

    `log` and `items` map roles to guessed columns, if the files are a log or a catalogue.
    """

    files: tuple[str, ...]
    sample: Sniffed
    columns: tuple[Column, ...]
    log: dict[str, Guess]
    items: dict[str, Guess]

    @property
    def num_rows(self) -> int:
        """Number of rows, or of events in lists, of the sample."""
        return max((len(column.values) for column in self.columns), default=0)

    @property
    def log_score(self) -> float:
        """Score of the group as a log of events; below 0 = not a log."""
        if not {"user_id", "session_id"} & set(self.log) or "item_id" not in self.log:
            return -1.0
        wanted = ("timestamp", "user_id", "item_id", "event", "session_id", "rating")
        repeats = 1.0 if self._share_distinct(self.log["item_id"]) < LEAST_DISTINCT else 0.0
        return sum(self.log[name].score for name in wanted if name in self.log) + repeats

    @property
    def items_score(self) -> float:
        """Score of the group as a catalogue; below 0 = not a catalogue."""
        if not {"title", "category", "brand"} & set(self.items) or "item_id" not in self.items:
            return -1.0
        if self._share_distinct(self.items["item_id"]) < LEAST_DISTINCT:
            return -1.0
        return sum(guessed.score for guessed in self.items.values())

    @property
    def why_no_catalogue(self) -> str:
        """Reason why a file with a column of item ids and titles is no catalogue, or empty."""
        if not {"title", "category", "brand"} & set(self.items) or "item_id" not in self.items:
            return ""
        ids = self.items["item_id"]
        if self._share_distinct(ids) >= LEAST_DISTINCT:
            return ""
        num_rows = counted(len(self.column(ids.column).values), "row")
        return (
            f"a catalogue has one row per item, and {ids.column!r} has "
            f"{counted(self.column(ids.column).num_distinct, 'value')} in {num_rows}"
        )

    def _share_distinct(self, guessed: Guess) -> float:
        values = self.column(guessed.column).values
        return self.column(guessed.column).num_distinct / max(len(values), 1)

    def column(self, name: str) -> Column:
        """Return the column of a name."""
        return next(column for column in self.columns if column.name == name)


def _set_place(findings: Findings, group: Group, paths: Sequence[str], key: str, role: str) -> None:
    """Record the files of a group."""
    place, number = _place_of(group.files, paths), len(group.files)
    said = f"{number} files, {group.sample.describe()}" if number > 1 else group.sample.describe()
    findings.set(key, place, said)
    findings.table.append((name_of(place), role, said))


def _set_text(findings: Findings, sample: Sniffed, prefix: str) -> None:
    """Record the text format of a file where it differs from the default."""
    text = sample.file.text
    if sample.file.format != "csv" or text is None:
        return
    name = re.sub(r"\.(gz|bz2|xz|zst|zip)$", "", sample.name.lower())
    usual = "\t" if name.endswith(TAB_EXTENSIONS) else ","
    if text.separator != usual:
        findings.set(f"{prefix}separator", text.separator)
    if text.encoding != "utf-8":
        findings.set(f"{prefix}encoding", text.encoding)


def _set_header(
    findings: Findings, group: Group, roles: dict[str, Guess], prefix: str
) -> dict[str, Guess]:
    """Invent column names for a file without a header; return the roles under these names."""
    if group.sample.has_header:
        return roles
    ours = {guessed.column: role for role, guessed in roles.items()}
    names = [ours.get(name, name) for name in group.sample.columns]
    findings.set(f"{prefix}header", names, "the file has no column names; these are guesses")
    for role, other in (("user_id", "item_id"), ("item_id", "user_id")):
        if role in roles and roles[role].evidence == by_values.BY_PLACE:
            swapped = [{role: other, other: role}.get(name, name) for name in names]
            findings.questions.append(
                Question(
                    f"Is {roles[role].column} the {role}? The columns have no names, so its "
                    "position was used.",
                    ((f"{prefix}header", names), (f"{prefix}header", swapped)),
                )
            )
            break
    return {role: Guess(role, g.evidence, g.score) for role, g in roles.items()}


def describe_log(log: Group, paths: Sequence[str], findings: Findings, *, has_items: bool) -> None:
    """Record the settings of the log; without a catalogue also its columns of item attributes."""
    _set_place(findings, log, paths, "data.clicks", "click log")
    _set_text(findings, log.sample, "data.")
    roles = dict(log.log)
    if not has_items:
        taken = {guessed.column for guessed in roles.values()}
        extra = guess.guess_roles(
            [c for c in log.columns if c.name not in taken], guess.OF_ITEMS[1 : -len(guess.DATES)]
        )
        roles |= {role: guessed for role, guessed in extra.items() if role not in roles}
    if "user_id" not in roles:
        roles["user_id"] = roles["session_id"]
        _ask_for_user(log, findings)
    by_role = roles
    if log.sample.has_header:
        _ask_about_names(log, roles, by_values.IDS, "data.columns", findings)
    roles = _set_header(findings, log, roles, "data.")
    for role, guessed in roles.items():
        if guessed.column != role:
            findings.set(f"data.columns.{role}", guessed.column, guessed.evidence)
        findings.table.append((f"  {guessed.column}", role, guessed.evidence))
    _describe_times(log, by_role, findings)
    if "event" in by_role:
        _describe_kinds(log.column(by_role["event"].column), findings)


def _ask_for_user(log: Group, findings: Findings) -> None:
    session = log.log["session_id"].column
    taken = {guessed.column for role, guessed in log.log.items() if role != "session_id"}
    others = [column.name for column in log.columns if column.name not in taken]
    findings.questions.append(
        Question(
            f"Which column names the user? No column has such a name. {session!r} is used, so each "
            "session counts as a user.",
            tuple(("data.columns.user_id", name) for name in others[:6]),
        )
    )


def _ask_about_names(
    group: Group,
    roles: Mapping[str, Guess],
    asked: Sequence[str],
    table: str,
    findings: Findings,
) -> None:
    """Ask about columns whose role was guessed although we do not know their names."""
    taken = {g.column for role, g in roles.items() if role not in asked}
    others = [column.name for column in group.columns if column.name not in taken]
    for role in asked:
        if role in roles and roles[role].evidence.startswith(
            (by_values.BY_PLACE, by_values.BY_TEXT)
        ):
            chosen = roles[role].column
            names = [chosen, *(name for name in others if name != chosen)]
            findings.questions.append(
                Question(
                    f"Is {chosen!r} the {role}? No column has a name that we know.",
                    tuple((f"{table}.{role}", name) for name in names[:6]),
                )
            )


def _describe_times(log: Group, roles: dict[str, Guess], findings: Findings) -> None:
    if "timestamp" not in roles:
        ids = {roles[role].column for role in ("user_id", "item_id") if role in roles}
        others = [column.name for column in log.columns if column.name not in ids]
        names = others or [column.name for column in log.columns]
        findings.questions.append(
            Question(
                "Which column holds the time or the order of an event? No column holds times in a "
                "format that we know. If one has another format, also set data.timestamp_format, "
                "such as '%d.%m.%Y %Hh%M'. If none has times, add a column that numbers the "
                "events, the oldest first.",
                tuple(("data.columns.timestamp", name) for name in names[:6]),
            )
        )
        return
    values = log.column(roles["timestamp"].column).values.drop_null().slice(0, 2000)
    if guess.share_like(values, guess.DAY) > 0.5:
        for column in log.columns:
            if guess.share_like(column.values.drop_null(), guess.CLOCK) > 0.5:
                said = "a time of day, not read: write it behind the date, to order a day's events"
                findings.table.append((f"  {column.name}", "-", said))
    chosen, other = guess.guess_time_format(values.to_pylist())
    if chosen:
        findings.set("data.timestamp_format", chosen)
    if other:
        del findings.settings["data.timestamp_format"]
        findings.questions.append(
            Question(
                f"Is {values[0].as_py()!r} a day and a month, or a month and a day? The sample "
                "fits both formats, so choose one.",
                (("data.timestamp_format", chosen), ("data.timestamp_format", other)),
            )
        )


def _describe_kinds(column: Column, findings: Findings) -> None:
    known, counts, unknown = guess.guess_kinds(column)
    said = ", ".join(f"{word} ({number})" for word, number in list(counts.items())[:12])
    if known:
        findings.set("data.event_names", known, f"kinds of event in the sample: {said}")
    for word in unknown[:8]:
        rows = counted(counts[word], "row")
        kinds = ("click", "cart", "purchase", "impression", "drop")
        findings.questions.append(
            Question(
                f"What is the kind of event {word!r} ({rows} of the sample)?",
                tuple((f"data.event_names.{word}", kind) for kind in kinds),
            )
        )


def describe_items(
    items: Group,
    wanted: pa.Array,
    paths: Sequence[str],
    expected: Mapping[str, str],
    findings: Findings,
) -> None:
    """Record the settings of the catalogue.

    `wanted` are the item ids in the sample of the log; `expected` maps our names to column names
    that need no setting.
    """
    _set_place(findings, items, paths, "data.items", "catalogue")
    _set_text(findings, items.sample, "data.item_")
    roles, joined = join(items, wanted)
    by_role = roles
    if items.sample.has_header:
        _ask_about_names(items, roles, ("title", "category"), "data.item_columns", findings)
    roles = _set_header(findings, items, roles, "data.item_")
    columns: dict[str, str] = {}
    for role, guessed in roles.items():
        if guessed.column != expected[role]:
            columns[role] = guessed.column
        findings.table.append((f"  {guessed.column}", role, guessed.evidence))
    if columns:
        findings.set("data.item_columns", columns)
    findings.table.append(("", "", joined[1]))
    findings.notes["data.items"] += f"; {joined[1]}"
    if "title" not in by_role:
        texts = [
            column.name for column in items.columns if column.name != by_role["item_id"].column
        ]
        findings.questions.append(
            Question(
                "Which column of the catalogue holds the title? No column has such a name.",
                tuple(("data.item_columns.title", name) for name in texts[:6]),
            )
        )
    if joined[2] in guess.UNDONE:
        findings.questions.append(
            Question(
                f"How do item ids of the log and the catalogue agree? Only with {joined[2]}, and "
                "`prepare` compares ids as they are written. Write them alike in one of the files, "
                "or choose another column.",
                tuple(("data.item_columns.item_id", column.name) for column in items.columns[:6]),
            )
        )
    elif joined[0] < 0.5:
        findings.questions.append(
            Question(
                f"Do the log and the catalogue use the same item ids? {joined[1]}.",
                tuple(("data.item_columns.item_id", column.name) for column in items.columns[:6]),
            )
        )


def join(items: Group, wanted: pa.Array) -> tuple[dict[str, Guess], tuple[float, str, str]]:
    """Choose the catalogue column that holds most ids of the log as item_id.

    Returns:
        The roles of the columns; the share of the log's ids in the column, in [0, 1], the share as
        text, and the change of the ids that it needs (guess.CHANGES).
    """
    roles = dict(items.items)
    best = (*guess.share_found(wanted, items.column(roles["item_id"].column).values), "")
    for column in items.columns:
        share, change = guess.share_found(wanted, column.values)
        if share > best[0] + 0.2 and column.num_distinct > 0.9 * len(column.values):
            best = (share, change, column.name)
    if best[2]:
        roles = {role: g for role, g in roles.items() if g.column != best[2] or role == "item_id"}
        roles["item_id"] = Guess(best[2], "it holds the ids of the log", 3.0)
    share, change, _ = best
    if share < 0.95 and len(items.sample.table) >= SAMPLE_ROWS:
        ids, is_whole = _more_ids(items, roles["item_id"].column)
        share, change = guess.share_found(wanted, ids)
        if not is_whole and share < 0.95:
            said = f"{share:.0%} of the log's item ids in the sample are in the catalogue's first "
            return roles, (1.0, f"{said}{len(ids):,} rows", "")
    how = f" ({change})" if change else ""
    said = f"{share:.0%} of the log's item ids in the sample are in the catalogue{how}"
    return roles, (share, said, change)


def _more_ids(items: Group, column: str) -> tuple[pa.Array, bool]:
    """Return up to about MAX_IDS ids of the first catalogue file, and whether they are all ids."""
    found: list[pa.Array] = []
    for unit in cut_units([items.sample.file], "FILE"):
        for batch in read_unit(unit, {"item_id": column}):
            found.append(as_text(batch.table["item_id"]))
            if sum(map(len, found)) >= MAX_IDS:
                return pa.concat_arrays(found), False
    return pa.concat_arrays(found), len(items.files) == 1


def _place_of(files: Sequence[str], paths: Sequence[str]) -> str:
    """Return the path, directory or glob that names exactly these files."""
    if len(files) == 1:
        return files[0]
    heads = [path.split("/")[:-1] for path in files]
    shared = [parts[0] for parts in zip(*heads, strict=False) if len(set(parts)) == 1]
    root = "/".join(shared) or "/"
    below = [path for path in paths if path.startswith(f"{root}/")]
    if set(below) == set(files):
        return root
    names = [name_of(path) for path in files]
    start = _common_start(names)
    end = _common_start([name[::-1] for name in names])[::-1]
    pattern = f"{root}/{start}*{end}"
    matched = {path for path in paths if fnmatch.fnmatch(path, pattern)}
    return pattern if matched == set(files) else root


def _common_start(names: list[str]) -> str:
    return re.sub(r"[0-9]+$", "", os.path.commonprefix(names))  # noqa: RUF071, of names, not paths
