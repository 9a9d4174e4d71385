"""The HTML templates: whatever text comes in is shown as it is, and none is left out of a wheel."""

import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

import recdiv_core
from recdiv_core.report.templates import (
    STYLE,
    TEMPLATES,
    Cell,
    Table,
    cell,
    environment,
    percent,
    render,
)

PACKAGE = Path(recdiv_core.__file__).parent
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30) | st.sampled_from(
    ["</td><script>alert(1)</script>", '" onclick="x', "'&amp;'", "\u0635\u0627\u0628\u0648\u0646"]
)


class Cells(HTMLParser):
    """The tags of a page, and the text and hint of its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.texts, self.hints = [], [""], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.hints += [value for name, value in attrs if name == "title"]

    def handle_data(self, data):
        self.texts[-1] += data


def macro(name, *values):
    return str(getattr(environment().get_template("macros.html").module, name)(*values))


@given(texts, texts, texts)
def test_no_text_can_leave_its_cell(text, note, hint):
    parser = Cells()
    parser.feed(macro("cell", Cell(text, sort=text, note=note, hint=hint)))
    assert parser.tags == ["td"] + ["small"] * bool(note)
    assert parser.texts[0].strip("\n") == text + (f" ({note})" if note else "")
    assert parser.hints == [hint] * bool(hint)


@given(texts)
def test_no_text_can_leave_the_head_of_a_table_or_a_list(text):
    for written in (macro("table", Table([text], [])), macro("values", {text: text}, "facts")):
        parser = Cells()
        parser.feed(written)
        assert set(parser.tags) <= {"div", "table", "thead", "tbody", "tr", "th", "dl", "dt", "dd"}
        assert text.strip() in parser.texts[0]


def test_no_template_turns_escaping_off():
    for path in TEMPLATES.glob("*"):
        found = re.findall(r"\|\s*safe|autoescape|Markup", path.read_text(encoding="utf-8"))
        assert found == [], path.name


def test_a_value_that_a_template_misses_is_an_error():
    with pytest.raises(UndefinedError, match="slates"):
        render("slates.html")


def test_templates_and_style_are_in_the_wheel():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["recdiv_core"]
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    assert packed >= {STYLE, *TEMPLATES.iterdir()}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (cell(0.012345), "0.01235"),
        (cell(65536), "65,536"),
        (cell(0.5, 0.013), "0.5 \u00b1 0.013"),
        (cell(None), "-"),
        (cell(True), "True"),
        (cell("ild"), "ild"),
        (percent(0.1234), "12.3 %"),
    ],
)
def test_a_value_is_said_in_a_few_characters(given, text):
    assert given.text == text
