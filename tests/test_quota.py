import itertools
import os
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from recdiv_core.rerank import NOVELTIES, RERANKERS, Options, greedy
from recdiv_core.rerank.breaches import breaches, least_breach, num_distinct, rule_labels
from tests.candidate_worlds import candidates_of_one, random_candidates, rerank, rule, with_padding

KINDS = ("include", "at most", "at least", "distinct")
NUM_RULE_SETS = int(os.environ.get("RECDIV_FUZZ", "30"))
METHODS = ("none", *NOVELTIES)
DIALS = (0.0, 0.6, 1.0)
methods = st.sampled_from(METHODS)
each_method = pytest.mark.parametrize("name", METHODS)


def labels_of(candidates, name):
    """Return [V, L] labels of an attribute."""
    traits = candidates.traits
    if name == "category":
        return traits.categories[torch.arange(traits.num_items)]
    return traits.attributes[name][:, None]


def only(labels, value):
    return torch.where((labels == value).any(dim=1), 0, -1)[:, None]


def item_rule(kind, candidates, item):
    return rule(kind, only(torch.arange(candidates.traits.num_items)[:, None], item))


def random_rules(rng, candidates, k):
    """Return one to three rules of any kind, which may contradict each other."""
    rules = []
    for _ in range(rng.integers(1, 4)):
        kind = rng.choice([*KINDS, "exclude"], p=[0.1, 0.4, 0.2, 0.2, 0.1])
        labels = labels_of(candidates, rng.choice(["category", "brand", "colour"]))
        one = only(labels, rng.integers(0, 4))
        if kind in ("include", "exclude"):
            rules.append(item_rule(kind, candidates, rng.integers(0, candidates.traits.num_items)))
        elif kind == "at most":
            any_or_one = labels if rng.random() < 0.6 else one
            rules.append(
                rule(kind, any_or_one, int(rng.integers(0, 3)), int(rng.choice([0, 0, 2, 3])))
            )
        elif kind == "at least":
            rules.append(rule(kind, one, int(rng.integers(1, k + 1))))
        else:
            rules.append(rule(kind, labels, int(rng.integers(1, k + 2))))
    return tuple(rules)


def broken_by_hand(rule, slate):
    """Count how far a slate, a list of items without padding, is from keeping a rule."""
    own = [set(rule.labels[torch.tensor(item)].tolist()) - {-1} for item in slate]
    if rule.kind == "exclude":
        return sum(map(bool, own))
    if rule.kind == "distinct":
        return max(0, rule.count - len(set().union(*own)))
    if rule.kind != "at most":
        return max(0, rule.count - sum(map(bool, own)))
    width = min(len(own), rule.window or len(own))
    windows = [own[first : first + width] for first in range(len(own) - width + 1)]
    return sum(
        max(0, sum(label in labels for labels in window) - rule.count)
        for window in windows
        for label in set().union(*window)
    )


def by_kind(rules, slate):
    """Return how much of each kind a slate breaks, what is kept first before the others."""
    broken = [broken_by_hand(rule, slate) for rule in rules]
    return tuple(
        sum(count for rule, count in zip(rules, broken, strict=True) if rule.kind == kind)
        for kind in KINDS
    )


def orders(rules, candidates, k):
    """Yield every slate that one user may be given, as places and as items, in dial 0's order."""
    items = candidates.items_BC[0].tolist()
    excluding = [rule for rule in rules if rule.kind == "exclude"]
    real = [
        place
        for place in torch.isfinite(candidates.scores_BC[0]).nonzero()[:, 0].tolist()
        if not any(broken_by_hand(rule, [items[place]]) for rule in excluding)
    ]
    for places in itertools.permutations(real, min(k, len(real))):
        yield list(places), [items[place] for place in places]


