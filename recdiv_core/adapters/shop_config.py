"""Write the findings about a shop's files as a config file with comments.

The findings come from look.py and mapping.py. The file is plain YAML of config keys for `--config`.
Every value is quoted and every comment is printable, whatever the names of files are.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

import yaml

from recdiv_core.adapters.mapping import Findings, Question
from recdiv_core.errors import UserError
from recdiv_core.formats.sniff import printable

WIDTH: Final = 100


def to_yaml(findings: Findings, name: str) -> str:
    """Return the text of a config file; each question is placed where its answer belongs."""
    lines = [
        "# Written by `recdiv init` from samples of the files. Check it, then run:",
        f"#   recdiv prepare --config {printable(name)}",
    ]
    if findings.questions:
        lines.append(
            f"# {len(findings.questions)} question(s): look for QUESTION and leave one answer "
            "without its #."
        )
    lines.append("data:")
    tree: dict[str, object] = {}
    for key, value in findings.settings.items():
        section, _, entry = key.removeprefix("data.").partition(".")
        if entry:
            table = tree.setdefault(section, {})
            assert isinstance(table, dict)
            table[entry] = value
        else:
            tree[section] = value
    asked = {key: question for question in findings.questions for key, _ in question.answers[:1]}
    for key, value in tree.items():
        lines += _lines(key, value, findings, asked)
    for key, question in asked.items():  # questions about settings without a value
        section, _, entry = key.removeprefix("data.").partition(".")
        lines += _ask(question, "  ", f"{section}: " if entry else "")
    return "\n".join(lines) + "\n"


def _lines(key: str, value: object, findings: Findings, asked: dict[str, Question]) -> list[str]:
    note = findings.notes.get(f"data.{key}", "")
    above = _wrap(note, "  # ") if note else []
    if not isinstance(value, dict):
        question = asked.pop(f"data.{key}", None)
        above += _ask(question, "  ") if question else []
        return [*above, f"  {key}: {_value(value)}"]
    inner: list[str] = []
    for name, one in value.items():
        question = asked.pop(f"data.{key}.{name}", None)
        inner += _ask(question, "    ") if question else []
        why = findings.notes.get(f"data.{key}.{name}", "")
        comment = f"  # {printable(why)}" if why else ""
        inner.append(f"    {_key(str(name))}: {_value(one)}{comment}")
    for name in [name for name in asked if name.startswith(f"data.{key}.")]:
        inner += _ask(asked.pop(name), "    ")
    return [*above, f"  {key}:", *inner]


def _ask(question: Question, indent: str, section: str = "") -> list[str]:
    """Write a question and its answers, all as comments.

    `section` is `name: ` of a table that the file does not have yet.
    """
    lines = _wrap(f"QUESTION: {question.text}", f"{indent}# ")
    for key, value in question.answers:
        name = _key(key.removeprefix("data.").partition(".")[2]) if "." in key[5:] else key[5:]
        answer = f"{section}{{{name}: {_value(value)}}}" if section else f"{name}: {_value(value)}"
        lines.append(f"{indent}# {printable(answer)}")
    return lines


def _key(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else _value(name)


def _value(value: object) -> str:
    """Write a value on one line; text is always quoted."""
    return yaml.safe_dump(
        value, default_style='"', default_flow_style=True, allow_unicode=True, width=1 << 30
    ).strip()


def _wrap(text: str, start: str) -> list[str]:
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )


def check_free(out: Path) -> None:
    """Refuse an output path that exists, before any file is read.

    Raises:
        UserError: the path exists, or cannot be a file.
    """
    try:
        is_taken = out.exists() or out.is_symlink()
    except (OSError, ValueError) as error:
        raise UserError(f"--out {str(out)!r} cannot be a file: {error}") from None
    if is_taken:
        raise UserError(f"--out {out} exists and is not overwritten")


def write(findings: Findings, out: Path) -> None:
    """Write the config file; an existing file is never overwritten.

    Raises:
        UserError: the file exists, or cannot be written.
    """
    check_free(out)
    try:
        content = to_yaml(findings, str(out)).encode()
    except UnicodeEncodeError:
        raise UserError(
            "the name of a file or column is not Unicode text, and a config file cannot hold it: "
            "rename it"
        ) from None
    try:
        with out.open("xb") as stream:
            stream.write(content)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"--out {str(out)!r} cannot be written: {reason}") from None
