"""The page over time (report/timeline_page.py) and its rows (updating/timeline.py)."""

import json
import math

import pytest

from recdiv_core.report.timeline_page import Arm, timeline_page, verdict
from recdiv_core.updating.timeline import past, write_timeline


def arm(**values):
    return Arm("champion", "#000", values)


def write_outcome(updates, generation, **more):
    row = {
        "generation": generation,
        "day": f"2026-03-{generation:02d}",
        "champion": str(generation - 1),
        "version": generation,
        "promoted": True,
        "before": {"ndcg": 0.2, "coverage": 0.5 - 0.01 * generation, "new_items": 0.02},
        "yardstick": {},
    }
    place = updates / f"append-{generation}"
    place.mkdir(parents=True)
    (place / "outcome.json").write_text(json.dumps({**row, **more}))


def test_the_verdict_names_what_falls_and_how_fast():
    said = verdict(arm(coverage=[0.5 - 0.02 * day for day in range(9)], ild=[0.4] * 9))
    assert said == "Slates narrow: coverage falls by 0.02 a day."


def test_more_users_with_narrow_slates_are_a_narrowing():
    assert verdict(arm(narrowed=[0.02 * day for day in range(9)])).startswith(
        "Slates narrow: narro"
    )


def test_slates_that_hold_or_broaden_do_not_narrow():
    rising = [0.5 + 0.02 * day for day in range(9)]
    said = verdict(arm(coverage=rising, ild=[0.4] * 9, ndcg=rising[::-1]))
    assert said == "Slates do not narrow: coverage and ILD hold or improve."


def test_few_days_have_no_verdict():
    assert verdict(arm(coverage=[0.5, 0.4])).startswith("Too early")


def test_the_page_shows_each_metric_that_an_arm_has():
    nan = math.nan
    page = timeline_page(
        ["d1", "d2", "d3"],
        [arm(ndcg=[nan, 0.2, 0.3]), Arm("scratch", "#f00", {"ndcg": [nan, nan, 0.31]}, True)],
        title="shop",
        meta="three days",
        notes=["a <b>note</b>"],
    )
    assert page.count('class="card"') == 1
    assert "a &lt;b&gt;note&lt;/b&gt;" in page
    assert "too early" in page


@pytest.mark.parametrize("num_days", [1, 6, 7])
def test_an_axis_names_few_days_and_no_hours(num_days):
    days = [f"2026-03-0{day}" for day in range(1, num_days + 1)]
    page = timeline_page(days, [arm(ndcg=[0.2] * num_days)], title="shop", meta="")
    assert ('"type":"category"' in page) == (num_days <= 6)
    assert '"rangemode":"nonnegative"' in page


def test_the_first_update_is_one(tmp_path):
    write_outcome(tmp_path, 1)
    text = write_timeline(tmp_path, "shop", 1).read_text()
    assert "shop: 1 update<" in text
    assert "2026-03-01, 1 candidate" in text
    assert "2026-03-01 to" not in text


def test_a_days_row_and_the_page_are_written(tmp_path):
    for generation in (2, 1, 3):
        write_outcome(tmp_path, generation, yardstick={"ndcg": 0.21} if generation == 3 else {})
    page = write_timeline(tmp_path, "shop", 3)
    rows = json.loads((tmp_path / "days.json").read_text())
    assert [row["day"] for row in rows] == ["2026-03-01", "2026-03-02", "2026-03-03"]
    assert rows[2]["yardstick"] == {"ndcg": 0.21}
    text = page.read_text()
    assert "shop: 3 updates" in text
    assert "trained from scratch" in text


def test_outcomes_of_an_earlier_version_are_shown(tmp_path):
    write_outcome(tmp_path, 1)
    path = tmp_path / "append-1" / "outcome.json"
    row = json.loads(path.read_text())
    del row["day"], row["yardstick"]
    path.write_text(json.dumps(row))
    assert "append 1" in write_timeline(tmp_path, "shop", 1).read_text()


def test_a_repeated_update_does_not_show_later_days(tmp_path):
    for generation in (1, 2):
        write_outcome(tmp_path, generation)
    assert [row["generation"] for row in past(tmp_path, 2)] == [1]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a & b"])
def test_the_name_of_the_model_is_text(tmp_path, name):
    write_outcome(tmp_path, 1)
    assert "<script>alert(1)" not in write_timeline(tmp_path, name, 1).read_text()