def items_of(candidates, chosen_BWK):
    items_BWC = candidates.items_BC[:, None].expand(-1, chosen_BWK.shape[1], -1)
    return items_BWC.gather(2, chosen_BWK.clamp_min(0)).masked_fill(chosen_BWK < 0, -1)


def without_end(row):
    return [place for place in row if place >= 0]


# --------------------------------------------------------------------------- against all slates


def test_few_slates_break_more_than_they_must_in_random_rule_sets():
    num_worse = 0
    for seed in range(NUM_RULE_SETS):
        rng = np.random.default_rng(seed)
        k = int(rng.integers(1, 4))
        candidates = random_candidates(seed, num_users=1, num_candidates=int(rng.integers(2, 7)))
        rules = random_rules(rng, candidates, k)
        name, dial = METHODS[seed % len(METHODS)], DIALS[seed % len(DIALS)]
        chosen = RERANKERS[name](candidates, k, [dial], Options(rules=rules))
        slate = without_end(items_of(candidates, chosen)[0, 0].tolist())
        broken = by_kind(rules, slate)
        if any(broken):
            least = min(by_kind(rules, own) for _, own in orders(rules, candidates, k))
            num_worse += broken != least
    assert num_worse <= 0.04 * NUM_RULE_SETS


def test_a_slate_that_is_not_stuck_is_the_first_of_those_that_keep_the_rules(monkeypatch):
    stuck = []
    choose_again = greedy._choose_again
    monkeypatch.setattr(
        greedy, "_choose_again", lambda *given: (stuck.append(True), choose_again(*given))[1]
    )
    num_compared = 0
    for seed in range(NUM_RULE_SETS):
        rng = np.random.default_rng(seed)
        k = int(rng.integers(1, 4))
        candidates = random_candidates(seed, num_users=1, num_candidates=6)
        rules = random_rules(rng, candidates, k)
        stuck.clear()
        slate = without_end(rerank("none", candidates, k, 0.0, rules=rules)[0].tolist())
        if not stuck:
            met = rules_without_absent(rules, candidates, k)
            kept = (
                own for own, items in orders(rules, candidates, k) if not any(by_kind(met, items))
            )
            assert slate == next(kept), seed
            num_compared += 1
    assert num_compared > NUM_RULE_SETS / 2


def rules_without_absent(rules, candidates, k):
    """Return the rules asking for no more than the candidates have, as a quota takes them."""
    real = greedy.without_excluded(candidates, rules)
    least = [int(least_breach(rule, rule_labels(rule, real), real, k)) for rule in rules]
    asking = ("include", "at least", "distinct")
    return [
        replace(rule, count=rule.count - count) if rule.kind in asking else rule
        for rule, count in zip(rules, least, strict=True)
    ]


