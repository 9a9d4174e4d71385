"""Which of some files is the click log, which the catalogue, and what settings read them.

Not what one column may be (guess.py) nor the file that is written (shop_config.py). The files are
known by samples (sniff.py). What cannot be told becomes a question with its possible answers.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pyarrow as pa

from recdiv_core.config import ColumnsConfig, Config, override
from recdiv_core.data import guess
from recdiv_core.data.csv_files import TAB_EXTENSIONS
from recdiv_core.data.files import find_paths, list_files
from recdiv_core.data.guess import Column, Guess
from recdiv_core.data.layout_files import find_given
from recdiv_core.data.readers import ROW
from recdiv_core.data.recognise import recognise
from recdiv_core.data.sniff import NAMES, Sniffed, printable, sniff
from recdiv_core.errors import UserError
from recdiv_core.places import is_uri, name_of

SNIFFED_ALIKE: Final = 3
"""Files of one shape of name (`part-0001.csv`) that are looked at; the others count as alike."""
MAX_SNIFFED: Final = 100
NO_DATA: Final = (
    *(".jpg", ".jpeg", ".png", ".gif", ".webp", ".svg", ".pdf", ".html", ".md", ".py", ".ipynb"),
    *(".yaml", ".yml", ".toml", ".sh", ".log", ".npy", ".npz", ".pt", ".pkl", ".crc", ".sha256"),
)
"""Extensions of files that are not looked at when a directory is given."""


@dataclass(frozen=True)
class Question:
    """Something that the files do not tell.

    Attributes:
        text: one sentence.
        answers: settings that would answer it, each a (key, value).
    """

    text: str
    answers: tuple[tuple[str, object], ...]


@dataclass
class Findings:
    """What is known of the files, as it is found out.

    Attributes:
        settings: dotted key -> value.
        notes: dotted key -> why.
        questions: what has to be answered.
        table: lines for people: (file or column, what it is, evidence).
    """

    settings: dict[str, object] = field(default_factory=dict[str, object])
    notes: dict[str, str] = field(default_factory=dict[str, str])
    questions: list[Question] = field(default_factory=list[Question])
    table: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    def set(self, key: str, value: object, note: str = "") -> None:
        """Note a setting and why."""
        self.settings[key] = value
        if note:
            self.notes[key] = note


@dataclass(frozen=True)
class Group:
    """Files of the same shape.

    Attributes:
        files: at least one; the first was looked at.
        columns: of the first.
        roles: of a log and of a catalogue.
    """

    files: tuple[str, ...]
    sample: Sniffed
    columns: tuple[Column, ...]
    log: dict[str, Guess]
    items: dict[str, Guess]

    @property
    def log_score(self) -> float:
        """How much the group looks like a log of events; below 0 = it is none."""
        if not {"user_id", "session_id"} & set(self.log) or "item_id" not in self.log:
            return -1.0
        wanted = ("timestamp", "user_id", "item_id", "event", "session_id", "rating")
        repeats = 1.0 if self._share_distinct(self.log["item_id"]) < 0.9 else 0.0
        return sum(self.log[name].score for name in wanted if name in self.log) + repeats

    @property
    def items_score(self) -> float:
        """How much it looks like a catalogue; below 0 = it is none."""
        if not {"title", "category", "brand"} & set(self.items) or "item_id" not in self.items:
            return -1.0
        if self._share_distinct(self.items["item_id"]) < 0.9:
            return -1.0
        return sum(guessed.score for guessed in self.items.values())

    def _share_distinct(self, guessed: Guess) -> float:
        values = self.column(guessed.column).values
        return self.column(guessed.column).num_distinct / max(len(values), 1)

    def column(self, name: str) -> Column:
        """Return one of the columns."""
        return next(column for column in self.columns if column.name == name)


def look_at(given: Sequence[str]) -> Findings:
    """Look at files, directories, globs or URIs.

    Raises:
        UserError: nothing there, or nothing that can be a click log.
    """
    paths = sorted({path for one in given for path in find_paths(one, "FILE")})
    likely = [path for path in paths if not path.lower().endswith(NO_DATA)]
    sniffed, alike = _sniff_all(likely or paths)
    findings = Findings()
    readable = [file for file in sniffed if not file.problem]
    if not readable:
        raise UserError(_say_unreadable(sniffed))
    one = given[0].rstrip("/") or "/"
    root = one if len(given) == 1 and not any(c in one for c in "*?[") and one not in paths else ""
    root = root if not root or is_uri(root) else str(Path(root).expanduser().absolute())
    if layout := recognise(readable, root):
        _describe_layout(layout, sniffed, findings)
        return findings
    groups = _name_unnamed([_group(file, alike[file.file.path]) for file in readable])
    log = max(groups, key=lambda group: group.log_score)
    if log.log_score < 0:
        raise UserError(
            "none of the files looks like a click log: a user, an item and a time in each row; "
            f"looked at: {'; '.join(_say(file) for file in readable[:5])}"
        )
    _check_extension(log.sample)
    others = [group for group in groups if group is not log]
    items = max(others, key=lambda group: group.items_score, default=None)
    items = items if items is not None and items.items_score > 0 else None
    if items is not None:
        _check_extension(items.sample)
    _describe_log(log, paths, findings, has_items=items is not None)
    if items is not None:
        _describe_items(items, log, paths, findings)
    used = {log.sample.file.path, items.sample.file.path if items else ""}
    for file in sniffed:
        if file.file.path not in used:
            findings.table.append((file.name, "not used", file.describe()))
    return findings


def _describe_layout(
    settings: Mapping[str, object], sniffed: Sequence[Sniffed], findings: Findings
) -> None:
    findings.settings |= settings
    findings.notes["data.layout"] = "the files have its names and columns"
    opened = find_given(override(Config(), settings))
    roles = {file.path: "click log" for file in opened.clicks}
    roles |= {file.path: "catalogue" for file in opened.items}
    roles |= {file.path: "beside it" for file in opened.beside if file.path not in roles}
    for file in sniffed:
        role = roles.get(file.file.path, "not used")
        findings.table.append((file.name, role, file.describe()))


def _check_extension(file: Sniffed) -> None:
    """Refuse a file that `prepare` would not open: formats are known by the extension."""
    try:
        list_files(file.file.path, "FILE")
    except UserError as error:
        raise UserError(f"{error}; it holds {NAMES[file.file.format]}: rename it") from None


def _say(file: Sniffed) -> str:
    return printable(f"{file.name} ({', '.join(file.columns)[:120]})")


def _say_unreadable(files: Sequence[Sniffed]) -> str:
    said = printable("; ".join(f"{file.name}: {file.problem}" for file in files[:5]))
    return f"none of the {len(files)} files can be read: {said}"


def _sniff_all(paths: Sequence[str]) -> tuple[list[Sniffed], dict[str, tuple[str, ...]]]:
    shapes: dict[str, list[str]] = {}
    for path in paths:
        head, _, name = path.rpartition("/")
        shapes.setdefault(re.sub(r"[0-9]+", "#", f"{head}/{name}"), []).append(path)
    sniffed: list[Sniffed] = []
    alike: dict[str, tuple[str, ...]] = {}
    for same in list(shapes.values())[:MAX_SNIFFED]:
        looked = [sniff(path) for path in same[:SNIFFED_ALIKE]]
        by_columns: dict[tuple[str, ...], list[Sniffed]] = {}
        for file in looked:
            by_columns.setdefault(tuple(file.columns), []).append(file)
        for number, files in enumerate(by_columns.values()):
            sniffed.append(_together(files))
            further = same[SNIFFED_ALIKE:] if not number else []
            alike[files[0].file.path] = (*(file.file.path for file in files), *further)
    return _merge_alike(sniffed, alike)


def _merge_alike(
    sniffed: list[Sniffed], alike: dict[str, tuple[str, ...]]
) -> tuple[list[Sniffed], dict[str, tuple[str, ...]]]:
    """Put files of other names but of the same named columns together."""
    kept: dict[object, Sniffed] = {}
    for file in sniffed:
        named = file.has_header and not file.problem and file.columns
        key = (file.file.format, tuple(file.columns)) if named else file.file.path
        first = kept.setdefault(key, file)
        if first is not file:
            alike[first.file.path] += alike.pop(file.file.path)
            kept[key] = _together([first, file])
    return list(kept.values()), alike


def _together(files: Sequence[Sniffed]) -> Sniffed:
    """Return the first file with the samples of all."""
    try:
        tables = [file.table for file in files]
        return replace(files[0], table=pa.concat_tables(tables, promote_options="permissive"))
    except pa.ArrowException:  # types differ
        return files[0]


def _group(file: Sniffed, files: tuple[str, ...]) -> Group:
    columns = tuple(guess.columns_of(file.table, [ROW]))
    log = guess.guess_roles(columns, guess.OF_LOG)
    return Group(files, file, columns, log, guess.guess_roles(columns, guess.OF_ITEMS))


def _name_unnamed(groups: Sequence[Group]) -> list[Group]:
    """Take the columns of files without a header by their values."""
    named: list[Group] = []
    for group in groups:
        if group.sample.has_header:
            named.append(group)
            continue
        others = [
            column.values
            for other in groups
            if other is not group
            for column in other.columns
            if column.num_distinct > 0.9 * len(column.values)
        ]
        log = guess.guess_unnamed(group.columns, others)
        items = {} if log else guess.guess_unnamed_items(group.columns)
        named.append(replace(group, log=log, items=items))
    return named


def _place_of(files: Sequence[str], paths: Sequence[str]) -> str:
    """Return the path, directory or glob that stands for exactly these files."""
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


def _common_start(names: Sequence[str]) -> str:
    pairs = zip(*names, strict=False)
    size = next((n for n, marks in enumerate(pairs) if len(set(marks)) > 1), min(map(len, names)))
    return re.sub(r"[0-9]+$", "", names[0][:size])


def _set_text(findings: Findings, sample: Sniffed, prefix: str) -> None:
    """Note how a text file is written, where it is not as usual."""
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
    """Name the columns of a file that does not; return the roles under their new names."""
    if group.sample.has_header:
        return roles
    ours = {guessed.column: role for role, guessed in roles.items()}
    names = [ours.get(name, name) for name in group.sample.columns]
    findings.set(f"{prefix}header", names, "the file does not name its columns; these are guesses")
    for role, other in (("user_id", "item_id"), ("item_id", "user_id")):
        if role in roles and roles[role].evidence == guess.BY_PLACE:
            swapped = [{role: other, other: role}.get(name, name) for name in names]
            findings.questions.append(
                Question(
                    f"Is {roles[role].column} the {role}? The columns have no names; it was taken "
                    "by its place.",
                    ((f"{prefix}header", names), (f"{prefix}header", swapped)),
                )
            )
            break
    return {role: Guess(role, g.evidence, g.score) for role, g in roles.items()}


def _describe_log(log: Group, paths: Sequence[str], findings: Findings, *, has_items: bool) -> None:
    place = _place_of(log.files, paths)
    number = f"{len(log.files)} files, " if len(log.files) > 1 else ""
    findings.set("data.clicks", place, f"{number}{log.sample.describe()}")
    findings.table.append((name_of(place), "click log", f"{number}{log.sample.describe()}"))
    _set_text(findings, log.sample, "data.")
    roles = dict(log.log)
    if not has_items:
        taken = {guessed.column for guessed in roles.values()}
        extra = guess.guess_roles(
            [c for c in log.columns if c.name not in taken], guess.OF_ITEMS[1:-1]
        )
        roles |= {role: guessed for role, guessed in extra.items() if role not in roles}
    if "user_id" not in roles:
        roles["user_id"] = roles["session_id"]
        _ask_for_user(log, findings)
    by_role = roles
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
            f"Which column names the user? None is called so; {session!r} is taken, so that each "
            "session counts as a user.",
            tuple(("data.columns.user_id", name) for name in others[:6]),
        )
    )


def _describe_times(log: Group, roles: dict[str, Guess], findings: Findings) -> None:
    if "timestamp" not in roles:
        findings.questions.append(
            Question(
                "Which column holds the time, or the order, of an event? None holds times.",
                tuple(("data.columns.timestamp", column.name) for column in log.columns[:6]),
            )
        )
        return
    values = log.column(roles["timestamp"].column).values.drop_null().slice(0, 2000)
    chosen, other = guess.guess_time_format(values.to_pylist())
    if chosen:
        findings.set("data.timestamp_format", chosen)
    if other:
        del findings.settings["data.timestamp_format"]
        findings.questions.append(
            Question(
                f"Is {values[0].as_py()!r} a day and a month, or a month and a day? The sample "
                "fits both; one of the two formats has to be given.",
                (("data.timestamp_format", chosen), ("data.timestamp_format", other)),
            )
        )


def _describe_kinds(column: Column, findings: Findings) -> None:
    known, counts, unknown = guess.guess_kinds(column)
    said = ", ".join(f"{word} ({number})" for word, number in list(counts.items())[:12])
    if known:
        findings.set("data.event_names", known, f"kinds of event in the sample: {said}")
    for word in unknown[:8]:
        kinds = ("click", "cart", "purchase", "impression", "drop")
        findings.questions.append(
            Question(
                f"What is the kind of event {word!r} ({counts[word]} rows of the sample)?",
                tuple((f"data.event_names.{word}", kind) for kind in kinds),
            )
        )


def _describe_items(items: Group, log: Group, paths: Sequence[str], findings: Findings) -> None:
    place = _place_of(items.files, paths)
    number = f"{len(items.files)} files, " if len(items.files) > 1 else ""
    findings.set("data.items", place, f"{number}{items.sample.describe()}")
    findings.table.append((name_of(place), "catalogue", f"{number}{items.sample.describe()}"))
    _set_text(findings, items.sample, "data.item_")
    roles, joined = _join(items, log)
    by_role = roles
    roles = _set_header(findings, items, roles, "data.item_")
    names = ColumnsConfig().model_dump()
    columns: dict[str, str] = {}
    for role, guessed in roles.items():
        expected = findings.settings.get(f"data.columns.{role}", names[role])
        if guessed.column != expected:
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
                "Which column of the catalogue holds the title? None is called so.",
                tuple(("data.item_columns.title", name) for name in texts[:6]),
            )
        )
    if joined[0] < 0.5:
        findings.questions.append(
            Question(
                f"Do the log and the catalogue name items alike? {joined[1]}.",
                tuple(("data.item_columns.item_id", column.name) for column in items.columns[:6]),
            )
        )


def _join(items: Group, log: Group) -> tuple[dict[str, Guess], tuple[float, str]]:
    """Take the catalogue's column that holds most of the log's ids for its item_id."""
    wanted = log.column(log.log["item_id"].column).values
    roles = dict(items.items)
    best = (*guess.share_found(wanted, items.column(roles["item_id"].column).values), "")
    for column in items.columns:
        share, change = guess.share_found(wanted, column.values)
        if share > best[0] + 0.2 and column.num_distinct > 0.9 * len(column.values):
            best = (share, change, column.name)
    if best[2]:
        roles = {role: g for role, g in roles.items() if g.column != best[2] or role == "item_id"}
        roles["item_id"] = Guess(best[2], "it holds the ids of the log", 3.0)
    how = f" ({best[1]})" if best[1] else ""
    said = f"{best[0]:.0%} of the log's item ids in the sample are in the catalogue{how}"
    return roles, (best[0], said)
