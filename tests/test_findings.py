import json
import re
from pathlib import Path

import pytest

from recdiv_core.data.audit.findings import (
    CHECKS,
    OF_A_SPLIT,
    Finding,
    find,
    from_json,
    merge,
    to_json,
    worst,
    write_audit,
)

TIES = "ties in time across a cut"
FUTURE = "events of the future in train"


def test_findings_add_up_over_shards():
    part = [Finding("x", "info", 2, ["a", "b"], {"n": [1, 2]})]
    merged = merge([part, [Finding("x", "info", 3, ["c"], {"n": [10, 20]})]])
    assert merged == [Finding("x", "info", 5, ["a", "b", "c"], {"n": [11, 22]})]


def test_a_count_of_nothing_is_ok():
    (row,) = to_json([find(FUTURE, 0)])
    assert (row["severity"], row["remedy"]) == ("ok", "")
    assert worst([find(FUTURE, 0)]) == worst([]) == "ok"


def test_what_was_written_is_read_again():
    findings = [find(FUTURE, 2, ["u"]), find(TIES, 0), find(TIES, 3, figures={"n": [1.0]})]
    assert from_json(to_json(findings), "audit.json") == findings


def test_findings_that_need_care_are_logged_in_one_line(tmp_path, caplog):
    info = find("items a tiny edit apart", 4)
    write_audit([find(FUTURE, 0), info], tmp_path)
    assert not caplog.messages
    findings = [find(FUTURE, 2, ["u"]), find(TIES, 3), info]
    write_audit(findings, tmp_path)
    (said,) = caplog.messages
    assert said.startswith(f"audit: severe: {FUTURE} (2); warning: {TIES} (3). `recdiv audit`")
    assert from_json(json.loads((tmp_path / "audit.json").read_text()), "audit.json") == findings


def test_an_audit_without_remedies_is_read_too():
    row = {"name": TIES, "severity": "ok", "count": 0, "examples": []}
    assert from_json([row], "audit.json") == [find(TIES, 0)]


@pytest.mark.parametrize(
    "tree",
    [
        None,
        3,
        [1],
        ["name"],
        {"name": TIES},
        [{"name": TIES}],
        [{"name": "x", "count": 0, "examples": []}],
    ],
)
def test_what_is_no_audit_is_refused(tree):
    with pytest.raises(ValueError, match=r"audit\.json is no audit; run `recdiv prepare` again"):
        from_json(tree, "audit.json")


def test_the_worst_of_several_is_told():
    found = [find("cold users in val", 1), find(TIES, 1), find(FUTURE, 0)]
    assert worst(found) == "warning"


def test_the_document_explains_every_finding():
    document = Path(__file__).parents[1].joinpath("docs", "audit.md").read_text(encoding="utf-8")
    document = re.sub(r"\s+", " ", document)
    names = [*OF_A_SPLIT, *(name for name in CHECKS if not re.search(r"\b(val|test)\b", name))]
    assert [name for name in names if name.replace("{split}", "val/test") not in document] == []
