"""Ragged labels against their padded twin, and what one item of many labels costs."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from recdiv_core.items.labels import FEW, labels_of_lists, labels_of_padded
from recdiv_core.items.traits import history_shares
from recdiv_core.losses.diversity import category_coverage, category_entropy
from recdiv_core.metrics.scorecard import finish_scorecard
from recdiv_core.rerank import NOVELTIES, RERANKERS, Options
from recdiv_core.rerank.breaches import breaches, least_breach, rule_labels
from tests.candidate_worlds import random_candidates, rule
from tests.metric_oracles import scorecard
from tests.slate_worlds import random_slates, replaced
from tests.test_quota import labels_of, only
from tests.test_scorecard import world_of
from tests.worlds import scorecard_tally

MANY = 3 * FEW

lists = st.lists(st.lists(st.integers(0, 9), max_size=4, unique=True), min_size=1, max_size=6)


def ragged(rows):
    values = torch.tensor([label for row in rows for label in row], dtype=torch.int64)
    return labels_of_lists(values, torch.tensor([len(row) for row in rows]))


def with_many(rows, first=100):
    """Return the rows, and one more item with more labels than all items are padded to."""
    return [*rows, list(range(first, first + MANY))]


@given(rows=lists, is_wide=st.booleans(), data=st.data())
def test_items_get_their_own_labels_and_no_item_none(rows, is_wide, data):
    rows = with_many(rows) if is_wide else rows
    labels = ragged(rows)
    items = data.draw(st.lists(st.integers(-1, len(rows) - 1), max_size=8))
    found = labels[torch.tensor(items, dtype=torch.int64)].tolist()
    assert [[label for label in row if label >= 0] for row in found] == [
        rows[item] if item >= 0 else [] for item in items
    ]
    widest = max((len(rows[item]) for item in items if item >= 0), default=0)
    assert all(len(row) == max(1, widest) for row in found if is_wide)


@given(rows=lists, is_wide=st.booleans(), data=st.data())
def test_items_are_shared_out_over_their_labels(rows, is_wide, data):
    rows = with_many(rows) if is_wide else rows
    items = data.draw(st.lists(st.integers(-1, len(rows) - 1), max_size=8))
    row_N, label_N, part_N = ragged(rows).spread(torch.tensor(items, dtype=torch.int64))
    entries = zip(row_N.tolist(), label_N.tolist(), part_N.tolist(), strict=True)
    assert [entry for entry in entries if entry[2]] == [
        (place, label, pytest.approx(1 / len(rows[item])))
        for place, item in enumerate(items)
        if item >= 0
        for label in rows[item]
    ]


@given(rows=lists, is_wide=st.booleans())
def test_who_has_a_label(rows, is_wide):
    rows = with_many(rows) if is_wide else rows
    labels = ragged(rows)
    assert labels.has_any_V.tolist() == [bool(row) for row in rows]
    assert len(labels) == len(rows)


def test_one_item_of_many_labels_costs_its_own_labels():
    num_items = 20_000
    lengths = torch.ones(num_items, dtype=torch.int64)
    lengths[7] = 5000
    labels = labels_of_lists(torch.zeros(int(lengths.sum()), dtype=torch.int64), lengths)
    num_bytes = sum(each.nbytes for each in (labels.values_N, labels.starts_V, labels.lengths_V))
    assert num_bytes < 20 * num_items
    assert labels[torch.arange(100, 200)].shape == (100, 1)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_metrics_are_those_of_the_padded_twin(seed, k):
    world = world_of(seed, num_users=12)
    categories = list(world.categories)
    categories[seed % len(categories)] = list(range(12, 12 + MANY))
    wide = replace(world, categories=categories, num_categories=12 + MANY)
    figures = finish_scorecard(scorecard_tally(wide, k=k))
    assert figures == pytest.approx(scorecard(wide, k=k), rel=1e-6, abs=1e-6)


def wide_candidates(seed):
    """Return candidates of which one item has many labels, some of them those of others."""
    candidates = random_candidates(seed)
    rows = candidates.traits.categories[torch.arange(candidates.traits.num_items)].tolist()
    rows = [[label for label in row if label >= 0] for row in rows]
    rows[int(candidates.items_BC[1, 2])] = [3, 1, *range(5, 5 + MANY)]
    traits = replace(candidates.traits, categories=ragged(rows), num_categories=5 + MANY)
    history_BG = torch.nn.functional.pad(candidates.history_BG, (0, MANY))
    return replace(candidates, traits=traits, history_BG=history_BG)


def padded_to(monkeypatch, width):
    """Pad all items alike up to this many labels, wherever that is asked."""
    for module in ("items.labels", "rerank.greedy", "rerank.fading", "rerank.quota"):
        monkeypatch.setattr(f"recdiv_core.{module}.FEW", width)


@pytest.mark.parametrize("name", NOVELTIES)
@pytest.mark.parametrize("seed", range(2))
def test_slates_are_those_of_the_padded_twin(seed, name, monkeypatch):
    candidates, dials = wide_candidates(seed), [0.0, 0.5, 1.0]
    labels = labels_of(candidates, "category")
    rules = (
        rule("at most", labels, 2),
        rule("distinct", labels, 6),
        rule("at least", only(labels, 3)),
    )
    for own in ((), rules):
        slates = RERANKERS[name](candidates, 6, dials, Options(rules=own))
        with monkeypatch.context() as patch:
            padded_to(patch, 10_000)
            padded = RERANKERS[name](candidates, 6, dials, Options(rules=own))
        assert torch.equal(slates, padded)


def test_breaches_are_those_of_the_padded_twin(monkeypatch):
    candidates = wide_candidates(5)
    labels = labels_of(candidates, "category")
    rules = (rule("at most", labels, 1, 3), rule("distinct", labels, 9))

    def least():
        return [least_breach(one, rule_labels(one, candidates), candidates, 4) for one in rules]

    found = breaches(rules, candidates.items_BC), least()
    padded_to(monkeypatch, 10_000)
    assert torch.equal(breaches(rules, candidates.items_BC), found[0])
    assert torch.equal(torch.stack(least()), torch.stack(found[1]))


def test_losses_are_those_of_the_padded_twin(monkeypatch):
    slates = random_slates(3)
    rows = slates.traits.categories[torch.arange(len(slates.traits.categories))].tolist()
    rows = [[label for label in row if label >= 0] for row in rows]
    rows[int(slates.candidates_BM[0, 0])] = list(range(MANY))
    slates = replaced(slates, categories=ragged(rows), num_categories=MANY)
    rng = np.random.default_rng(0)
    user_S, item_S = (torch.from_numpy(rng.integers(0, size, 50)) for size in (4, len(rows)))

    def values():
        return (
            category_entropy(slates),
            category_coverage(slates),
            history_shares(user_S, item_S, slates.traits, 4),
        )

    ours = values()
    padded_to(monkeypatch, 10_000)
    for own, twin in zip(ours, values(), strict=True):
        torch.testing.assert_close(own, twin)


def test_padding_may_stand_anywhere():
    labels = labels_of_padded(torch.tensor([[-1, 4, 2], [-1, -1, -1], [7, -1, -1]]))
    assert labels[torch.arange(3)].tolist() == [[4, 2], [-1, -1], [7, -1]]
    assert labels_of_padded(torch.full((2, 3), -1)).most == 0
