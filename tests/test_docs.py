"""The pages of README.md and docs/: short, linked, current."""

import re
from pathlib import Path

import pytest

from recdiv_core.config import check_keys
from recdiv_core.search_space import SearchSpace
from recdiv_core.settings import reference

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
MOST_WORDS = 1_400
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def links_of(page: Path) -> list[str]:
    """Return the relative links of a page."""
    links = LINK.findall(FENCE.sub("", page.read_text("utf-8")))
    return [link for link in links if "://" not in link]


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(FENCE.sub("", page.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").split()) <= MOST_WORDS


def test_the_settings_page_is_what_make_docs_writes():
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == reference()


def test_every_setting_says_what_it_is():
    rows = [row.split(" | ") for row in reference().splitlines() if row.startswith("| `")]
    assert [key for key, _, _, meaning, _ in rows if not meaning.endswith(".")] == []


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_every_relative_link_resolves(page):
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_the_readme_links_every_page():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links_of(README)}
    assert {page.name for page in PAGES if page.resolve() not in linked} == set()


def test_the_search_space_of_the_howto_is_valid():
    page = (ROOT / "docs" / "howto-sweep.md").read_text("utf-8")
    (source,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(source, names)
    space = names["SPACE"]
    assert isinstance(space, SearchSpace)
    check_keys({**space.parameters, **space.fixed})


def test_every_picture_is_small_enough_for_git():
    pictures = [*(ROOT / "docs").rglob("*.png"), *(ROOT / "docs").rglob("*.svg")]
    assert [path.name for path in pictures if path.stat().st_size > 150_000] == []
