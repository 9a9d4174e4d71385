"""The commands of README.md and docs/getting-started.md in their order, on a small shop.

`--space smoke`, a sweep of two trials, replaces `--space tradeoff`, which `make demo` runs. The
commands of the other pages are only parsed (tests/test_readme.py).
"""

from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from recdiv_core.shop import generate as synthetic
from tests.cluster.conftest import run
from tests.test_readme import README, commands_of, pipeline_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.ci]

PAGES = (README, README.parent / "docs" / "getting-started.md")
SMALL = (
    *("model.dim=16", "model.num_layers=1", "model.blend=[]"),
    *("train.epochs=1", "train.batch_size=64", "scaling.num_workers=1"),
)


def here(name: str, arguments: list[str], checkpoint: str) -> list[str]:
    """Return the arguments for the small shop."""
    given = [checkpoint if word == "DIR" else word for word in arguments]
    if name == "tune":
        given[given.index("--space") + 1] = "smoke"
    return [*given, *(SMALL if name in ("tune", "train") else ())]


def run_init(arguments: list[str]) -> dict[str, Any]:
    """Run `init`, which ends with its exit status."""
    with pytest.raises(SystemExit) as ended:
        run("init", *arguments)
    return {"status": ended.value.code}


def commands_in_order() -> list[tuple[str, list[str]]]:
    """Return the pipelines of the pages, each command once."""
    commands = [words for page in PAGES for words in commands_of(page)]
    named = [found for words in commands if (found := pipeline_of(words))]
    return [found for place, found in enumerate(named) if found not in named[:place]]


def test_the_commands_of_the_first_pages_run_one_after_another(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    clicks, items = synthetic.generate(tmp_path / "source", num_events=4000, seed=0)
    pyarrow.csv.write_csv(pq.read_table(clicks), "clicks.csv")
    pyarrow.csv.write_csv(pq.read_table(items), "items.csv")
    results: dict[str, dict[str, Any]] = {}
    for name, arguments in commands_in_order():
        checkpoint = results.get("train", {}).get("checkpoint", "")
        given = here(name, arguments, checkpoint)
        results[name] = run_init(given) if name == "init" else run(name, *given)
    assert results["init"]["status"] == 0
    assert results["report"]["front"]
    assert results["compare"]["claims"]
    assert results["register"]["promoted"]
