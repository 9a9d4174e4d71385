"""Measure how fast slates are re-ranked on one thread, beside other libraries.

    python -m benchmarks.rerank
    python -m benchmarks.rerank --quick
    pip install --no-deps --ignore-requires-python --target DIR warprec==2.2.8 loguru
    python -m benchmarks.rerank --warprec DIR

Random users with 100 candidates of 64 dimensions and slates of 20. pyversity gets the vectors of
one user per call; ours reads the vectors from a catalogue of 20,000 items. All re-rankers take
turns. Each is timed in CPU seconds of its thread, which other processes disturb least. Prints one
JSON line:

- `mmr_vs_pyversity`, `dpp_vs_pyversity`, `mmr_vs_warprec`: how many times as fast ours is.
  `mmr_vs_warprec` has 500 candidates, `mmr_vs_warprec_of_100` has 100; null without --warprec.
- `dpp_floor_ratio`: our time over a lower bound. The bound is the larger of two times: the
  floating-point operations at the speed of a large matrix product, and one reading of the vectors
  at the speed of a copy.
- `same_slates_as_warprec`: share of slates that are equal, order included.
- `grid_of_11_vs_one`: time of eleven dials over the time of one.
- `mmr_with_a_rule_vs_without`: time of mmr with a quota over the time without. The quota binds for
  nearly all users. The next ones have two and three rules.
- medians in microseconds per user, by number of candidates and slate length.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyversity
import torch

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import ItemTraits
from recdiv_core.rerank import RERANKERS, Candidates, Options
from recdiv_core.rerank.candidates import Rule

NUM_ITEMS, DIM, NUM_CATEGORIES, DIAL = 20_000, 64, 240, 0.5
NUM_USERS, NUM_CANDIDATES, K = 512, 100, 20
MANY = 500
GRID = tuple(step / 10 for step in range(11))
WARPREC_PACKAGES = (
    "warprec",
    "warprec.data",
    "warprec.data.entities",
    "warprec.recommenders",
    "warprec.recommenders.reranking",
    "warprec.utils",
)
SWEPT_CANDIDATES, SWEPT_K = (100, 500, 1000, 5000), (10, 20, 50)
NO_WARPREC = "no --warprec DIR: it is installed by itself, its releases want Python 3.12 or later"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: noisier")
    parser.add_argument("--warprec", type=Path, metavar="DIR", help="where WarpRec is installed")
    args = parser.parse_args()
    rounds = 3 if args.quick else 15
    torch.set_num_threads(1)
    shop = make_candidates(NUM_USERS, NUM_CANDIDATES)
    arms = {
        **{name: ours(name, shop, K) for name in RERANKERS},
        **{f"{name}, 11 dials": ours(name, shop, K, GRID) for name in ("mmr", "dpp")},
        **{f"pyversity {name}": theirs(name, shop) for name in ("mmr", "dpp")},
        **{
            name: ours("mmr", shop, K, options=Options(rules=rules(shop)[:count]))
            for name, count in (("1 rule", 1), ("2 rules", 2), ("3 rules", 3))
        },
    }
    times = take_turns(arms, rounds)
    floor_s = dpp_floor(rounds)
    figures = {
        "mmr_vs_pyversity": times_as_fast(times, "mmr", "pyversity mmr"),
        "dpp_vs_pyversity": times_as_fast(times, "dpp", "pyversity dpp"),
        **beside_warprec(args.warprec, shop, rounds),
        "dpp_floor_ratio": round(statistics.median(times["dpp"]) / NUM_USERS / floor_s, 2),
        "grid_of_11_vs_one": times_as_fast(times, "mmr, 11 dials", "mmr", invert=True),
        "dpp_grid_of_11_vs_one": times_as_fast(times, "dpp, 11 dials", "dpp", invert=True),
        "mmr_with_a_rule_vs_without": times_as_fast(times, "1 rule", "mmr", invert=True),
        "mmr_with_two_rules_vs_without": times_as_fast(times, "2 rules", "mmr", invert=True),
        "mmr_with_three_rules_vs_without": times_as_fast(times, "3 rules", "mmr", invert=True),
        "reason_of_null": None if args.warprec else NO_WARPREC,
        "median_us_a_user": {name: per_user(taken, NUM_USERS) for name, taken in times.items()},
        "floor_us_a_user": round(1e6 * floor_s, 2),
        "us_by_candidates": sweep(rounds, [(n, K) for n in SWEPT_CANDIDATES]),
        "us_by_k": sweep(rounds, [(NUM_CANDIDATES, k) for k in SWEPT_K]),
        "rounds": rounds,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, 1 thread, CPU time",
        "versions": {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pyversity": version("pyversity"),
            "python": platform.python_version(),
        },
    }
    print(json.dumps(figures))


def make_candidates(num_users: int, num_candidates: int) -> Candidates:
    """Make random users with candidates from one catalogue."""
    rng = np.random.default_rng(0)
    scores = -np.sort(-rng.normal(size=(num_users, num_candidates)), axis=1)
    items = np.stack([rng.choice(NUM_ITEMS, num_candidates, replace=False) for _ in scores])
    vectors = torch.from_numpy(np.abs(rng.normal(size=(NUM_ITEMS, DIM)))).float()
    return Candidates(
        torch.from_numpy(scores).float(),
        torch.from_numpy(items),
        ItemTraits(
            embeddings_VD=torch.nn.functional.normalize(vectors),
            categories=labels_of_padded(
                torch.from_numpy(rng.integers(NUM_CATEGORIES, size=(NUM_ITEMS, 1)))
            ),
            num_categories=NUM_CATEGORIES,
            num_events_V=torch.ones(NUM_ITEMS, dtype=torch.int64),
            num_train_users=1,
            attributes={
                name: torch.from_numpy(rng.integers(50, size=NUM_ITEMS))
                for name in ("brand", "colour", "price")
            },
        ),
        torch.from_numpy(rng.dirichlet(np.full(NUM_CATEGORIES, 0.05), num_users)).float(),
    )


def rules(candidates: Candidates) -> tuple[Rule, ...]:
    """Return a brand quota, a colour quota in five positions, and a rule for a tenth of items."""
    attributes = candidates.traits.attributes
    cheap_V1 = torch.where(attributes["price"] < 5, 0, -1)[:, None]
    return (
        Rule("at most", labels_of_padded(attributes["brand"][:, None]), 1),
        Rule("at most", labels_of_padded(attributes["colour"][:, None]), 1, window=5),
        Rule("at least", labels_of_padded(cheap_V1), 3),
    )


def ours(
    name: str,
    candidates: Candidates,
    k: int,
    dials: tuple[float, ...] = (DIAL,),
    options: Options | None = None,
) -> Callable[[], object]:
    """Return a function that re-ranks all users."""
    options = options or Options()
    return lambda: RERANKERS[name](candidates, k, dials, options)


def theirs(name: str, candidates: Candidates) -> Callable[[], object]:
    """Return a function that re-ranks all users with pyversity, one after another."""
    embeddings = list(candidates.embeddings_BCD().numpy())
    scores = list(candidates.scores_BC.numpy())
    strategy = getattr(pyversity, name)
    return lambda: [
        strategy(vectors, own, k=K, diversity=DIAL)
        for vectors, own in zip(embeddings, scores, strict=True)
    ]


def beside_warprec(
    directory: Path | None, shop: Candidates, rounds: int
) -> dict[str, float | None]:
    """Compare mmr with WarpRec's MMR, at few candidates and at many."""
    if directory is None:
        return {"mmr_vs_warprec": None}
    few, few_alike = times_as_fast_as_warprec(directory, shop, rounds)
    many, many_alike = times_as_fast_as_warprec(
        directory, make_candidates(NUM_USERS // 8, MANY), rounds
    )
    return {
        "mmr_vs_warprec": many,
        "mmr_vs_warprec_of_100": few,
        "same_slates_as_warprec": round(min(few_alike, many_alike), 4),
    }


def times_as_fast_as_warprec(
    directory: Path, candidates: Candidates, rounds: int
) -> tuple[float, float]:
    """Return how many times as fast mmr is as WarpRec's MMR, and the share of equal slates.

    Both scale relevance the same way. Without negative cosines the objectives differ by a constant,
    so the slates differ only by rounding.
    """
    scores_BC, items_BC = candidates.scores_BC, candidates.items_BC
    peer = warprec_mmr(directory)(
        candidates.traits.embeddings_VD, pool=scores_BC.shape[1], diversity=DIAL
    )

    def choose() -> torch.Tensor:  # without its own top-k
        return peer._select(scores_BC, items_BC, K, None)

    run = ours("mmr", candidates, K)
    is_same_B = (RERANKERS["mmr"](candidates, K, (DIAL,), Options())[:, 0] == choose()).all(dim=1)
    times = take_turns({"mmr": run, "warprec": choose}, rounds)
    return times_as_fast(times, "mmr", "warprec"), float(is_same_B.float().mean())


def warprec_mmr(directory: Path) -> Callable[..., Any]:
    """Load the released class MMR without the other imports of its packages.

    Some of these modules do not run on Python 3.11, and none is needed here.
    """
    sys.path.append(str(directory))
    for name in WARPREC_PACKAGES:
        package = sys.modules.setdefault(name, ModuleType(name))
        package.__path__ = [str(directory.joinpath(*name.split(".")))]
    module = importlib.import_module("warprec.recommenders.reranking.mmr")
    return module.MMR


def take_turns(arms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time all re-rankers in CPU seconds, once per round; the first round is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for index in range(rounds + 1):
        for name, run in arms.items():
            started = time.process_time()
            run()
            if index:
                times[name].append(time.process_time() - started)
    return times


def times_as_fast(
    times: Mapping[str, list[float]], name: str, peer: str, *, invert: bool = False
) -> float:
    """Return the median over rounds of the ratio of two times."""
    ratios = [b / a for a, b in zip(times[name], times[peer], strict=True)]
    ratio = statistics.median(ratios)
    return round(1 / ratio if invert else ratio, 2)


def per_user(taken: list[float], num_users: int) -> float:
    """Return the median in microseconds per user."""
    return round(1e6 * statistics.median(taken) / num_users, 1)


def sweep(rounds: int, sizes: list[tuple[int, int]]) -> dict[str, dict[str, float]]:
    """Time mmr and dpp at numbers of candidates and slate lengths."""
    found: dict[str, dict[str, float]] = {}
    for num_candidates, k in sizes:
        num_users = max(16, NUM_USERS * NUM_CANDIDATES // num_candidates // 4)
        shop = make_candidates(num_users, num_candidates)
        times = take_turns({name: ours(name, shop, k) for name in ("mmr", "dpp")}, rounds)
        found[f"n={num_candidates} k={k}"] = {
            name: per_user(taken, num_users) for name, taken in times.items()
        }
    return found


def dpp_floor(rounds: int) -> float:
    """Return a lower bound of the CPU seconds per user of a greedy DPP on this machine."""
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    block = torch.randn(1 << 22)
    target = torch.empty_like(block)
    times = take_turns(
        {"product": lambda: left @ right, "copy": lambda: target.copy_(block)}, rounds
    )
    flops_s = 2 * 1024**3 / statistics.median(times["product"])
    bytes_s = 2 * 4 * len(block) / statistics.median(times["copy"])
    flops = 2 * K * NUM_CANDIDATES * DIM + K**2 * NUM_CANDIDATES
    return max(flops / flops_s, 4 * NUM_CANDIDATES * DIM / bytes_s)


if __name__ == "__main__":
    main()
