from collections import Counter

import numpy as np
import pytest
import torch

from recdiv_core.items.traits import history_shares
from tests.slate_worlds import NUM_CATEGORIES, NUM_ITEMS, random_slates, replaced


@pytest.mark.parametrize("seed", range(4))
def test_history_shares_count_every_event_and_split_it_over_labels(seed):
    rng = np.random.default_rng(seed)
    traits = random_slates(seed).traits
    users, items = rng.integers(0, 4, 25), rng.integers(0, NUM_ITEMS, 25)
    shares = history_shares(torch.from_numpy(users), torch.from_numpy(items), traits, 6)
    for user in range(6):
        counts = Counter()
        for item in items[users == user]:
            padded = traits.categories[torch.tensor(item)].tolist()
            labels = [label for label in padded if label >= 0]
            counts.update(dict.fromkeys(labels, 1 / len(labels)))
        total = sum(counts.values())
        expected = [counts[label] / total if total else 0 for label in range(NUM_CATEGORIES)]
        assert shares[user].tolist() == pytest.approx(expected)


def test_no_events_give_rows_of_zeros():
    none = torch.zeros(0, dtype=torch.int64)
    assert torch.equal(history_shares(none, none, random_slates(0).traits, 2), torch.zeros(2, 3))


def test_squared_norms_are_1_for_unit_vectors_and_0_for_zeros():
    slates = replaced(random_slates(0), embeddings_VD=torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    assert slates.traits.squared_norm_V.tolist() == pytest.approx([1, 0])
    assert slates.traits.num_items == 2
