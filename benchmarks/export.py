"""Measure one request of an exported model beside the model of the registry, on one thread.

    recdiv export --checkpoint DIR --out runs/export/shop --int8
    python -m benchmarks.export --checkpoint DIR --export runs/export/shop

Histories of held-out users, one request at a time, without a query. Arms take turns in one process.
Each is timed in CPU seconds of its thread, which other processes disturb least. Prints one JSON
line:

- `onnx_ms`, `int8_ms`: the client of docs/export.md, from item ids to a slate;
- `registry_ms`: the same by `SlateMaker`, which the registered model calls;
- `towers_ms`: the scores of the learned model and its blend by torch, without slates;
- `registry_vs_onnx`: how many times as long the registry's model takes;
- `same_slates`: share of slates that client and registry give alike, order included;
- `*_start_s`, `*_memory_mib`: wall time and peak memory of a new process that answers one request;
- `*_mib`: size of the files.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from recdiv_core.config import override
from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import pack
from recdiv_core.data.reading import read_eval
from recdiv_core.slates.maker import SlateMaker
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import scoring_of

PAGE = Path(__file__).parents[1] / "docs" / "export.md"
K = 10
ANSWER_BY_TORCH = """
from pathlib import Path
from recdiv_core.slates.maker import SlateMaker
maker = SlateMaker(Path({checkpoint!r}), Path({prepared!r}))
maker.slates([[]], k=10, model_diversity=0.0, rerank_diversity=0.0)
"""
MEASURE = """
status = open("/proc/self/status").read()
print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--export", type=Path, required=True, help="made with --int8")
    parser.add_argument("--requests", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    maker = maker_without_dates(args.checkpoint)
    requests = requests_of(maker, args.requests)
    clients = {
        name: client_of(args.export, file)
        for name, file in (("onnx", "model.onnx"), ("int8", "model.int8.onnx"))
    }
    arms: dict[str, Callable[[Examples], Any]] = {
        "registry": lambda request: by_registry(maker, request),
        "towers": towers(maker),
        **{name: as_arm(client, maker.item_ids) for name, client in clients.items()},
    }
    times_s, slates = take_turns(arms, requests)
    median_ms = {name: 1e3 * statistics.median(own) for name, own in times_s.items()}
    pairs = list(zip(slates["registry"], slates["onnx"], strict=True))
    found: dict[str, Any] = {f"{name}_ms": round(ms, 3) for name, ms in median_ms.items()}
    found["registry_vs_onnx"] = round(median_ms["registry"] / median_ms["onnx"], 2)
    found["same_slates"] = sum(one == other for one, other in pairs) / len(pairs)
    codes = {
        "onnx": client_source(args.export, "model.onnx") + "\nslate([])\n",
        "registry": ANSWER_BY_TORCH.format(
            checkpoint=str(args.checkpoint.absolute()), prepared=str(maker.dataset.prepared)
        ),
    }
    for name, code in codes.items():
        found[f"{name}_start_s"], found[f"{name}_memory_mib"] = start(code)
    for name in ("model.onnx", "model.int8.onnx"):
        found[f"{name}_mib"] = round((args.export / name).stat().st_size / 2**20, 2)
    facts = {"num_items": len(maker.item_ids), "requests": len(requests)}
    print(json.dumps({**found, **facts, "machine": platform.machine()}))


def maker_without_dates(checkpoint: Path) -> SlateMaker:
    """Return the model that a registry serves; items need no dates, which an export ignores."""
    from recdiv_core.slates.checkpoint import read_config

    prepared = Path(read_config(checkpoint).data.prepared)
    maker = SlateMaker(checkpoint, prepared)
    maker.config = override(maker.config, {"eligible.dates": False})
    maker.policy = slate_policy(maker.config, maker.dataset, maker.model.lifts)
    return maker


def requests_of(maker: SlateMaker, num_requests: int) -> list[Examples]:
    """Return requests of the test split, one user each, without queries."""
    share = read_eval(maker.dataset.prepared, "test", batch_size=1, rank=0, world_size=1)
    return [replace(each, queries=each.queries * 0 - 1) for each in islice(share, num_requests)]


def client_source(place: Path, file: str) -> str:
    """Return the client of docs/export.md for an export, with one thread."""
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    source = source.partition("print(")[0].replace('"runs/export/shop"', repr(str(place)))
    one = "options = onnxruntime.SessionOptions()\noptions.intra_op_num_threads = 1\n"
    session = "session = onnxruntime.InferenceSession("
    source = source.replace(session, one + session).replace('"model.onnx")', f'"{file}", options)')
    return source


def client_of(place: Path, file: str) -> Callable[..., list[str]]:
    """Return the function of the client."""
    found: dict[str, Any] = {}
    exec(compile(client_source(place, file), str(PAGE), "exec"), found)
    return found["slate"]


def as_arm(client: Callable[..., list[str]], ids: list[str]) -> Callable[[Examples], Any]:
    """Return what answers a request by the client."""
    return lambda request: client(events_of(request, ids), K)


def events_of(request: Examples, ids: list[str]) -> list[tuple[str, int]]:
    """Return the events of a request as (item_id, microseconds)."""
    times = range(len(request.items)) if request.times is None else request.times.tolist()
    return [(ids[item], time) for item, time in zip(request.items.tolist(), times, strict=True)]


def by_registry(maker: SlateMaker, request: Examples) -> list[str]:
    """Answer a request as the registered model does."""
    events = events_of(request, maker.item_ids)
    history, times = [item for item, _ in events], [time for _, time in events]
    asked = {"k": K, "model_diversity": 0.0, "rerank_diversity": 0.0}
    return maker.slates([history], None, [times], **asked)[0].item_ids


def towers(maker: SlateMaker) -> Callable[[Examples], Any]:
    """Return what scores a request by torch, without a slate."""
    score, max_history = scoring_of(maker.model, 0.0), maker.config.model.max_history

    def answer(request: Examples) -> None:
        with torch.inference_mode():
            score(request, pack(request, max_history=max_history))

    return answer


def take_turns(
    arms: dict[str, Callable[[Examples], Any]], requests: list[Examples]
) -> tuple[dict[str, list[float]], dict[str, list[Any]]]:
    """Return the CPU seconds and the answer of each request by each arm."""
    times_s: dict[str, list[float]] = {name: [] for name in arms}
    answers: dict[str, list[Any]] = {name: [] for name in arms}
    for arm in arms.values():
        for request in requests[:5]:
            arm(request)
    for request in requests:
        for name, arm in arms.items():
            start_s = time.thread_time()
            answers[name].append(arm(request))
            times_s[name].append(time.thread_time() - start_s)
    return times_s, answers


def start(code: str) -> tuple[float, float]:
    """Run a program that answers one request; return its wall time in s and peak memory in MiB."""
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{MEASURE}"], capture_output=True, text=True, check=True
    )
    return round(time.monotonic() - start_s, 2), round(float(done.stdout.split()[-1]), 1)


if __name__ == "__main__":
    main()
