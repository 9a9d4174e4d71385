"""Run the tests for GPUs and time a training step, on a machine with torch.

    make gpu
    python -m benchmarks.gpu
    python -m benchmarks.gpu --quick

Needs neither Ray nor pyarrow: torch, NumPy and SciPy do, pytest for the tests, transformers
for the encoder. So it can be carried to a machine that has a GPU and
little else. Takes less than eight minutes. Without CUDA the tests are skipped, and the steps run on
the CPU; take --quick there.

Prints one JSON line: the device; the outcome of the tests; per way of training the median
milliseconds of a step, its users (or texts) per second, and the memory in MiB that it adds at its
peak. Ways of `towers`: a step of the recommender at w = 0 and w = 0.2, in fp32, in bf16, in bf16
with compiled towers. Ways of `encoder`: forward and backward of a text encoder of BERT's build with
six trained layers, in fp32, in bf16, and in bf16 with layers computed again. The steps of different
ways alternate, so that a busy machine slows all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch

from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import pack
from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import ItemTraits
from recdiv_core.models.item_tower import ItemTower
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.session_tower import SessionTower
from recdiv_core.training.objective import Objective
from recdiv_core.training.parts import Part
from recdiv_core.training.step import train_step

ROOT: Final = Path(__file__).parents[1]
TESTS_S: Final = 200
"""Most seconds of the tests."""
TEXT_DIM: Final = 384
MAX_HISTORY: Final = 50
NUM_CATEGORIES: Final = 20


class Size(NamedTuple):
    """Size of the measured steps.

    Attributes:
        items: catalogue.
        users: of a step.
        dim: of the towers.
        texts: of a step of the encoder, each of `tokens` tokens.
        tokens: of a text.
        layers: of the encoder.
        steps: that are timed, of each way.
    """

    items: int = 50_000
    users: int = 512
    dim: int = 128
    texts: int = 512
    tokens: int = 32
    layers: int = 6
    steps: int = 20


QUICK: Final = Size(items=500, users=8, dim=16, texts=4, tokens=8, layers=2, steps=2)
WARM_UP: Final = 3
"""Steps before the timed ones; compilation takes place in them."""

Step = Callable[[], object]


def made_users(size: Size) -> Examples:
    """Return users with random histories of 2 to 50 events."""
    rng = np.random.default_rng(0)
    lengths = rng.geometric(1 / 15, size.users).clip(2, MAX_HISTORY)
    items = rng.integers(0, size.items, int(lengths.sum()))
    return Examples(
        items=items,
        lengths=lengths,
        queries=np.full(len(items), -1),
        weights=np.ones(len(items), np.float32),
        targets=np.zeros(0, np.int64),
        target_lengths=np.zeros(0, np.int64),
    )


def made_traits(size: Size) -> ItemTraits:
    """Return random properties of the items."""
    draws = torch.Generator().manual_seed(0)
    vectors = torch.randn(size.items, TEXT_DIM, generator=draws)
    return ItemTraits(
        embeddings_VD=torch.nn.functional.normalize(vectors, dim=1),
        categories=labels_of_padded(torch.arange(size.items)[:, None] % NUM_CATEGORIES),
        num_categories=NUM_CATEGORIES,
        num_events_V=torch.randint(0, 100, (size.items,), generator=draws),
        num_train_users=size.users,
        attributes={},
    )


def tower_step(
    size: Size, device: torch.device, *, weight: float, precision: torch.dtype, compiled: bool
) -> Step:
    """Return a training step of the recommender with a frozen encoder."""
    traits = made_traits(size)
    model = Recommender(
        ItemTower(traits.num_events_V, text_dim=TEXT_DIM, dim=size.dim, id_dropout=0.0),
        SessionTower(dim=size.dim, num_layers=2, num_heads=4, max_history=MAX_HISTORY, dropout=0.3),
        text_VH=traits.embeddings_VD,
        queries_QH=None,
        dim=size.dim,
    ).to(device)
    if compiled:
        model.compile_towers()
    mix = {"ild": 1.0, "coverage": 3.0}
    objective = Objective("softmax", weight, mix, traits.to(device))
    part = Part(pack(made_users(size), max_history=MAX_HISTORY).to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    shown_V = torch.zeros(size.items, device=device)
    return lambda: train_step(
        model,
        [part],
        objective,
        optimizer,
        scaler,
        precision=precision,
        clip_norm=1.0,
        shown_V=shown_V,
        negatives=None,
    )


def encoder_step(
    size: Size, device: torch.device, source: str, *, precision: torch.dtype, recomputes: bool
) -> Step:
    """Return the forward and backward pass of a text encoder whose layers all train."""
    from recdiv_core.models.text_encoder import mean_pool
    from recdiv_core.models.trainable_encoder import trainable_encoder

    encoder = trainable_encoder(source, size.layers, 0, recomputes=recomputes).to(device)
    ids = torch.randint(1, 1000, (size.texts, size.tokens), device=device)
    mask = torch.ones_like(ids)

    def step() -> None:
        encoder.zero_grad(set_to_none=True)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        mean_pool(states.float(), mask).square().sum(1).log().sum().backward()

    return step


@contextlib.contextmanager
def made_encoder(size: Size) -> Iterator[str]:
    """Yield the path of an encoder of the width of MiniLM-L6, with random weights."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=TEXT_DIM,
        num_hidden_layers=size.layers,
        num_attention_heads=12,
        intermediate_size=4 * TEXT_DIM,
        vocab_size=1000,
    )
    with tempfile.TemporaryDirectory() as path:
        BertModel(config).save_pretrained(path)
        yield path


