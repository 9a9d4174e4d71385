"""Measure the cost of evaluation, and compare metric values with other libraries.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --quick
    python -m benchmarks.evaluation --rectools PYTHON --replay PYTHON --ranx PYTHON

100,000 users with slates of 10 out of 50,000 items, in batches of 4,096, one thread. Each library
runs in its own interpreter (`benchmarks/peer_metrics.py`), because RecTools and RePlay need other
versions of numpy and pandas. pyndeval and vendi-score, which `make setup` installs, run in ours.
Ratios are their seconds over ours for the same metrics of the same slates; null = not installed.
All seconds are CPU time, which other processes disturb least.

`scoring_floor_ratio` divides two times. The first one covers scoring, the best 100 items and the
metrics of an epoch at 10. The second one is the matrix product that full ranking needs. The shop
has the size of Amazon Beauty (22,363 users, 12,101 items, 64 dimensions, batches of 512).
`scoring_floors` adds all metrics and a larger shop. `peak_mib` is the growth of the process during
the evaluation. Prints one JSON line:
{"metrics_vs_replay", "metrics_vs_rectools", "scoring_floor_ratio", "peak_mib",
"max_difference": {peer: {metric: difference}}, ...}.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peer_metrics import PEERS
from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import ItemTraits, describe_items
from recdiv_core.metrics.scorecard import finish_scorecard, user_metrics
from recdiv_core.metrics.slate_batch import Background
from recdiv_core.metrics.tally import USER_METRICS, Tally, UserMetrics, tally_slates
from recdiv_core.slates.making import count_above, count_rankable, make_slates
from recdiv_core.slates.policy import SlatePolicy

K, DIM, TEXT_DIM, NUM_CATEGORIES = 10, 64, 384, 240
SCORED_AT_ONCE, JUDGED_AT_ONCE = 512, 4096  # users
FLOORS = ((22_363, 12_101), (10_240, 50_000))
FEW_FLOORS = ((5_120, 12_101),)
BEST = SlatePolicy(
    k=100,
    filter_seen=True,
    method="none",
    diversity=0.0,
    num_candidates=100,
    logit_adjustment=0.0,
)
ASKED_AGAIN = {"rectools_without_ild": "rectools"}  # the same interpreter, other metrics

Arrays = dict[str, np.ndarray]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the users: noisier")
    for name in sorted({*PEERS} - {*ASKED_AGAIN}):
        own = sys.executable if name in ("pyndeval", "vendi_score") else None
        parser.add_argument(f"--{name}", metavar="PYTHON", default=own)
    args = parser.parse_args()
    torch.set_num_threads(1)
    num_users, rounds = (10_000, 3) if args.quick else (100_000, 5)
    world = make_world(np.random.default_rng(0), num_users=num_users, num_items=50_000)
    traits, num_train_users = traits_of(world), int(world["train_user"].max()) + 1
    before = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak
    whole_s, figures = judge(world, traits, user_metrics(traits.attributes), rounds=rounds)
    figures["map_over_targets"] = map_over_targets(world)
    grown = memory_mib("VmHWM") - before
    few_s, _ = judge(world, traits, USER_METRICS, rounds=rounds)
    peers = ask_peers(world, {name: vars(args)[ASKED_AGAIN.get(name, name)] for name in PEERS})
    same_s = {
        name: judge(world, traits, only(traits, peer["values"]), rounds=rounds)[0]
        for name, peer in peers.items()
        if peer
    }
    ratios = {n: round(peers[n]["seconds"] / s, 2) for n, s in same_s.items()}
    floors = [
        scoring_floor(rounds, num_users=num_users, num_items=num_items)
        for num_users, num_items in (FEW_FLOORS if args.quick else FLOORS)
    ]
    print(
        json.dumps(
            {
                "metrics_vs_replay": ratios.get("replay"),
                "metrics_vs_rectools": ratios.get("rectools"),
                "scoring_floor_ratio": floors[0]["every_epoch_ratio"],
                "peak_mib": round(grown),
                "ratios": ratios,
                "scoring_floors": floors,
                "whole_set_s": round(whole_s, 2),
                "every_epoch_s": round(few_s, 2),
                "max_difference": {
                    name: differences(name, peer["values"], figures, num_train_users)
                    for name, peer in peers.items()
                    if peer
                },
                "num_users": num_users,
                "num_metrics": len(figures),
                "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, 1 thread",
                "versions": {
                    "torch": torch.__version__,
                    "python": platform.python_version(),
                    **{name: peer["version"] for name, peer in peers.items() if peer},
                },
            }
        )
    )


def make_world(rng: np.random.Generator, *, num_users: int, num_items: int) -> Arrays:
    """Make slates, held-out and train events; popular items are more frequent in all of them.

    Every item has a train event, no user has an item twice, and no slate is short. Libraries treat
    such cases differently, and this benchmark compares only the common definition.
    """
    popular = rng.permutation(num_items)

    def draw(width: int) -> np.ndarray:
        """Return distinct items of each user, [U, width]; the first of `popular` are likeliest."""
        rows = (num_items * rng.random((num_users, width)) ** 3).astype(np.int64)
        while True:
            rows.sort(axis=1)
            is_same = np.zeros(rows.shape, dtype=np.bool_)
            is_same[:, 1:] = rows[:, 1:] == rows[:, :-1]
            if not is_same.any():
                return popular[rng.permuted(rows, axis=1)]
            rows[is_same] = rng.integers(num_items, size=int(is_same.sum()))

    targets = draw(12)
    targets[np.arange(12) >= rng.integers(1, 13, num_users)[:, None]] = -1
    slates = draw(K)
    is_hit = rng.random(num_users) < 0.3  # random slates would have no hits
    place = rng.integers(K, size=num_users)
    held = (slates == targets[:, :1]).any(axis=1)
    rows = np.nonzero(is_hit & ~held)[0]
    slates[rows, place[rows]] = targets[rows, 0]
    train = draw(8)
    train_user, train_item = np.repeat(np.arange(num_users), 8), train.ravel()
    unmet = np.setdiff1d(np.arange(num_items), train_item)
    train_user = np.concatenate([train_user, np.full(len(unmet), num_users)])
    train_item = np.concatenate([train_item, unmet])
    vectors = rng.normal(size=(num_items, TEXT_DIM)).astype(np.float32)
    return {
        "slates": slates,
        "targets": targets,
        "train_user": train_user,
        "train_item": train_item,
        "popularity": np.bincount(train_item, minlength=num_items),
        "categories": rng.integers(NUM_CATEGORIES, size=(num_items, 1)),
        "embeddings": vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    }


def traits_of(world: Arrays) -> ItemTraits:
    """Return the items of the world."""
    return describe_items(
        torch.from_numpy(world["embeddings"]),
        labels_of_padded(torch.from_numpy(world["categories"])),
        torch.from_numpy(world["popularity"]),
        num_train_users=int(world["train_user"].max()) + 1,
        num_categories=NUM_CATEGORIES,
        attributes={"brand": torch.from_numpy(world["categories"][:, 0] * 7 % 50)},
    )


def judge(
    world: Arrays, traits: ItemTraits, metrics: UserMetrics, *, rounds: int
) -> tuple[float, dict[str, float]]:
    """Return the median seconds to evaluate all users, and the metrics by name without cut-off."""
    slates, targets = torch.from_numpy(world["slates"]), torch.from_numpy(world["targets"])
    num_users, taken = len(slates), list[float]()
    backgrounds = [
        background_of(world, start, min(start + JUDGED_AT_ONCE, num_users))
        for start in range(0, num_users, JUDGED_AT_ONCE)
    ]
    figures: dict[str, float] = {}
    is_whole = not metrics.keys() <= USER_METRICS.keys()
    for _ in range(rounds):
        started = time.process_time()
        tally = Tally.zeros(traits, k=K, names=metrics)
        for index, background in enumerate(backgrounds):
            users = slice(index * JUDGED_AT_ONCE, (index + 1) * JUDGED_AT_ONCE)
            tally += tally_slates(
                slates[users],
                targets[users],
                traits,
                k=K,
                metrics=metrics,
                background=background if is_whole else None,
            )
        figures = finish_scorecard(tally)
        taken.append(time.process_time() - started)
    return statistics.median(taken), {n.removesuffix(f"_at_{K}"): v for n, v in figures.items()}


def background_of(world: Arrays, start: int, stop: int) -> Background:
    """Return the histories of a batch, and made-up ranks of its targets."""
    first, last = np.searchsorted(world["train_user"], [start, stop])
    targets = torch.from_numpy(world["targets"][start:stop])
    return Background(
        history_user_S=torch.from_numpy(world["train_user"][first:last] - start),
        history_item_S=torch.from_numpy(world["train_item"][first:last]),
        num_above_BT=(targets * 7919 % 50_000).double(),
        num_rankable_B=torch.full((stop - start,), 50_000),
    )


def only(traits: ItemTraits, names: Collection[str]) -> UserMetrics:
    """Return our user metrics of these names; system metrics are always computed."""
    return {
        name: metric for name, metric in user_metrics(traits.attributes).items() if name in names
    }


def ask_peers(world: Arrays, interpreters: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the printed result of each library; None = not installed."""
    script = Path(__file__).parent / "peer_metrics.py"
    answers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "world.npz"
        np.savez(path, allow_pickle=False, **world)
        for name, python in interpreters.items():
            if python is None:
                option = f"--{ASKED_AGAIN.get(name, name)} PYTHON"
                print(f"{name}: null, no interpreter given ({option})", file=sys.stderr)
                answers[name] = None
                continue
            done = subprocess.run(
                [python, str(script), name, str(path)],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
            )
            if done.returncode:
                why = done.stderr.strip().rpartition("\n")[2]
                print(f"{name}: null, {why}", file=sys.stderr)
            answers[name] = None if done.returncode else json.loads(done.stdout.splitlines()[-1])
    return answers


