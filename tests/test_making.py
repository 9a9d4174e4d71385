import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import ItemTraits
from recdiv_core.rerank import RERANKERS, Options
from recdiv_core.rerank.candidates import Rule
from recdiv_core.rerank.drawn import are_bound, draw, hash_histories
from recdiv_core.rerank.wanted import with_wanted
from recdiv_core.slates.making import (
    NUMBERS_AT_ONCE,
    count_above,
    count_rankable,
    make_slate_grid,
    make_slates,
)
from recdiv_core.slates.policy import SlatePolicy
from tests.candidate_worlds import rule
from tests.oracles import mmr_slate

NUM_ITEMS, DIM = 12, 4
LOG_PRIOR = (torch.arange(1.0, NUM_ITEMS + 1) / 78).log()


def policy(**changes):
    settings = {"k": 5, "filter_seen": True, "method": "none", "diversity": 0.0}
    return SlatePolicy(**{**settings, "num_candidates": 8, "logit_adjustment": 0.0, **changes})


def world(seed, *, num_users=4):
    """Return states, item vectors and yardstick vectors of whole numbers: scores are exact."""
    rng = torch.Generator().manual_seed(seed)
    states = torch.randint(-3, 4, (num_users, DIM), generator=rng).float()
    items = torch.randint(-3, 4, (NUM_ITEMS, DIM), generator=rng).float()
    yardstick = torch.randn(NUM_ITEMS, 3, generator=rng)
    return states, items, torch.nn.functional.normalize(yardstick)


def traits(embeddings):
    return ItemTraits(
        embeddings_VD=embeddings,
        categories=labels_of_padded(torch.arange(NUM_ITEMS)[:, None] % 4),
        num_categories=4,
        num_events_V=torch.ones(NUM_ITEMS, dtype=torch.int64),
        num_train_users=1,
        attributes={"brand": torch.arange(NUM_ITEMS) // 4},
    )


def slates_of(seed, seen, **changes):
    """Return slates and scores of users with these items seen."""
    states, items, embeddings = world(seed, num_users=len(seen))
    return make_slates(
        states @ items.T,
        torch.tensor([user for user, own in enumerate(seen) for _ in own], dtype=torch.int64),
        torch.tensor([item for own in seen for item in own], dtype=torch.int64),
        traits(embeddings),
        LOG_PRIOR,
        policy(**changes),
    )


seen_lists = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=16), min_size=1, max_size=5)
methods = st.tuples(st.sampled_from(sorted(RERANKERS)), st.sampled_from([0.0, 0.5, 1.0]))


@given(seen_lists, methods, st.integers(0, 100))
def test_seen_items_never_appear_and_slates_are_as_long_as_they_can_be(seen, method, seed):
    name, diversity = method
    slates, _ = slates_of(seed, seen, method=name, diversity=diversity)
    for slate, own in zip(slates.tolist(), seen, strict=True):
        shown = [item for item in slate if item >= 0]
        assert len(set(shown)) == len(shown) == min(5, NUM_ITEMS - len(set(own)))
        assert not set(shown) & set(own)
        assert slate == shown + [-1] * (5 - len(shown))


@given(seen_lists, methods, st.integers(0, 100))
def test_scores_are_those_of_the_items_beside_them(seen, method, seed):
    name, diversity = method
    slates, scores = slates_of(seed, seen, method=name, diversity=diversity)
    states, items, _ = world(seed, num_users=len(seen))
    expected = (states @ items.T).gather(1, slates.clamp_min(0))
    assert torch.equal(scores, expected.masked_fill(slates < 0, -torch.inf))


@given(seen_lists, st.integers(0, 100))
def test_without_a_re_ranker_a_slate_holds_the_highest_scores_in_order(seen, seed):
    _, scores = slates_of(seed, seen)
    states, items, _ = world(seed, num_users=len(seen))
    everything = (states @ items.T).tolist()
    for row, (user, own) in enumerate(zip(everything, seen, strict=True)):
        left = sorted((score for item, score in enumerate(user) if item not in own), reverse=True)
        expected = (left + [-float("inf")] * 5)[:5]
        assert scores[row].tolist() == expected


def test_seen_items_may_be_shown_again_where_the_policy_says_so():
    seen = [[0, 1, 2], [3]]
    unfiltered = slates_of(1, seen, filter_seen=False)
    assert torch.equal(unfiltered[0], slates_of(1, [[], []])[0])


