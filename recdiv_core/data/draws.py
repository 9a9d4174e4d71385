"""Random numbers as functions of their purpose, not of earlier random numbers.

So they do not depend on ranks and accumulation parts, and a resumed run repeats them.
"""

from __future__ import annotations

import numpy as np


def draw_key(seed: int, step: int, purpose: int) -> np.ndarray:
    """Return the key of the random numbers of a step for one purpose, [1] uint64."""
    # no other purpose uses four numbers: see plan.py and training/feed.py
    sequence = np.random.SeedSequence(seed, spawn_key=(step, 0, 0, purpose))
    return sequence.generate_state(1, np.uint64)


def uniforms(key: np.ndarray, rows: np.ndarray, columns: np.ndarray | int) -> np.ndarray:
    """Return a random number in [0, 1) for each (key, row, column); row and column >= 0.

    Rows and columns are broadcast. Steele, Lea & Flood, 2014, Fast Splittable Pseudorandom Number
    Generators (SplitMix64).
    """
    bits = _split_mix(_split_mix(key, rows), np.atleast_1d(columns))
    return (bits >> 11) * 2.0**-53


def _split_mix(state: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return element `index` of the SplitMix64 sequence of `state` directly."""
    mixed = state + (index.astype(np.uint64) + 1) * 0x9E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB
    return mixed ^ (mixed >> 31)