def differences(
    peer: str, values: Mapping[str, float], figures: Mapping[str, float], num_train_users: int
) -> dict[str, float]:
    """Return the differences from a library's values, after converting ours to its definitions."""
    theirs = dict(figures)
    if peer == "replay":  # it divides surprisal by its largest value
        theirs["novelty"] /= math.log2(num_train_users)
    if ASKED_AGAIN.get(peer, peer) in ("rectools", "ranx"):  # they do not divide by min(k, |Rel|)
        theirs["map"] = figures["map_over_targets"]
    return {name: float(f"{abs(value - theirs[name]):.1e}") for name, value in values.items()}


def map_over_targets(world: Arrays) -> float:
    """Return MAP with the number of targets as the denominator, whatever the slate length."""
    slates, targets = world["slates"], world["targets"]
    is_hit = (slates[:, :, None] == targets[:, None, :]).any(axis=2) & (slates >= 0)
    ranks = np.arange(1, K + 1)
    sums = (is_hit * is_hit.cumsum(axis=1) / ranks).sum(axis=1)
    return float((sums / (targets >= 0).sum(axis=1)).mean())


def scoring_floor(rounds: int, *, num_users: int, num_items: int) -> dict[str, Any]:
    """Return the time of evaluation over the time of its matrix products, batch by batch.

    States are random. A user has eight events and one target; metrics at 10 of the best 100 items.
    """
    rng = np.random.default_rng(0)
    world = make_world(rng, num_users=num_users, num_items=num_items)
    traits = traits_of(world)
    metrics = user_metrics(traits.attributes)
    states = torch.from_numpy(rng.standard_normal((num_users, DIM), dtype=np.float32))
    items = torch.from_numpy(rng.standard_normal((num_items, DIM), dtype=np.float32))
    history = torch.from_numpy(world["train_item"][: 8 * num_users].reshape(num_users, 8))
    targets = torch.from_numpy(world["targets"][:, :1])
    targets = targets.masked_fill((history == targets).any(dim=1, keepdim=True), -1)

    def product(users: slice) -> torch.Tensor:
        return torch.mm(states[users], items.T, out=space[: users.stop - users.start])

    def best(users: slice) -> tuple[torch.Tensor, ...]:
        scores = product(users)
        seen_item = history[users].flatten()
        seen_user = torch.arange(len(scores)).repeat_interleave(8)
        slates, _ = make_slates(scores, seen_user, seen_item, traits, none, BEST)
        return slates, targets[users], scores, seen_user, seen_item

    def every_epoch(users: slice) -> object:
        slates, wanted, *_ = best(users)
        return tally_slates(slates, wanted, traits, k=K)

    def whole_set(users: slice) -> object:
        slates, wanted, scores, seen_user, seen_item = best(users)
        background = Background(
            history_user_S=seen_user,
            history_item_S=seen_item,
            num_above_BT=count_above(scores, wanted),
            num_rankable_B=count_rankable(scores),
        )
        return tally_slates(slates, wanted, traits, k=K, metrics=metrics, background=background)

    none, space = torch.zeros(num_items), torch.empty(SCORED_AT_ONCE, num_items)
    arms = {"product": product, "every_epoch": every_epoch, "whole_set": whole_set}
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds + 1):
        seconds = dict.fromkeys(arms, 0.0)
        for start in range(0, num_users, SCORED_AT_ONCE):
            for name, arm in arms.items():
                started = time.process_time()
                arm(slice(start, min(start + SCORED_AT_ONCE, num_users)))
                seconds[name] += time.process_time() - started
        for name, value in seconds.items():
            taken[name].append(value)
    medians = {name: statistics.median(values[1:]) for name, values in taken.items()}  # 1 warms up
    return {
        "num_users": num_users,
        "num_items": num_items,
        **{f"{name}_us": round(1e6 * value / num_users, 1) for name, value in medians.items()},
        **{
            f"{name}_ratio": round(medians[name] / medians["product"], 2)
            for name in ("every_epoch", "whole_set")
        },
    }


def memory_mib(what: str) -> float:
    """Return VmRSS, the current memory of this process, or VmHWM, its largest memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(rf"{what}:\s+(\d+) kB", status)[0]) / 1024


if __name__ == "__main__":
    main()