def test_a_catalogue_shorter_than_a_slate_is_shown_whole():
    slates, _ = slates_of(2, [[4]], k=15, num_candidates=15)
    assert set(slates[0, :11].tolist()) == set(range(NUM_ITEMS)) - {4}
    assert slates[0, 11:].tolist() == [-1] * 4


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("method", RERANKERS)
def test_dial_0_is_no_re_ranking(method, filter_seen):
    seen = [[0, 1, 2], [], [5]]
    plain = slates_of(3, seen, filter_seen=filter_seen)
    dialled = slates_of(3, seen, filter_seen=filter_seen, method=method)
    assert torch.equal(dialled[0], plain[0])
    assert torch.equal(dialled[1], plain[1])


def test_a_dial_without_a_re_ranker_changes_nothing():
    assert torch.equal(slates_of(4, [[]], diversity=0.9)[0], slates_of(4, [[]])[0])


@pytest.mark.parametrize("seed", range(5))
def test_mmr_chooses_from_the_best_candidates_by_the_yardstick(seed):
    slates, _ = slates_of(seed, [[], []], method="mmr", diversity=0.6)
    states, items, embeddings = world(seed, num_users=2)
    for row, user in enumerate(states @ items.T):
        scores, best = (falling[:8] for falling in user.sort(descending=True, stable=True))
        chosen = mmr_slate(scores.tolist(), embeddings[best].numpy(), 5, 0.6)
        assert slates[row].tolist() == best[chosen].tolist()


def test_ties_are_broken_alike_for_a_user_alone_and_in_any_batch():
    states = torch.zeros(40, DIM)
    states[::2] = torch.tensor([1.0, 0, 0, 0])
    items = torch.from_numpy(np.eye(DIM, dtype=np.float32)[np.arange(NUM_ITEMS) % DIM])
    none = torch.zeros(0, dtype=torch.int64)

    def slates_for(some):
        return make_slates(some @ items.T, none, none, traits(items), LOG_PRIOR, policy())[0]

    together = slates_for(states)
    alone = [slates_for(states[[row]])[0] for row in range(40)]
    assert torch.equal(together, torch.stack(alone))


def test_no_users_get_no_slates():
    slates, scores = make_slates(
        torch.zeros(0, NUM_ITEMS), *[torch.zeros(0, dtype=torch.int64)] * 2,
        traits(torch.ones(NUM_ITEMS, 3)), LOG_PRIOR, policy(),
    )  # fmt: skip
    assert slates.shape == scores.shape == (0, 5)


def test_logit_adjustment_takes_popularity_off_the_scores():
    states, items, _ = world(3, num_users=2)
    slates, scores = slates_of(3, [[], []], logit_adjustment=2.0)
    adjusted = states @ items.T - 2.0 * LOG_PRIOR
    best, expected = adjusted.topk(5, dim=1)
    assert torch.equal(slates, expected)
    torch.testing.assert_close(scores, best)


def test_a_calibrated_slate_is_of_the_categories_of_the_history():
    slates, _ = slates_of(1, [[1, 5], [2, 6]], k=1, method="calibrated", diversity=1.0)
    assert (slates[:, 0] % 4).tolist() == [1, 2]


