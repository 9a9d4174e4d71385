"""Numbers that must not move unnoticed.

`RECDIV_GOLDEN=write pytest tests/test_golden.py` (make golden) writes them anew; a difference is
explained in the commit message.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from recdiv_core.metrics import finish
from recdiv_core.rerank import RERANKERS, Options
from tests.candidate_worlds import random_candidates
from tests.worlds import random_world, tally_of

GOLDEN_DIR = Path(__file__).parent / "golden"


def golden_metrics() -> dict[str, object]:
    world = random_world(2024, num_users=200, num_items=150)
    return {f"k={k}": finish(tally_of(world, k=k)) for k in (1, 5, 10)}


def golden_rerank() -> dict[str, object]:
    candidates = random_candidates(2024, num_users=3, num_candidates=50, dim=16, zeros=0.0)
    dials = (0.3, 0.7, 1.0)
    return {
        f"{name} {dial}": slates.flatten().tolist()
        for name, rerank in RERANKERS.items()
        if name != "none"
        for dial, slates in zip(
            dials, rerank(candidates, 10, dials, Options()).transpose(0, 1), strict=True
        )
    }


GOLDEN: dict[str, Callable[[], dict[str, object]]] = {
    "metrics": golden_metrics,
    "rerank": golden_rerank,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers_have_not_moved(name):
    path, values = GOLDEN_DIR / f"{name}.json", GOLDEN[name]()
    if os.environ.get("RECDIV_GOLDEN") == "write":
        lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in values.items())
        path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    expected = json.loads(path.read_text(encoding="utf-8"))
    assert values.keys() == expected.keys()
    for case, value in values.items():
        assert value == pytest.approx(expected[case], rel=1e-6, abs=1e-9)
