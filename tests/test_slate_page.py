"""The page of a sweep whose runs lie on disk: its slates in words, and in a real browser."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from recdiv_core.config import override
from recdiv_core.report.report import report
from recdiv_core.report.slate_page import unseen
from recdiv_core.report.templates import render
from recdiv_core.wording import worded
from tests.sweep_worlds import HOSTILE

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PROBE = """<script>
const errors = [];
console.error = (...words) => errors.push(words.join(" "));
addEventListener("error", (event) => errors.push(event.message));
addEventListener("load", () => setTimeout(() => {
  const plots = [...document.querySelectorAll(".plotly-graph-div")].map((plot) => ({
    heading: plot.closest(".card").querySelector("h3")?.textContent || "",
    traces: (plot.data || []).filter((t) => t.dimensions || t.x?.length || t.x?.bdata).length,
    drawn: plot.querySelectorAll("g.trace, canvas.gl-canvas-context").length,
    width: plot.getBoundingClientRect().width,
    beyond: (plot.querySelector(".main-svg")?.getBoundingClientRect().right || 0)
      - plot.closest(".card").getBoundingClientRect().right,
  }));
  const seen = document.createElement("pre");
  seen.id = "seen";
  seen.textContent = JSON.stringify({errors, plots, overflow:
    document.documentElement.scrollWidth - document.documentElement.clientWidth});
  document.body.append(seen);
}, 500));
</script>"""
"""Says at the end of the page what a browser made of it."""


class Words(HTMLParser):
    """The text outside scripts, and what stands in list items with their classes."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.marks, self.inside = "", [], ""

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        if tag == "li":
            self.marks.append(dict(attrs).get("class"))

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def shop(swept_shop):
    return swept_shop


def write_page(shop, out: Path, **options) -> str:
    """Write a page; no picture is drawn, which slates do not change."""
    config = override(shop.config, {"data.prepared": ""})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recdiv_core.report.report.draw_png", lambda *given: given[-1].touch())
        patch.setattr("recdiv_core.metrics.jackknife.NUM_GROUPS", 20)
        made = report(config, parent_run_id=shop.sweep.run_id, out=out, **options)
    return Path(made["report"]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(shop, tmp_path_factory):
    return write_page(shop, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def words(page):
    parser = Words()
    parser.feed(page)
    return parser


def test_the_page_shows_titles_as_they_are_and_no_markup_of_theirs(page, words):
    assert words.text.count(HOSTILE) > 20
    assert "User 1" in words.text
    assert "<u" not in words.text  # no user_id unless asked
    assert "<script>alert(1)" not in page
    assert "<i>B1</i>" in words.text
    assert "<i>B1</i>" not in page


def test_the_page_names_the_runs_their_roles_and_the_split(words):
    for said in ("w = 0: plain", "chosen point: bent", "most diverse: wide", "users of the test"):
        assert said in words.text


def test_the_page_says_how_users_were_chosen_and_how_all_fare(words):
    assert "A rule chose these users" in words.text
    assert "typical: at the median gain" in words.text
    assert "one of the worst" in words.text
    text = " ".join(words.text.split())
    assert re.search(r"Of all \d+ users, \d+ \([\d.]+ %\) get more", text)


def test_hits_and_items_of_one_slate_alone_are_marked(words):
    marks = [set(mark.split()) for mark in words.marks if mark is not None]
    assert {"own", "hit"} <= set.union(*marks)
    assert set() in marks


def test_slices_stand_side_by_side(words):
    for said in (
        "user=cold",
        "query=with",
        "popularity=tail",
        "category=A",
        "NDCG@4, chosen point",
    ):
        assert said in words.text


def test_the_first_screen_shows_typical_users_in_both_slates(page, words):
    text = " ".join(words.text.split())
    assert "Three typical users, before and after" in text
    first = page[: page.index('id="operating-points"')]
    assert first.count("<h4>plain model</h4>") == first.count("<h4>recommended</h4>") == 3
    assert "More about them, and one of the worst" in text
    assert page.index("Three typical users") < page.index("trials finished")


def test_the_front_is_counted_in_points_and_not_in_trials(words):
    text = " ".join(words.text.split())
    found = re.search(r"trials and re-rankings on the front ?(\d+) of (\d+)", text)
    assert found
    assert 0 < int(found[1]) <= int(found[2])


def test_without_slates_nothing_is_judged(shop, tmp_path):
    assert "What the slates are like" not in write_page(shop, tmp_path, slates=False)


def test_where_runs_are_gone_the_page_says_so(shop, tmp_path):
    aside = tmp_path / "aside"
    shutil.move(shop.storage, aside)
    try:
        page = write_page(shop, tmp_path / "page")
    finally:
        shutil.move(aside, shop.storage)
    assert "Not shown: no checkpoint of plain, bent, wide can be used: RUN" in page
    assert "there is no directory" in page


def test_damaged_weights_cost_only_that_run(shop, tmp_path):
    weights = shop.storage / "wide" / "checkpoint_1" / "model.pt"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    try:
        page = write_page(shop, tmp_path)
    finally:
        weights.write_bytes(whole)
    assert "most diverse (wide) is left out" in page
    assert "chosen point: bent" in page


def test_a_reason_cannot_write_html():
    assert "no &lt;b&gt; &amp; &lt;/p&gt;" in render("slates.html", slates=unseen("no <b> & </p>"))


def test_a_setting_is_said_in_words():
    assert worded({"ild": 1, "coverage": 0.25}) == "ild 1 + coverage 0.25"


# ------------------------------------------------------------------------------- in a browser


def look(page: Path, tmp_path: Path, *, width: int) -> dict:
    """Open a page in headless Chromium and return what the probe saw."""
    text = page.read_text(encoding="utf-8").replace("<head>", f"<head>{PROBE}", 1)
    probed = tmp_path / "probed.html"
    probed.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-unsafe-swiftshader",
            f"--user-data-dir={tmp_path}/profile",
            f"--window-size={width},1200",
            "--virtual-time-budget=20000",
            "--dump-dom",
            probed.as_uri(),
        ],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason="needs Chromium on the PATH: apt-get install chromium"
)


@pytest.fixture(scope="module")
def seen(page, tmp_path_factory):
    place = tmp_path_factory.mktemp("browser")
    (place / "report.html").write_text(page, encoding="utf-8")
    return look(place / "report.html", place, width=1300)


@pytest.mark.slow
@needs_chromium
def test_a_browser_draws_every_plot(seen):
    headings = [plot["heading"] for plot in seen["plots"]]
    assert "Coverage by popularity" in headings
    assert len(headings) >= 13
    for plot in seen["plots"]:
        assert plot["drawn"] >= plot["traces"] >= 1, plot
        assert plot["width"] > 250, plot
        assert plot["beyond"] <= 0, plot


@pytest.mark.slow
@needs_chromium
def test_a_browser_finds_no_error(seen):
    assert seen["errors"] == []


@pytest.mark.slow
@needs_chromium
def test_the_page_is_no_wider_than_the_window(seen):
    assert seen["overflow"] == 0


@pytest.mark.slow
@needs_chromium
def test_the_probe_sees_an_error_and_a_plot_that_is_not_drawn(page, tmp_path):
    broken = page.replace("<body>", "<body><script>nothing.there();</script>", 1)
    broken = broken.replace("Plotly.newPlot(", "console.error(", 1)
    (tmp_path / "report.html").write_text(broken, encoding="utf-8")
    seen = look(tmp_path / "report.html", tmp_path, width=1300)
    assert any("nothing is not defined" in error for error in seen["errors"])
    assert any(plot["drawn"] == 0 for plot in seen["plots"])
