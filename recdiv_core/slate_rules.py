# pyright: strict
"""The grammar of `rerank.rules`: texts parsed into slate rules.

rerank/quota.py applies the rules; data/rule_labels.py checks that the catalogue has the values. A
rule is a short sentence. In a YAML list it needs quotes only for commas and colons.

    at most M of ATTRIBUTE                each value appears at most M times in a slate
    at most M of ATTRIBUTE=VALUE          this value appears at most M times
    at most M of ATTRIBUTE[=VALUE] in W   the same in any W consecutive places
    at least M of ATTRIBUTE=VALUE         this value appears at least M times
    at least N distinct ATTRIBUTE         at least N different values appear
    draw M of ATTRIBUTE=VALUE             M items with this value appear, drawn evenly
    draw M of ATTRIBUTE=VALUE for P % of slates    the same in a share of the slates
    include ITEM_ID                       this item appears in every slate
    exclude ITEM_ID                       this item appears in no slate; any number of such rules

Put a value that ends like ` in 5` in double quotes. rerank/drawn.py draws slates and items.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from recdiv_core.errors import UserError

RuleKind = Literal["exclude", "include", "at most", "at least", "draw", "distinct"]

MOST_RULES: Final = 31
"""Largest number of rules per slate; all `include` count as one."""

FORMS: Final[dict[RuleKind, str]] = {
    "at most": "at most M of ATTRIBUTE[=VALUE] [in W]",
    "at least": "at least M of ATTRIBUTE=VALUE",
    "distinct": "at least N distinct ATTRIBUTE",
    "draw": "draw M of ATTRIBUTE=VALUE [for P % of slates]",
    "include": "include ITEM_ID",
    "exclude": "exclude ITEM_ID",
}
_VALUE: Final = r'(?:"(?P<quoted>[^"]+)"|(?P<value>[^"].*?))'
_PATTERNS: Final[tuple[tuple[RuleKind, str], ...]] = (
    (
        "at most",
        rf"at most (?P<count>\d+) of (?P<name>[^=]+?)(?:={_VALUE})?(?: in (?P<window>\d+))?",
    ),
    ("at least", rf"at least (?P<count>\d+) of (?P<name>[^=]+?)={_VALUE}"),
    (
        "draw",
        rf"draw (?P<count>\d+) of (?P<name>[^=]+?)={_VALUE}"
        r"(?: for (?P<percent>\d+(?:\.\d+)?) ?% of slates)?",
    ),
    ("distinct", r"at least (?P<count>\d+) distinct (?P<name>[^=]+)"),
    ("include", r"include (?P<item>.+)"),
    ("exclude", r"exclude (?P<item>.+)"),
)


@dataclass(frozen=True)
class SlateRule:
    """A parsed rule.

    Attributes:
        text: text of the rule.
        kind: form of the rule; `distinct` is `at least N distinct`.
        count: M or N; 1 for a rule of an item.
        attribute: name of an item attribute; empty for a rule of an item.
        value: value of the attribute; empty = any.
        window: W consecutive places; 0 = the whole slate.
        item_id: the shop's item id; empty for a rule of an attribute.
        share: share of the slates that `draw` binds, in (0, 1].
    """

    text: str
    kind: RuleKind
    count: int = 1
    attribute: str = ""
    value: str = ""
    window: int = 0
    item_id: str = ""
    share: float = 1.0


@functools.lru_cache(maxsize=100_000)  # each check of a config parses the whole block list
def parse_rule(text: str) -> SlateRule:
    """Parse a rule.

    Raises:
        UserError: the text has none of these forms, or a number out of range.

    >>> parse_rule("at most 2 of brand=Acme in 5")
    SlateRule(text='at most 2 of brand=Acme in 5', kind='at most', count=2, attribute='brand', \
value='Acme', window=5, item_id='', share=1.0)
    """
    for kind, pattern in _PATTERNS:
        found = re.fullmatch(pattern, text.strip())
        if found:
            said = found.groupdict()
            rule = SlateRule(
                text=text,
                kind=kind,
                count=int(said.get("count", 1)),
                attribute=(said.get("name") or "").strip(),
                value=said.get("quoted") or said.get("value") or "",
                window=int(said.get("window") or 0),
                item_id=(said.get("item") or "").strip(),
                share=float(said.get("percent") or 100) / 100,
            )
            _check_numbers(rule, said.get("window"))
            return rule
    raise UserError(
        f"rerank.rules: {text!r} is not a rule{_nearest_form(text)}; allowed are "
        f"{', '.join(FORMS.values())}"
    )


def group_rules(texts: Sequence[str]) -> list[list[SlateRule]]:
    """Parse rules; all `include` rules make one group, all `exclude` rules another.

    >>> [
    ...     [rule.text for rule in group]
    ...     for group in group_rules(["exclude a", "at most 1 of brand", "exclude b"])
    ... ]
    [['exclude a', 'exclude b'], ['at most 1 of brand']]
    """
    groups: dict[str, list[SlateRule]] = {}
    for index, rule in enumerate(map(parse_rule, texts)):
        groups.setdefault(rule.kind if rule.item_id else str(index), []).append(rule)
    return list(groups.values())


def _check_numbers(rule: SlateRule, window: str | None) -> None:
    if rule.kind in ("at least", "draw", "distinct") and not rule.count:
        raise UserError(f"rerank.rules: {rule.text!r} has no effect; the number must be 1 or more")
    if window is not None and not rule.window:
        raise UserError(f"rerank.rules: {rule.text!r}: a window must have at least 1 place")
    if not 0 < rule.share <= 1:
        raise UserError(f"rerank.rules: {rule.text!r}: allowed are above 0 to 100 % of slates")


def _nearest_form(text: str) -> str:
    """Return a hint with the form whose first words are most similar."""
    words = text.lower().split()
    kinds: dict[str, RuleKind] = {
        "at most": "at most",
        "at least": "distinct" if "distinct" in words else "at least",
        "draw": "draw",
        "include": "include",
        "exclude": "exclude",
    }
    for start in (" ".join(words[:2]), *words[:1]):
        matches = difflib.get_close_matches(start, kinds, n=1, cutoff=0.7)
        if matches:
            return f"; did you mean {FORMS[kinds[matches[0]]]!r}"
    return ""


def check_rules(texts: Sequence[str], k: int) -> None:
    """Refuse rules that no slate of k places can keep, for any catalogue.

    Raises:
        UserError: too many rules, more items than places, or two contradicting rules.
    """
    rules = [parse_rule(text) for text in texts]
    num_of_attributes = sum(not rule.item_id for rule in rules)
    if num_of_attributes >= MOST_RULES:
        raise UserError(
            f"rerank.rules: {num_of_attributes} rules of attributes; allowed are at most "
            f"{MOST_RULES - 1}, and any number of `exclude ITEM_ID`"
        )
    included = {rule.item_id: rule for rule in rules if rule.kind == "include"}
    if len(included) > k:
        raise UserError(
            f"rerank.rules include {len(included)} items, but a slate has eval.k={k} places"
        )
    ceilings = {
        (rule.attribute, rule.value): rule
        for rule in sorted(rules, key=lambda rule: -rule.count)
        if rule.kind == "at most" and not rule.window
    }
    for rule in rules:
        if rule.kind in ("at least", "draw", "distinct") and rule.count > k:
            raise UserError(f"rerank.rules: {rule.text!r} needs more than eval.k={k} places")
        if rule.kind == "exclude" and rule.item_id in included:
            raise UserError(
                f"rerank.rules: {rule.text!r} contradicts {included[rule.item_id].text!r}"
            )
        if rule.kind in ("at least", "draw"):
            for value in (rule.value, ""):
                ceiling = ceilings.get((rule.attribute, value))
                if ceiling and ceiling.count < rule.count:
                    raise UserError(f"rerank.rules: {rule.text!r} contradicts {ceiling.text!r}")