def test_the_policys_options_reach_the_re_ranker():
    chosen = {"k": 3, "method": "alpha", "diversity": 1.0, "num_candidates": NUM_ITEMS}
    brands, _ = slates_of(2, [[]], **chosen, options=Options(attributes={"brand": 1.0}))
    categories, _ = slates_of(2, [[]], **chosen, options=Options(attributes={"category": 1.0}))
    assert sorted((brands[0] // 4).tolist()) == [0, 1, 2]
    assert len(set((categories[0] % 4).tolist())) == 3
    assert brands.tolist() != categories.tolist()


def test_items_above_are_counted_with_half_of_the_ties():
    scores = torch.tensor([[5.0, 3.0, 3.0, 1.0, -torch.inf], [0.0, 0.0, 0.0, 0.0, 0.0]])
    above = count_above(scores, torch.tensor([[0, 1, 3, -1], [2, -1, -1, -1]]))
    assert above.tolist() == [[0.0, 1.5, 3.0, 0.0], [2.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("method", RERANKERS)
def test_a_grid_holds_the_slates_of_each_dial(method):
    states, items, embeddings = world(3, num_users=6)
    seen_user, seen_item = torch.tensor([0, 0, 2]), torch.tensor([1, 5, 7])
    given = (seen_user, seen_item, traits(embeddings), LOG_PRIOR)
    dials = [0.0, 0.3, 1.0]
    grid = make_slate_grid(states @ items.T, *given, policy(method=method), dials)
    slates, scores = grid.items_BWK, grid.scores_BWK
    assert slates.shape == scores.shape == (6, 3, 5)
    assert torch.equal(grid.candidates.items_BC.gather(1, grid.chosen_BWK[:, 0]), slates[:, 0])
    for index, dial in enumerate(dials):
        alone = make_slates(states @ items.T, *given, policy(method=method, diversity=dial))
        assert torch.equal(slates[:, index], alone[0])
        assert torch.equal(scores[:, index], alone[1])


@given(levels=st.integers(1, 50), num_targets=st.integers(0, 9), seed=st.integers(0, 2**20))
def test_items_above_are_those_of_an_obvious_count(levels, num_targets, seed):
    num_items = NUMBERS_AT_ONCE // 4 + 3  # a few users at once, and some left
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randn(5, num_items, generator=generator) * levels).round()
    targets = torch.randint(-1, num_items, (5, num_targets), generator=generator)
    above = count_above(scores, targets)
    for row, wanted, counted in zip(scores, targets.tolist(), above.tolist(), strict=True):
        assert counted == [
            0 if item < 0 else int((row > row[item]).sum()) + int((row == row[item]).sum() - 1) / 2
            for item in wanted
        ]


@pytest.mark.parametrize("num_users", [0, 1, 7])
def test_items_that_may_be_shown_are_counted(num_users):
    scores = torch.zeros(num_users, NUMBERS_AT_ONCE // 4 + 3)
    for user in range(num_users):
        scores[user, : 3 * user] = -torch.inf
    rankable = count_rankable(scores)
    assert rankable.dtype == torch.int64
    assert rankable.tolist() == [scores.shape[1] - 3 * user for user in range(num_users)]


# --------------------------------------------------------------------------- rules


def item_rule(kind, item):
    return rule(kind, torch.where(torch.arange(NUM_ITEMS) == item, 0, -1)[:, None])


def plain_order(seed, seen=()):
    states, items, _ = world(seed, num_users=1)
    scores = (states @ items.T)[0]
    scores[list(seen)] = -torch.inf
    order = scores.argsort(descending=True, stable=True)
    return order[scores[order] > -torch.inf].tolist(), scores


@pytest.mark.parametrize("method", ["none", "mmr"])
def test_an_included_item_comes_from_behind_the_candidates_with_its_own_score(method):
    order, scores = plain_order(3)
    last = order[-1]
    rules = Options(rules=(item_rule("include", last),))
    slates, found = slates_of(3, [[]], method=method, num_candidates=5, k=4, options=rules)
    assert slates[0].tolist()[-1] == last
    assert torch.equal(found[0], scores[slates[0]])


def test_an_included_item_far_behind_does_not_change_what_the_dial_weighs():
    free, _ = slates_of(3, [[]], method="mmr", diversity=0.4, num_candidates=6, k=3)
    last = plain_order(3)[0][-1]
    rules = Options(rules=(item_rule("include", last),))
    bound, _ = slates_of(3, [[]], method="mmr", diversity=0.4, num_candidates=6, k=4, options=rules)
    assert bound[0, :3].tolist() == free[0].tolist()
    assert int(bound[0, 3]) == last


def test_an_included_item_among_the_candidates_is_there_once():
    first = plain_order(3)[0][0]
    rules = Options(rules=(item_rule("include", first), item_rule("include", first)))
    free = slates_of(3, [[]], method="mmr", diversity=0.4)
    bound = slates_of(3, [[]], method="mmr", diversity=0.4, options=rules)
    assert torch.equal(bound[0], free[0])
    assert torch.equal(bound[1], free[1])


def test_an_included_item_that_was_seen_is_not_shown():
    rules = Options(rules=(item_rule("include", 4),))
    slates, scores = slates_of(3, [[4], []], options=rules)
    assert 4 not in slates[0].tolist()
    assert 4 in slates[1].tolist()
    assert bool(scores.isfinite().all())
    assert 4 in slates_of(3, [[4]], options=rules, filter_seen=False)[0][0].tolist()


def test_several_included_items_come_in_the_order_of_their_scores():
    order, _ = plain_order(5)
    rules = Options(rules=tuple(item_rule("include", item) for item in (order[-1], order[-2])))
    slates, _ = slates_of(5, [[]], num_candidates=6, k=4, options=rules)
    assert slates[0].tolist() == [*order[:2], order[-2], order[-1]]


def test_an_excluded_item_leaves_its_place_to_the_next():
    order, _ = plain_order(6)
    rules = Options(rules=(item_rule("exclude", order[1]),))
    slates, _ = slates_of(6, [[]], num_candidates=3, k=3, options=rules)
    assert slates[0].tolist() == [order[0], *order[2:4]]


@pytest.mark.parametrize("method", sorted(set(RERANKERS) - {"exposure"}))
def test_rules_bind_every_method_at_every_dial(method):
    rules = (Rule("at most", traits(world(7)[2]).categories, 1),)
    for diversity in (0.0, 0.7):
        chosen = {"method": method, "diversity": diversity, "num_candidates": 12, "k": 4}
        slates, _ = slates_of(7, [[], [1, 2]], **chosen, options=Options(rules=rules))
        assert (slates % 4).sort(dim=1).values.tolist() == [[0, 1, 2, 3]] * 2


def test_items_that_are_asked_for_and_lack_among_the_candidates_come_besides():
    order, scores = plain_order(8)
    wanted = sorted(order[6:], key=order.index)  # none among the six candidates
    labels = torch.full((NUM_ITEMS, 1), -1)
    labels[wanted] = 0
    rules = Options(rules=(rule("at least", labels, 2), item_rule("include", wanted[0])))
    slates, found = slates_of(8, [[]], num_candidates=6, k=5, options=rules)
    assert slates[0].tolist()[:4] == [*order[:3], wanted[0]]
    assert slates[0].tolist()[4] in wanted
    assert torch.equal(found[0], scores[[*order[:3], *wanted[:2]]])  # two score alike


def test_only_as_many_come_besides_as_lack():
    states, items, _ = world(9, num_users=3)
    scores = states @ items.T
    labels = torch.where(torch.arange(NUM_ITEMS) % 3 == 0, 0, -1)[:, None]
    top_scores, top_items = scores.topk(5, dim=1)
    own, ranked, candidates = with_wanted(
        scores, top_scores, top_items, [rule("at least", labels, 3)], torch.zeros(3)
    )
    num_there = (top_items % 3 == 0).sum(dim=1)
    assert torch.equal(own.isfinite().sum(dim=1), 5 + (3 - num_there).clamp_min(0))
    is_added = own.isfinite() & (torch.arange(own.shape[1]) >= 5)
    assert bool((candidates[is_added] % 3 == 0).all())
    assert torch.equal(own[is_added], scores.gather(1, candidates)[is_added])
    assert torch.equal(ranked[is_added], top_scores[:, -1:].expand_as(ranked)[is_added])


def flat(seen):
    """Return the user and the item of each event."""
    pairs = [(user, item) for user, own in enumerate(seen) for item in own]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T


@pytest.mark.parametrize("method", ["none", "mmr", "calibrated"])
@pytest.mark.parametrize("share", [0.01, 0.4, 1.0])
def test_a_rule_that_draws_binds_the_slates_that_histories_draw(method, share):
    seen = [[item, (item + step) % NUM_ITEMS] for item in range(NUM_ITEMS) for step in (1, 3)]
    seen.append([])
    labels = torch.where(torch.arange(NUM_ITEMS) % 4 == 0, 0, -1)[:, None]
    one = rule("draw", labels, 1, share=share)
    settings = {"method": method, "diversity": 0.3, "filter_seen": False, "num_candidates": 6}
    slates, _ = slates_of(3, seen, **settings, options=Options(rules=(one,)))
    never = Options(rules=(rule("at most", labels, 9),))
    plain, _ = slates_of(3, seen, **settings, options=never)
    hashes = hash_histories(*flat(seen), len(seen))
    items = torch.arange(0, NUM_ITEMS, 4)
    is_drawn = draw(hashes, items, torch.ones(len(seen), 3, dtype=torch.bool), 1)
    drawn = items[is_drawn.int().argmax(dim=1)]
    is_bound = are_bound(one, hashes)
    assert bool(is_bound[-1]) is (share == 1)
    assert bool((slates == drawn[:, None]).any(dim=1)[is_bound].all())
    assert torch.equal(slates[~is_bound], plain[~is_bound])


@pytest.mark.parametrize("method", ["dpp", "beam"])
def test_a_slate_that_no_rule_binds_is_the_one_without_rules(method):
    seen = [[item, (item + step) % NUM_ITEMS] for item in range(NUM_ITEMS) for step in (1, 3)]
    labels = [torch.where(torch.arange(NUM_ITEMS) % 4 == part, 0, -1)[:, None] for part in (0, 1)]
    rules = (rule("draw", labels[0], share=0.3), rule("draw", labels[1], share=0.6))
    settings = {"method": method, "diversity": 0.4, "filter_seen": False, "num_candidates": 6}
    slates, _ = slates_of(4, seen, **settings, options=Options(rules=rules))
    plain, _ = slates_of(4, seen, **settings)
    alone, _ = slates_of(4, seen, **settings, options=Options(rules=rules[1:]))
    first, second = (are_bound(each, hash_histories(*flat(seen), len(seen))) for each in rules)
    assert 0 < first.sum() < second.sum() < len(seen)  # one hash: a small share is part of a large
    assert torch.equal(slates[~second], plain[~second])
    assert torch.equal(slates[second & ~first], alone[second & ~first])
    assert bool((slates % 4 == 1).any(dim=1)[second].all())


def test_an_item_that_was_seen_is_not_drawn():
    labels = torch.where(torch.arange(NUM_ITEMS) < 3, 0, -1)[:, None]
    rules = (rule("draw", labels, 2),)
    slates, _ = slates_of(5, [[0], [1], [2], [0, 1], [0, 1, 2]], options=Options(rules=rules))
    number = (slates < 3).logical_and(slates >= 0).sum(dim=1)
    assert (number[:3] == 2).all()
    assert number[3] == 1
    assert number[4] == 0


def test_draws_are_even_and_alike_for_a_user_alone_and_in_any_order_of_the_history():
    rng = np.random.default_rng(0)
    seen = [rng.integers(0, 500, size).tolist() for size in rng.integers(1, 9, 400)]
    together = hash_histories(*flat(seen), 400)
    for row in (0, 7, 399):
        alone = torch.tensor(rng.permutation(seen[row]))
        assert hash_histories(torch.zeros_like(alone), alone, 1)[0] == together[row]
    for share in (0.1, 0.5, 0.9):
        is_bound = are_bound(rule("draw", torch.zeros(1, 1), share=share), together)
        assert float(is_bound.double().mean()) == pytest.approx(share, abs=0.06)
    counts = draw(together, torch.arange(20), torch.ones(400, 20, dtype=torch.bool), 1).sum(dim=0)
    assert counts.sum() == 400
    assert int(counts.min()) > 8
    assert int(counts.max()) < 36


@given(
    st.sampled_from(sorted(set(RERANKERS) - {"exposure"})),
    st.sampled_from([0.0, 0.6]),
    st.lists(st.integers(0, NUM_ITEMS - 1), unique=True, max_size=4),
    st.lists(st.integers(0, NUM_ITEMS - 1), unique=True, max_size=5),
    st.integers(0, 50),
)
def test_rules_of_items_are_kept_alike_apart_or_as_one(method, diversity, ins, outs, seed):
    def together(kind, chosen):
        labels = torch.full((NUM_ITEMS, 1), -1)
        labels[chosen] = 0
        return [rule(kind, labels, max(1, len(chosen)))] if chosen else []

    ins = [item for item in ins if item not in outs]
    apart = [item_rule("include", item) for item in ins]
    apart += [item_rule("exclude", item) for item in outs]
    chosen = {"method": method, "diversity": diversity, "num_candidates": 6}
    wanted, scores = slates_of(seed, [[], [0, 1]], **chosen, options=Options(rules=tuple(apart)))
    one = (*together("include", ins), *together("exclude", outs))
    slates, found = slates_of(seed, [[], [0, 1]], **chosen, options=Options(rules=one))
    assert slates.tolist() == wanted.tolist()
    assert torch.equal(found, scores)
    assert not set(slates.flatten().tolist()) & set(outs)