@given(seed=st.integers(0, 10_000), k=st.integers(1, 6))
def test_breaches_are_those_counted_by_hand(seed, k):
    rng = np.random.default_rng(seed)
    candidates = random_candidates(seed, num_users=5)
    rules = random_rules(rng, candidates, k)
    slates = candidates.items_BC[:, :k].clone()
    slates[1, k // 2 :] = -1
    slates[2] = -1
    expected = [
        [broken_by_hand(rule, without_end(slate)) for rule in rules] for slate in slates.tolist()
    ]
    assert breaches(rules, slates).tolist() == expected
    assert torch.equal(breaches(rules, slates[:, None])[:, 0], torch.tensor(expected))


@given(seed=st.integers(0, 10_000), k=st.integers(1, 3))
def test_counting_never_calls_inevitable_what_is_not(seed, k):
    rng = np.random.default_rng(seed)
    candidates = random_candidates(seed, num_users=1, num_candidates=6)
    rules = [rule for rule in random_rules(rng, candidates, k) if rule.kind != "exclude"]
    slates = [items for _, items in orders(rules, candidates, k)]
    for one in rules:
        least = min(broken_by_hand(one, slate) for slate in slates)
        assert int(least_breach(one, rule_labels(one, candidates), candidates, k)) <= least


def test_of_a_short_slate_each_window_counts_once():
    rules = (rule("at most", torch.zeros(3, 1, dtype=torch.int64), 1, window=3),)
    assert breaches(rules, torch.tensor([[0, 1, 2, -1, -1]])).tolist() == [[2]]


def test_different_labels_are_counted_without_padding():
    labels = torch.tensor([[-1, 3, 3, 5], [-1, -1, -1, -1], [2, 1, 2, 0]])
    assert num_distinct(labels).tolist() == [2, 0, 3]


# --------------------------------------------------------------------------- laws


@given(seed=st.integers(0, 10_000), k=st.integers(1, 14), name=methods)
def test_rules_that_the_free_slate_keeps_change_nothing(seed, k, name):
    candidates = random_candidates(seed, num_users=1, dim=24)  # no place is decided by rounding
    free = RERANKERS[name](candidates, k, DIALS, Options())
    for index, dial in enumerate(DIALS):
        slate = without_end(items_of(candidates, free)[0, index].tolist())
        rules = [item_rule("include", candidates, slate[-1])]
        for attribute in ("category", "brand"):
            labels = labels_of(candidates, attribute)
            own = labels[slate]
            values, counts = own[own >= 0].unique(return_counts=True)
            if len(values):
                most = int(counts.max())
                rules += [
                    rule("at most", labels, most),
                    rule("at most", labels, most, window=3),
                    rule("at least", only(labels, int(values[0])), int(counts[0])),
                    rule("distinct", labels, len(values)),
                ]
        bound = RERANKERS[name](candidates, k, [dial], Options(rules=tuple(rules)))
        assert torch.equal(bound[:, 0], free[:, index])


@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 14),
    name=methods,
    dial=st.sampled_from(DIALS),
)
def test_a_slate_under_rules_holds_distinct_real_candidates_and_ends_in_padding(
    seed, k, name, dial
):
    rng = np.random.default_rng(seed)
    is_padding = torch.from_numpy(rng.random((6, 12)) < 0.3)
    is_padding[0] = True
    candidates = with_padding(random_candidates(seed), is_padding)
    rules = random_rules(rng, candidates, k)
    chosen = rerank(name, candidates, k, dial, rules=rules)
    is_out = sum(
        (rule.labels[candidates.items_BC] >= 0).any(dim=2)
        for rule in rules
        if rule.kind == "exclude"
    )
    is_real = torch.isfinite(candidates.scores_BC) & ~torch.as_tensor(is_out).bool()
    for slate, real in zip(chosen.tolist(), is_real, strict=True):
        length = min(k, int(real.sum()))
        assert len(set(slate[:length])) == length
        assert bool(real[slate[:length]].all())
        assert slate[length:] == [-1] * (k - length)


@given(
    seed=st.integers(0, 10_000),
    most=st.integers(1, 2),
    window=st.integers(1, 6),
    dial=st.sampled_from(DIALS),
    name=methods,
)
def test_at_most_holds_in_each_window(seed, most, window, dial, name):
    candidates = random_candidates(seed, num_candidates=30)
    brand = torch.arange(90)[:, None] % 6
    rules = (rule("at most", brand, most, window),)
    slates = rerank(name, candidates, 5, dial, rules=rules)
    for user, slate in enumerate(slates.tolist()):
        brands = brand[candidates.items_BC[user, slate], 0].tolist()
        for first in range(5):
            shown = brands[first : first + window]
            assert max(map(shown.count, shown)) <= most


@given(seed=st.integers(0, 10_000), k=st.integers(1, 8), name=methods)
def test_dial_0_is_the_models_order_within_the_rules(seed, k, name):
    candidates = random_candidates(seed)
    rules = random_rules(np.random.default_rng(seed), candidates, k)
    expected = rerank("none", candidates, k, 0.0, rules=rules)
    assert torch.equal(rerank(name, candidates, k, 0.0, rules=rules), expected)