def timed(steps: dict[str, Step], per_step: int, size: Size, device: torch.device) -> dict:
    """Time steps in turns; a way that fails for want of memory says so."""
    peaks: dict[str, int] = {}
    failed: dict[str, dict[str, str]] = {}
    for name, step in steps.items():
        before = _start_peak(device)
        try:
            for _ in range(WARM_UP):
                step()
        except torch.OutOfMemoryError as error:
            failed[name] = {"error": str(error).splitlines()[0]}
        peaks[name] = _peak(device) - before
    taken: dict[str, list[float]] = {name: [] for name in steps if name not in failed}
    for _ in range(size.steps):
        for name, times in taken.items():
            _wait(device)
            started = time.perf_counter()
            steps[name]()
            _wait(device)
            times.append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return failed | {
        name: {
            "ms": round(1000 * median, 2),
            "per_s": round(per_step / median),
            "peak_mib": peaks[name] // 2**20,
        }
        for name, median in medians.items()
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _start_peak(device: torch.device) -> int:
    """Forget the peak so far; return the bytes that are allocated now, 0 on the CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def run_tests() -> str:
    """Run the tests for GPUs in a process of their own; return the last line of pytest."""
    if importlib.util.find_spec("pytest") is None:
        return "not run: pytest is not installed"
    # the settings of the project and conftest.py need packages that are not there
    options = ["-q", "-rs", "--noconftest", "-o", "addopts=", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "-m", "gpu", "tests/test_gpu.py"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not finished after {TESTS_S} s"
    sys.stderr.write(done.stdout + done.stderr)
    return (done.stdout.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def measure(size: Size, device: torch.device) -> dict:
    """Time all ways of training."""
    precisions = {"fp32": torch.float32, "bf16": torch.bfloat16}
    towers = {
        f"w={weight:g} {name}": tower_step(
            size, device, weight=weight, precision=precision, compiled=False
        )
        for weight in (0.0, 0.2)
        for name, precision in precisions.items()
    }
    if device.type == "cuda":
        for weight in (0.0, 0.2):
            towers[f"w={weight:g} bf16 compiled"] = tower_step(
                size, device, weight=weight, precision=torch.bfloat16, compiled=True
            )
    found = {"towers": timed(towers, size.users, size, device)}
    del towers
    if importlib.util.find_spec("transformers") is None:
        return found | {"encoder": "not measured: transformers is not installed"}
    with made_encoder(size) as source:
        encoders = {
            name: encoder_step(size, device, source, precision=precision, recomputes=False)
            for name, precision in precisions.items()
        }
        encoders["bf16 layers computed again"] = encoder_step(
            size, device, source, precision=torch.bfloat16, recomputes=True
        )
        found["encoder"] = timed(encoders, size.texts, size, device)
    return found


def main() -> None:
    """Run the tests, time the steps, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny steps, for a try on a CPU")
    parser.add_argument("--no-tests", action="store_true", help="time the steps alone")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    size = QUICK if options.quick else Size()
    tests = "not run" if options.no_tests else run_tests()
    report = {"device": name, "torch": torch.__version__, "tests": tests, "size": size._asdict()}
    print(json.dumps(report | measure(size, device)))


if __name__ == "__main__":
    main()
