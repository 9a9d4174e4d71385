"""Random draws by name: a function of what a draw is for, never of what was drawn before it.

So ranks and accumulation parts draw alike however a batch is cut, and a resumed run draws what it
would have drawn. Numpy alone: the reader processes import it too.
"""

from __future__ import annotations

import numpy as np


def draw_key(seed: int, step: int, purpose: int) -> np.ndarray:
    """Return the key of a step's draws for one purpose, [1] uint64."""
    # four numbers: no order of an epoch, dropout or negatives of the training loop has as many
    sequence = np.random.SeedSequence(seed, spawn_key=(step, 0, 0, purpose))
    return sequence.generate_state(1, np.uint64)


def uniforms(key: np.ndarray, rows: np.ndarray, columns: np.ndarray | int) -> np.ndarray:
    """Draw from [0, 1): a function of (key, row, column), both >= 0, each by itself.

    Rows and columns are broadcast. Steele, Lea & Flood, 2014, Fast Splittable Pseudorandom Number
    Generators (SplitMix64).
    """
    bits = _split_mix(_split_mix(key, rows), np.atleast_1d(columns))
    return (bits >> 11) * 2.0**-53


def _split_mix(state: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return number `index` of the SplitMix64 sequence of `state`, without those before it."""
    mixed = state + (index.astype(np.uint64) + 1) * 0x9E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB
    return mixed ^ (mixed >> 31)
