import pytest

from recdiv_core.slate_rules import SlateRule, check_rules, group_rules, parse_rule


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("at most 2 of brand", {"kind": "at most", "count": 2, "attribute": "brand"}),
        ("at most 0 of brand", {"kind": "at most", "count": 0, "attribute": "brand"}),
        (
            "at most 1 of category in 4",
            {"kind": "at most", "attribute": "category", "window": 4},
        ),
        (
            "at most 3 of category=Bath > Soap in 12",
            {
                "kind": "at most",
                "count": 3,
                "attribute": "category",
                "value": "Bath > Soap",
                "window": 12,
            },
        ),
        (
            'at most 1 of brand="Made in 5" in 6',
            {"kind": "at most", "attribute": "brand", "value": "Made in 5", "window": 6},
        ),
        (
            'at most 1 of brand="Made in 5"',
            {"kind": "at most", "attribute": "brand", "value": "Made in 5"},
        ),
        (
            "at least 2 of price=band 1",
            {"kind": "at least", "count": 2, "attribute": "price", "value": "band 1"},
        ),
        (
            "at least 1 of size=a=b in 3",
            {"kind": "at least", "attribute": "size", "value": "a=b in 3"},
        ),
        (
            "draw 1 of is_cold=true for 20 % of slates",
            {"kind": "draw", "attribute": "is_cold", "value": "true", "share": 0.2},
        ),
        (
            'draw 2 of size="for 5 % of slates" for 2.5% of slates',
            {
                "kind": "draw",
                "count": 2,
                "attribute": "size",
                "value": "for 5 % of slates",
                "share": 0.025,
            },
        ),
        (
            "at least 3 distinct skin type",
            {"kind": "distinct", "count": 3, "attribute": "skin type"},
        ),
        ("include B00 1", {"kind": "include", "item_id": "B00 1"}),
        ("exclude 007", {"kind": "exclude", "item_id": "007"}),
    ],
)
def test_a_rule_is_read(text, fields):
    assert parse_rule(text) == SlateRule(text=text, **fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("at mots 2 of brand", "'at mots 2 of brand' is not a rule; did you mean 'at most M of"),
        ("at lest 2 of brand=A", "did you mean 'at least M of"),
        ("at least 2 of brand", "did you mean 'at least M of ATTRIBUTE=VALUE'"),
        ("draw 1 of brand", "did you mean 'draw M of ATTRIBUTE=VALUE"),
        ("draw 0 of brand=A", "has no effect; the number must be 1 or more"),
        ("draw 1 of brand=A for 0 % of slates", "allowed are above 0 to 100 % of slates"),
        ("draw 1 of brand=A for 101 % of slates", "allowed are above 0 to 100 % of slates"),
        ("at least two distinct brand", "did you mean 'at least N distinct ATTRIBUTE'"),
        ("at most -1 of brand", "did you mean 'at most M of"),
        ("includes A", "did you mean 'include ITEM_ID'"),
        ("exclud A", "did you mean 'exclude ITEM_ID'"),
        ("", "'' is not a rule; allowed are at most M"),
        ("2 of brand", "is not a rule; allowed are at most M"),
        ("at least 0 of brand=A", "has no effect; the number must be 1 or more"),
        ("at least 0 distinct brand", "has no effect"),
        ("at most 1 of brand in 0", "a window must have at least 1 place"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_nearest_form(text, message):
    with pytest.raises(ValueError, match=message):
        parse_rule(text)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["at most 2 of brand"] * 31, "31 rules of attributes; allowed are at most 30"),
        (["include A", "include B", "include C"], "include 3 items, but a slate has eval.k=2"),
        (["at least 3 of brand=A"], "'at least 3 of brand=A' needs more than eval.k=2 places"),
        (["include A", "exclude A"], "'exclude A' contradicts 'include A'"),
        (["at least 2 of brand=A", "at most 1 of brand"], "contradicts 'at most 1 of brand'"),
        (["at most 1 of brand=A", "at least 2 of brand=A"], "contradicts 'at most 1 of brand=A'"),
    ],
)
def test_rules_that_no_slate_keeps_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        check_rules(rules, 2)


def test_rules_that_a_slate_may_keep_are_not():
    rules = ["at least 2 of brand=A", "at most 1 of brand=B", "at most 1 of brand in 2"]
    check_rules([*rules, "include A", "include A", "exclude B", "at least 3 distinct brand"], 3)


def test_a_block_list_may_be_of_any_length():
    check_rules([f"exclude item {item}" for item in range(20_000)], 10)


def test_all_that_names_items_is_kept_together():
    texts = ["include a", "exclude x", "at most 1 of brand", "include b", "exclude y"]
    assert [[rule.text for rule in group] for group in group_rules(texts)] == [
        ["include a", "include b"],
        ["exclude x", "exclude y"],
        ["at most 1 of brand"],
    ]
