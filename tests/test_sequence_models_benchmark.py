"""What benchmarks/sequence_models.py feeds the models of WarpRec with."""

import numpy as np
import torch

from benchmarks.sequence_models import BATCH, WIDTH, batches, padded, prefixes

NUM_ITEMS = 99


def test_histories_are_padded_on_the_right_and_keep_their_latest_items():
    long = np.arange(WIDTH + 3)
    sequences, lengths = padded([np.array([4, 5]), long, np.zeros(0, np.int64)], NUM_ITEMS)
    assert lengths.tolist() == [2, WIDTH, 0]
    assert sequences[0].tolist() == [4, 5] + [NUM_ITEMS] * (WIDTH - 2)
    assert sequences[1].tolist() == long[3:].tolist()
    assert (sequences[2] == NUM_ITEMS).all()


def test_each_prefix_of_a_history_is_a_sample():
    long = np.arange(WIDTH + 2)
    found = prefixes([np.array([4, 5, 6]), np.array([7]), np.zeros(0, np.int64), long])
    assert [(items.tolist(), target) for items, target in found[:2]] == [([4], 5), ([4, 5], 6)]
    assert len(found) == 2 + WIDTH + 1
    assert found[-1][0].tolist() == long[1:-1].tolist()
    assert found[-1][1] == long[-1]


def test_an_epoch_has_each_sample_once():
    samples = [(np.array([place]), place + 1) for place in range(BATCH + 5)]
    seen = list(batches(samples, np.random.default_rng(0), num_items=NUM_ITEMS * 9))
    assert [len(targets) for _, _, targets in seen] == [BATCH, 5]
    assert torch.cat([targets for *_, targets in seen]).sort().values.tolist() == [
        target for _, target in samples
    ]
    for sequences, lengths, targets in seen:
        assert (sequences[:, 0] + 1 == targets).all()
        assert (lengths == 1).all()