@each_method
def test_under_rules_a_grid_is_each_dial_and_each_user_by_himself(name, monkeypatch):
    candidates = random_candidates(3, num_users=11)
    rules = random_rules(np.random.default_rng(5), candidates, 6)
    grid = RERANKERS[name](candidates, 6, DIALS, Options(rules=rules))
    for user in (0, 4, 10):  # of different tiles
        alone = candidates.of_rows(slice(user, user + 1))
        for index, dial in enumerate(DIALS):
            assert torch.equal(rerank(name, alone, 6, dial, rules=rules)[0], grid[user, index])
    monkeypatch.setattr("recdiv_core.rerank.greedy.CPU_TILE_BYTES", 4 * 12 * 34 * 4)
    assert torch.equal(RERANKERS[name](candidates, 6, DIALS, Options(rules=rules)), grid)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"none"}))
def test_the_re_ranker_still_chooses_within_the_rules(name):
    candidates = random_candidates(1, num_candidates=60, zeros=0.0)
    rules = (rule("at most", labels_of(candidates, "brand"), 3),)
    dials = [RERANKERS[name](candidates, 8, [dial], Options(rules=rules)) for dial in (0.0, 0.9)]
    assert not torch.equal(*dials)
    assert not breaches(rules, items_of(candidates, torch.cat(dials, dim=1))).any()


# --------------------------------------------------------------------------- by hand


def slate_of(labels, rules, k):
    """Return the slate of one user whose candidates, in the model's order, have these labels."""
    scores = [-float(place) for place in range(len(labels))]
    labels = torch.tensor(labels)[:, None]
    given_rules = tuple(
        rule(kind, labels if value is None else only(labels, value), count, window)
        for kind, value, count, window in rules
    )
    return rerank("none", candidates_of_one(scores), k, 0.0, rules=given_rules)[0].tolist()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([("at most", None, 1, 0)], [0, 1, 2, 5]),  # three labels for four places
        ([("at most", None, 1, 2)], [0, 2, 1, 3]),
        ([("at most", 0, 1, 0)], [0, 2, 3, 4]),
        ([("at most", 0, 0, 0)], [2, 3, 4, 5]),
        ([("at least", 2, 1, 0)], [0, 1, 2, 5]),
        ([("at least", 1, 3, 0)], [0, 2, 3, 4]),
        ([("distinct", None, 3, 0)], [0, 1, 2, 5]),
        ([("at most", None, 2, 0), ("distinct", None, 3, 0)], [0, 1, 2, 5]),
    ],
)
def test_rules_bind_as_late_as_they_can(rules, expected):
    assert slate_of([0, 0, 1, 1, 1, 2], rules, 4) == expected


def test_an_unknown_value_is_like_no_other():
    assert slate_of([-1, -1, -1, 0, 0], [("at most", None, 1, 0)], 4) == [0, 1, 2, 3]
    assert slate_of([-1, -1, 0], [("distinct", None, 1, 0)], 2) == [0, 2]
    assert slate_of([-1, -1, 0], [("at most", None, 0, 0)], 2) == [0, 1]


def test_nothing_has_a_value():
    labels = [-1, -1, -1]
    rules = [("at most", None, 1, 2), ("at least", 3, 2, 0), ("distinct", None, 2, 0)]
    assert slate_of(labels, rules, 2) == [0, 1]


def test_one_place_and_fewer_candidates_than_places():
    assert slate_of([0, 1], [("at least", 1, 1, 0)], 1) == [1]
    assert slate_of([0, 1], [("at least", 1, 1, 0)], 4) == [0, 1, -1, -1]
    assert slate_of([0, 0], [("at most", None, 1, 0)], 4) == [0, 1, -1, -1]


