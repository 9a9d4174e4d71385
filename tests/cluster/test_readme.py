"""The commands of README.md in their order, on a small shop: what a newcomer types works.

`--space tradeoff` is `make demo`'s; a sweep of two trials stands for it here. Those that need a
cluster elsewhere, another data set or minutes are only parsed (tests/test_readme.py).
"""

from pathlib import Path
from typing import Any

import pytest

from recdiv_core.shop import generate as synthetic
from tests.cluster.conftest import run
from tests.test_readme import README, commands_of, pipeline_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = ("model.dim=16", "train.epochs=1", "train.batch_size=64", "scaling.num_workers=1")
ELSEWHERE = ("/shared/", "runs/prepared/beauty", "clicks.parquet", "--space search", "baselines")


def here(name: str, arguments: list[str], checkpoint: str) -> list[str]:
    """Return the arguments for the small shop."""
    stand_ins = {"DIR": checkpoint, "data.prepared=DIR": "data.prepared=runs/prepared/shop"}
    given = [stand_ins.get(word, word) for word in arguments]
    if name == "tune":
        given[given.index("--space") + 1] = "smoke"
    return [*given, *(SMALL if name in ("tune", "train") else ())]


def test_the_commands_of_the_readme_run_one_after_another(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    clicks, items = synthetic.generate(tmp_path / "source", num_events=4000, seed=0)
    results: dict[str, dict[str, Any]] = {}
    for name, arguments in readme_of_one_shop():
        stand_in = {"data.clicks=clicks.csv": f"data.clicks={clicks}"}
        stand_in["data.items=items.csv"] = f"data.items={items}"
        given = [stand_in.get(word, word) for word in arguments]
        checkpoint = results.get("train", {}).get("checkpoint", "")
        results[name] = run(name, *here(name, given, checkpoint))
    assert results["report"]["front"]
    assert results["compare"]["claims"]
    assert results["register"]["promoted"]


def readme_of_one_shop() -> list[tuple[str, list[str]]]:
    """Return the commands of README.md that need nothing but a click log and a catalogue."""
    found = [pipeline_of(words) for words in commands_of(README)]
    named = [pipeline for pipeline in found if pipeline and pipeline[0] not in ("submit", "init")]
    return [
        (name, arguments)
        for name, arguments in named
        if not any(place in " ".join(arguments) for place in ELSEWHERE)
    ]
