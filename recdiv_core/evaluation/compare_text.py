"""Text of a comparison: a table, and one sentence about its claims.

compare.py computes the numbers. A sentence says no more than the interval and the corrected p-value
support. The table lists unclaimed metrics without a p-value.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from recdiv_core.evaluation.differences import ACCURACY

ALPHA: Final = 0.05
HEADS: Final = ("", "reference", "other", "difference", "%", "95 % interval", "Holm p")


def table(result: Mapping[str, Any]) -> str:
    """Return all comparisons of a result as text, each with its sentence below."""
    parts: list[str] = []
    names = short_names(list(result["figures"]))
    for each in result["comparisons"]:
        title = f"{_short(each['other'], names)} against {_short(each['reference'], names)}"
        parts.append(_section(title, each["metrics"], each))
    for each in result["fronts"]:
        entries = {
            f"{axis}, {what}": entry
            for axis, found in each["axes"].items()
            for what, entry in found.items()
        }
        title = (
            f"front {each['other']} against front {each['reference']}; "
            f"% = share of the accuracy of {names[each['accuracy_of']]}"
        )
        parts.append(_section(title, entries, each))
    return "\n\n".join(parts)


def _section(title: str, entries: Mapping[str, Mapping[str, Any]], each: Mapping[str, Any]) -> str:
    rows = [HEADS, *(_row(name, entry) for name, entry in entries.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    seeds = [
        f"{name} by seed: {', '.join(f'{gain:+.4f}' for gain in entry['by_seed'])}; "
        f"mean {entry['difference']:+.4f}, sd {entry['sd_of_seeds']:.4f}"
        for name, entry in entries.items()
        if "by_seed" in entry and "p" in entry
    ]
    return "\n".join([title, *lines, *seeds, each["sentence"]])


def _row(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    has_interval = entry["low"] is not None
    holm_p = entry.get("p_holm")
    return (
        name,
        _number(entry["reference"], "{:.4f}"),
        _number(entry["other"], "{:.4f}"),
        _number(entry["difference"], "{:+.4f}"),
        _number(entry["percent"], "{:+.1f}"),
        f"{entry['low']:+.4f} .. {entry['high']:+.4f}" if has_interval else "-",
        _number(holm_p, "{:.4f}"),
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def short_names(words: Sequence[str]) -> dict[str, str]:
    """Return each RUN without the leading directories that all of them share.

    >>> short_names(["runs/one/a", "runs/one/b+rerank.method=mmr"])
    {'runs/one/a': 'a', 'runs/one/b+rerank.method=mmr': 'b+rerank.method=mmr'}
    """
    shared = os.path.commonprefix(list(words)).rfind("/") + 1  # noqa: RUF071, cut at a "/"
    return {word: word[shared:] for word in words}


def _short(group: str, names: Mapping[str, str]) -> str:
    return ",".join(names[word] for word in group.split(","))


def comparison_sentence(
    comparison: Mapping[str, Any], names: Mapping[str, str], num_claims: int
) -> str:
    """Say how the claimed metrics of the other differ and which claims hold."""
    entries = {name: e for name, e in comparison["metrics"].items() if e.get("p") is not None}
    ranked = sorted(entries, key=lambda name: -entries[name]["difference"])
    gains = [f"{amount(entries[name])} {label(name)}" for name in ranked if name != ACCURACY]
    said = " and ".join(gains)
    if ACCURACY in entries:
        price = f"{amount(entries[ACCURACY])} {label(ACCURACY)}"
        said = f"{said} for {price}" if said else price
    other = _short(comparison["other"], names)
    if not entries:
        return f"{other}: no user has a claimed metric; nothing to claim."
    return f"{other} has {said}{_over_seeds(entries)}; {verdict(entries, num_claims)}."


def front_sentence(comparison: Mapping[str, Any], num_claims: int) -> str:
    """Say how far a front is ahead on each axis: hypervolume, and each matched accuracy."""
    said: list[str] = []
    entries: dict[str, Mapping[str, Any]] = {}
    for axis, found in comparison["axes"].items():
        parts: list[str] = []
        for what, entry in found.items():
            where = what if what == "hypervolume" else f"at {what}"
            if entry["difference"] is None:
                parts.append(f"nothing to compare {where}, because a front does not reach it")
            else:
                parts.append(f"{amount(entry)} {where}")
            if entry.get("p") is not None:
                entries[f"{axis} {where}"] = entry
        said.append(f"{label(axis)}: {', '.join(parts)}")
    fails = [name for name, entry in entries.items() if entry["p_holm"] >= ALPHA]
    held = f"{len(entries) - len(fails)} of {len(entries)} hold after Holm over {num_claims} claims"
    but = f", not {', '.join(fails)}" if fails else ""
    return f"{comparison['other']} has, in {'; in '.join(said)}. Of these {held}{but}."


def amount(entry: Mapping[str, Any]) -> str:
    """Return a difference as a share of the reference, with its interval, in words.

    >>> amount({"percent": -1.13, "percent_low": -2.0, "percent_high": -0.25, "difference": -1})
    '1.1 % less [-2.0, -0.2]'
    """
    gain = entry["percent"]
    if entry["percent_low"] is None:
        return f"{abs(entry['difference']):.4f} {_more(entry['difference'])}"
    interval = f"[{entry['percent_low']:+.1f}, {entry['percent_high']:+.1f}]"
    return f"{abs(gain):.1f} % {_more(gain)} {interval}"


def _more(gain: float) -> str:
    return "more" if gain >= 0 else "less"


def label(name: str) -> str:
    """Return a metric's name for a sentence.

    >>> [label(name) for name in ("ndcg", "diversity_index")]
    ['NDCG', 'diversity index']
    """
    return name.upper() if len(name) <= 4 else name.replace("_", " ")


def verdict(entries: Mapping[str, Mapping[str, Any]], num_claims: int) -> str:
    """Say which claims hold after Holm's correction over all claims.

    >>> verdict({"ndcg": {"p_holm": 0.04}, "ild": {"p_holm": 0.2}}, 4)
    'NDCG holds, ILD cannot be distinguished from 0, after Holm over 4 claims'
    """
    after = f"after Holm over {num_claims} claim{'s' if num_claims != 1 else ''}"
    holds = [label(name) for name, entry in entries.items() if entry["p_holm"] < ALPHA]
    fails = [label(name) for name, entry in entries.items() if entry["p_holm"] >= ALPHA]
    if not fails:
        whole = {1: "it holds", 2: "both hold"}.get(len(holds), f"all {len(holds)} hold")
        return f"{whole} {after}"
    open_ones = f"{' and '.join(fails)} cannot be distinguished from 0, {after}"
    if not holds:
        return open_ones
    return f"{' and '.join(holds)} {'hold' if len(holds) > 1 else 'holds'}, {open_ones}"


def _over_seeds(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Say in how many seeds each difference has the sign of the mean difference."""
    agreeing = {
        name: sum(gain * entry["difference"] > 0 for gain in entry["by_seed"])
        for name, entry in entries.items()
        if "by_seed" in entry
    }
    if not agreeing:
        return ""
    num_seeds = len(next(iter(entries.values()))["by_seed"])
    odd = [f"{count} for {label(name)}" for name, count in agreeing.items() if count < num_seeds]
    return f" in the mean of {num_seeds} seeds, with the same sign in {', '.join(odd) or 'each'}"
