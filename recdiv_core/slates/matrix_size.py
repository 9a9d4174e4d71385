"""Refuse a dense matrix of items x items that does not fit into memory, before it is made.

The driver checks this before Ray starts, so the module imports nothing heavy.
"""

from __future__ import annotations

import os
from typing import Final

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.schema import Manifest

EASE_ITEMS: Final = 6_000
"""Most popular items of EASE as a term of a blend: its matrix takes .4 GiB and seconds."""

BYTES_PER_ENTRY: Final = 12
"""Memory of EASE per entry of its matrix: float64, and float32 for the result."""

SPARSE: Final = ("rp3beta", "item_knn", "graph")
"""Kinds of model with a similar use whose memory grows with the number of items."""


def check_size(config: Config, manifest: Manifest, memory: int | None = None) -> None:
    """Refuse a dense matrix of items x items that does not fit into memory.

    Ease needs one, as the kind of the model or as a term of its blend.

    Args:
        config: `model`.
        manifest: of the prepared data set.
        memory: bytes; None = physical memory of this machine.

    Raises:
        UserError: the matrix is too large.
    """
    kind, blend = config.model.kind, config.model.blend
    if not (kind == "ease" or (kind == "neural" and "ease" in blend)):
        return
    memory = memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    num_items = manifest.num_items
    limit = config.model.baseline.max_items or (num_items if kind == "ease" else EASE_ITEMS)
    size = min(num_items, limit)
    if BYTES_PER_ENTRY * size**2 > memory:
        fits = int((memory / 2 / BYTES_PER_ENTRY) ** 0.5)
        name = "model.kind=ease" if kind == "ease" else "ease in model.blend"
        raise UserError(
            f"{name} inverts a matrix of {size} x {size} items, which takes "
            f"{BYTES_PER_ENTRY * size**2 / 2**30:.2g} GiB; this machine has "
            f"{memory / 2**30:.2g} GiB. Restrict it to the most popular items with "
            f"model.baseline.max_items={fits}, or take a sparse kind: {', '.join(SPARSE)}"
        )
