"""What is wrong with a day's update, for its exit status: gate, levels of diversity, accuracy."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, Final

from recdiv_core.wording import worded

NOT_HELD: Final = 0.95
"""Share of a level of diversity; a candidate below it is an alarm."""
WEEK: Final = 7
"""Earlier updates that the champion's accuracy is compared with."""


def alarms(
    result: Mapping[str, Any], earlier: list[float], largest_drop: float
) -> list[dict[str, object]]:
    """Return what is wrong with an update; empty = nothing.

    Args:
        result: see `update`.
        earlier: NDCG of the champions of earlier updates on their newest windows.
        largest_drop: share of the mean NDCG of the last WEEK updates that may be lost, in [0, 1].

    >>> alarms({"before": {"ndcg": 0.1}, "gate": [], "promoted": True}, [0.2, 0.2], 0.3)
    [{'alarm': 'accuracy of the champion', 'ndcg': 0.1, 'usual': 0.2}]
    """
    found: list[dict[str, object]] = []
    failed = [row["name"] for row in result["gate"] if row["passes"] is False]
    if failed:
        found.append({"alarm": "the candidate did not pass the gate", "floors": failed})
    held = result.get("held", 1.0)
    if held < NOT_HELD:
        found.append({"alarm": "diversity does not hold its levels", "reached": held})
    now = result["before"].get("ndcg")
    if now is not None and earlier:
        usual = statistics.mean(earlier[-WEEK:])
        if now < (1 - largest_drop) * usual:
            found.append({"alarm": "accuracy of the champion", "ndcg": now, "usual": usual})
    return found


def described(alarm: Mapping[str, object]) -> str:
    """Write an alarm in a line for people.

    >>> described({"alarm": "accuracy of the champion", "ndcg": 0.1, "usual": 0.2})
    'accuracy of the champion (ndcg 0.1, usual 0.2)'
    """
    facts = {name: value for name, value in alarm.items() if name != "alarm"}
    said = [
        f"{name} {', '.join(map(str, value)) if isinstance(value, list) else worded(value)}"
        for name, value in facts.items()
    ]
    return f"{alarm['alarm']} ({', '.join(said)})"
