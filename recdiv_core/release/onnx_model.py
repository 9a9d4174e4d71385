"""Write a model as an ONNX file, open the file, and score with it.

models/padded_scorer.py defines what is in the file, and parity.py checks it. The packages come with
the extra `export`; no other module needs them. Shapes: B users, L events, V catalogue.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import Packed
from recdiv_core.errors import UserError
from recdiv_core.models.padded_scorer import PaddedScorer
from recdiv_core.slates.scoring import Scoring

PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")
OPSETS: Final = range(18, 24)
"""Versions of the ONNX operators that torch writes and `onnxruntime` reads."""

PADDING: Final = -1
"""Item of an empty place in front of a history."""

ROWS_AT_ONCE: Final = 32
"""Users that are scored at once."""

Inputs = Mapping[str, np.ndarray]


def check_packages() -> None:
    """Check that the packages of the extra `export` are installed.

    Raises:
        UserError: one is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"export needs packages that are not installed: pip install {' '.join(missing)}"
        )


def check_opset(opset: int) -> None:
    """Check the version of the ONNX operators.

    Raises:
        UserError: it cannot be written.
    """
    if opset not in OPSETS:
        raise UserError(f"--opset {opset}: allowed are {OPSETS[0]} to {OPSETS[-1]}")


def write_onnx(scorer: PaddedScorer, path: Path, *, has_times: bool, opset: int) -> None:
    """Write a model as one ONNX file; a model above 2 GiB gets a second file for its weights.

    Args:
        scorer: model, on the CPU.
        path: file to write.
        has_times: whether the log has times; then `times` is an input if the model reads them.
        opset: version of the ONNX operators, see `check_opset`.
    """
    dynamic: Any = torch.export.Dim.DYNAMIC
    inputs = {"items": torch.tensor([[PADDING, PADDING, 0], [PADDING, 0, 0]])}
    shapes: dict[str, dict[int, Any]] = {"items": {0: dynamic, 1: dynamic}}
    if has_times and scorer.reads_times:
        inputs["times"] = torch.tensor([[0, 0, 1], [0, 1, 2]])
        shapes["times"] = {0: dynamic, 1: dynamic}
    if scorer.has_dial:
        inputs["dial"] = torch.zeros(2)
        shapes["dial"] = {0: dynamic}
    # the fused attention of the CPU returns strides that the exporter cannot follow
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _quiet():
        traced = torch.export.export(scorer, (), inputs, dynamic_shapes=shapes, strict=False)
        program: Any = torch.onnx.export(
            traced, output_names=["scores"], opset_version=opset, verbose=False
        )
    program.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter of torch 2.13 says about itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


class OnnxModel:
    """An ONNX file that is open for requests.

    `threads` are those of one request, at least 1.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session: Any = onnxruntime.InferenceSession(path, options)
        self.input_names: list[str] = [each.name for each in self.session.get_inputs()]

    def scores(self, inputs: Inputs) -> np.ndarray:
        """Return [B, V] float32; inputs that the model does not have are left out."""
        given = {name: inputs[name] for name in self.input_names}
        return self.session.run(["scores"], given)[0]


def padded_inputs(examples: Examples, dial: float = 0.0) -> dict[str, np.ndarray]:
    """Return the inputs of an exported model for the histories of some users.

    Histories of a log without times get the times 0, 1, 2, ..., which mean unknown times.

    Returns:
        `items` [B, L] int64, `times` [B, L] int64, `dial` [B] float32; L >= 1.
    """
    num_users, width = len(examples.lengths), int(examples.lengths.max(initial=1))
    items = np.full((num_users, width), PADDING, np.int64)
    times = np.zeros((num_users, width), np.int64)
    row = np.repeat(np.arange(num_users), examples.lengths)
    end = np.cumsum(examples.lengths)
    column = np.arange(len(row)) - end[row] + width
    items[row, column] = examples.items
    times[row, column] = column if examples.times is None else examples.times
    return {"items": items, "times": times, "dial": np.full(num_users, dial, np.float32)}


def scoring_by_onnx(model: OnnxModel, dial: float) -> Scoring:
    """Return how an exported model scores; it reads no query.

    Users of similar length are scored together, because padding costs as much as events.
    """

    def score(examples: Examples, _: Packed) -> torch.Tensor:
        inputs, lengths = padded_inputs(examples, dial), examples.lengths
        order, parts = np.argsort(lengths, kind="stable"), list[np.ndarray]()
        for start in range(0, len(order), ROWS_AT_ONCE):
            rows = order[start : start + ROWS_AT_ONCE]
            width = max(1, int(lengths[rows[-1]]))
            part = {name: inputs[name][rows, -width:] for name in ("items", "times")}
            parts.append(model.scores({**part, "dial": inputs["dial"][rows]}))
        return torch.from_numpy(np.concatenate(parts)[np.argsort(order)])

    return score