@pytest.mark.parametrize(
    ("first", "then"), [(a, b) for index, a in enumerate(KINDS) for b in KINDS[index + 1 :]]
)
def test_what_is_kept_first_is_kept(first, then):
    candidates = candidates_of_one([4.0, 3.0, 2.0, 1.0])
    rules = {  # the first place alone: each kind wants another candidate in it
        "include": item_rule("include", candidates, 3),
        "at most": rule("at most", torch.tensor([[0], [0], [-1], [0]]), 0),
        "at least": rule("at least", torch.tensor([[-1], [0], [-1], [-1]])),
        "distinct": rule("distinct", torch.tensor([[4], [-1], [-1], [-1]])),
    }
    wanted = {"include": 3, "at most": 2, "at least": 1, "distinct": 0}
    for own in ((rules[first], rules[then]), (rules[then], rules[first])):
        chosen = rerank("none", candidates, 1, 0.0, rules=own)
        assert chosen.tolist() == [[wanted[first]]]
        is_broken = breaches(own, candidates.items_BC[:, None].gather(2, chosen[:, None])) > 0
        assert is_broken.tolist() == [[[rule.kind == then for rule in own]]]


def test_an_item_both_included_and_excluded_is_out():
    candidates = candidates_of_one([3.0, 2.0, 1.0])
    rules = (item_rule("include", candidates, 0), item_rule("exclude", candidates, 0))
    chosen = rerank("none", candidates, 2, 0.0, rules=rules)
    assert chosen.tolist() == [[1, 2]]
    assert (breaches(rules, chosen) > 0).tolist() == [[True, False]]


def test_one_candidate_may_meet_two_rules():
    labels = torch.tensor([[0, -1], [1, -1], [0, -1], [0, 1]])
    rules = (rule("at least", only(labels, 0), 1), rule("at least", only(labels, 1), 1))
    candidates = candidates_of_one([4.0, 3.0, 2.0, 1.0])
    assert rerank("none", candidates, 1, 0.0, rules=rules).tolist() == [[3]]
    assert rerank("none", candidates, 2, 0.0, rules=rules).tolist() == [[0, 1]]


def test_a_slate_does_not_depend_on_the_users_of_its_batch():
    candidates = random_candidates(8, num_users=40, num_candidates=9)
    rules = (
        rule("at most", labels_of(candidates, "brand"), 1),
        rule("at most", labels_of(candidates, "colour"), 1, window=3),
        rule("distinct", labels_of(candidates, "category"), 5),
    )
    together = RERANKERS["mmr"](candidates, 4, [0.5], Options(rules=rules))
    for user in range(0, 40, 3):
        alone = candidates.of_rows(slice(user, user + 1))
        assert torch.equal(
            RERANKERS["mmr"](alone, 4, [0.5], Options(rules=rules))[0], together[user]
        )


def test_no_users_and_no_dials_make_no_slates():
    candidates = random_candidates(0)
    options = Options(rules=(rule("distinct", labels_of(candidates, "brand"), 2),))
    assert RERANKERS["mmr"](candidates.of_rows(slice(0, 0)), 2, [0.5], options).shape == (0, 1, 2)
    assert RERANKERS["mmr"](candidates, 2, [], options).shape == (6, 0, 2)
    assert breaches((), candidates.items_BC).shape == (6, 0)


def test_exposure_refuses_rules():
    candidates = random_candidates(0)
    rules = (rule("at most", labels_of(candidates, "brand"), 1),)
    with pytest.raises(ValueError, match=r"rerank\.rules do not go with rerank\.method=exposure"):
        rerank("exposure", candidates, 2, 0.5, rules=rules)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([rule("at most", torch.zeros(36, 1))] * 32, "32 given, at most 31 allowed"),
        ([rule("at most", torch.zeros(35, 1))], "expected labels of 36 items; got 35"),
    ],
)
def test_broken_rules_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        rerank("mmr", random_candidates(0), 2, 0.5, rules=tuple(rules))
