"""Numbers that must not move unnoticed.

`RECDIV_GOLDEN=write pytest tests/test_golden.py` (make golden) writes them anew; a difference is
explained in the commit message.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from recdiv_core.metrics import finish
from recdiv_core.rerank import RERANKERS
from tests.worlds import random_world, tally_of

GOLDEN_DIR = Path(__file__).parent / "golden"


def golden_metrics() -> dict[str, object]:
    world = random_world(2024, num_users=200, num_items=150)
    return {f"k={k}": finish(tally_of(world, k=k)) for k in (1, 5, 10)}


def golden_rerank() -> dict[str, object]:
    rng = np.random.default_rng(2024)
    scores = torch.from_numpy(rng.normal(size=(3, 50))).sort(dim=1, descending=True).values
    embeddings = torch.from_numpy(rng.normal(size=(3, 50, 8)))
    categories = torch.from_numpy(rng.integers(0, 5, size=(3, 50)))
    return {
        f"{name} {dial}": rerank(scores, embeddings, categories, 10, dial).flatten().tolist()
        for name, rerank in RERANKERS.items()
        if name != "none"
        for dial in (0.3, 0.7, 1.0)
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
