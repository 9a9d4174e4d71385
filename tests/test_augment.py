import importlib.util
from dataclasses import fields, replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from recdiv_core.data.augment import augment_histories, augment_tokens, mask_and_separator
from recdiv_core.data.catalogue import make_texts
from recdiv_core.data.reading import Examples
from recdiv_core.models.text_encoder import OFFLINE_PACKAGE, load_tokenizer

ALL = {"crop": 0.3, "mask": 0.3, "reorder": 0.3}
CLS, SEP, MASK, BAR = 101, 102, 103, 1064
WORDS = st.integers(0, 90)
WORD_63 = 2**64 - 1

histories = st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=8)
seeds = st.integers(0, 2**40)
steps = st.integers(0, 10**6)
texts = st.lists(st.lists(st.lists(WORDS, max_size=4), min_size=1, max_size=4), max_size=6)


def examples_of(users):
    """Return train examples whose queries and weights tell every event from any other."""
    items = np.array([item for user in users for item in user], np.int64)
    return Examples(
        items=items,
        lengths=np.array([len(user) for user in users], np.int64),
        queries=np.arange(len(items)),
        weights=np.arange(len(items), dtype=np.float32) / 7,
        targets=np.zeros(0, np.int64),
        target_lengths=np.zeros(0, np.int64),
    )


def augmented(users, shares, *, seed=0, step=0, first_user=0):
    return augment_histories(
        examples_of(users), shares, seed=seed, step=step, first_user=first_user
    )


def hidden(examples):
    none = np.zeros(len(examples.items), bool)
    return none if examples.is_hidden is None else examples.is_hidden


def events_of(examples):
    """Return each user's events as (item, query, weight, is hidden)."""
    rows = list(
        zip(
            examples.items.tolist(),
            examples.queries.tolist(),
            examples.weights.tolist(),
            hidden(examples).tolist(),
            strict=True,
        )
    )
    stops = np.cumsum(examples.lengths)
    return [rows[end - size : end] for size, end in zip(examples.lengths, stops, strict=True)]


def draw(state, *indices):
    """Walk SplitMix64 from `state` to the draw of each index, which seeds the next walk."""
    for index in indices:
        for _ in range(index + 1):
            state = (state + 0x9E3779B97F4A7C15) & WORD_63
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD_63
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD_63
        state ^= state >> 31
    return state


def uniform(seed, step, purpose, row, column):
    sequence = np.random.SeedSequence(seed, spawn_key=(step, 0, 0, purpose))
    return (draw(int(sequence.generate_state(1, np.uint64)[0]), row, column) >> 11) / 2**53


def augmented_events(users, shares, *, seed, step, first_user):
    """Do slowly what augment_histories does, to what events_of returns: user by user."""
    result = []
    for row, events in enumerate(events_of(examples_of(users))):
        size = len(events)
        draws = [uniform(seed, step, 0, first_user + row, i) for i in range(size + 2)]
        window = max(2, size * 3 // 5)
        begin = int(draws[1] * (size - window + 1)) if size >= 2 else 0
        middle = range(begin, begin + window)
        below_mask = shares.get("crop", 0) + shares.get("mask", 0)
        if draws[0] < shares.get("crop", 0):
            events = [events[i] for i in middle] if size >= 2 else events
        elif draws[0] < below_mask:
            order = sorted(range(size), key=lambda i: draws[2 + i])
            chosen = order[: max(1, size * 3 // 10)] if size >= 2 else []
            events = [(*event[:3], i in chosen) for i, event in enumerate(events)]
        elif draws[0] < below_mask + shares.get("reorder", 0) and size >= 3:
            order = sorted(middle, key=lambda i: draws[2 + i])
            events = events[:begin] + [events[i] for i in order] + events[begin + window :]
        result.append(events)
    return result


def join(fields):
    """Return [CLS] field | field [SEP]."""
    ids = [CLS]
    for number, words in enumerate(fields):
        ids += [BAR] * (number > 0) + words
    return [*ids, SEP]


def cut(ids):
    """Return the fields of a text, the opposite of join."""
    assert ids[0] == CLS
    assert ids[-1] == SEP
    fields = [[]]
    for token in ids[1:-1]:
        if token == BAR:
            fields.append([])
        else:
            fields[-1].append(token)
    return fields


def thinned(input_ids, *, items=None, token_mask=0.0, field_dropout=0.0, seed=0, step=0):
    return augment_tokens(
        input_ids,
        items=np.arange(len(input_ids)) if items is None else np.array(items, np.int64),
        token_mask=token_mask,
        field_dropout=field_dropout,
        mask_id=MASK,
        separator_id=BAR,
        seed=seed,
        step=step,
    )


def thinned_text(ids, item, *, token_mask, field_dropout, seed, step):
    """Do slowly what augment_tokens does to one text."""
    masked = [
        MASK if 0 < i < len(ids) - 1 and uniform(seed, step, 2, item, i) < token_mask else token
        for i, token in enumerate(ids)
    ]
    places = [[]]
    for i in range(1, len(ids) - 1):
        if ids[i] == BAR:
            places.append([])
        places[-1].append(i)
    draws = [uniform(seed, step, 1, item, number) for number in range(len(places))]
    filled = [u for u, own in zip(draws, places, strict=True) if any(ids[i] != BAR for i in own)]
    highest = max(filled, default=None)
    kept = []
    for u, own in zip(draws, places, strict=True):
        if u >= field_dropout or u == highest:
            kept.append(own)
    if kept and kept[0] and ids[kept[0][0]] == BAR:
        kept[0] = kept[0][1:]
    return [masked[0], *(masked[i] for own in kept for i in own), masked[-1]]


def test_the_twins_draws_are_those_of_splitmix64():
    # https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64
    assert [draw(1234567, index) for index in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@settings(max_examples=30, deadline=None)
@given(histories, seeds, steps, st.integers(0, 40), st.lists(st.integers(0, 3), max_size=3))
def test_histories_are_augmented_as_user_by_user(users, seed, step, first_user, thirds):
    names = ("crop", "mask", "reorder")
    shares = {name: third / 9 for name, third in zip(names, thirds, strict=False)}
    where = {"seed": seed, "step": step, "first_user": first_user}
    expected = augmented_events(users, shares, **where)
    assert events_of(augmented(users, shares, **where)) == expected


@settings(max_examples=60, deadline=None)
@given(histories, seeds, steps, st.integers(0, 8), st.integers(0, 40))
def test_a_batch_in_parts_is_augmented_as_in_one(users, seed, step, cut_at, first_user):
    cut_at = min(cut_at, len(users))
    where = {"shares": ALL, "seed": seed, "step": step}
    head = augment_histories(examples_of(users[:cut_at]), first_user=first_user, **where)
    whole = examples_of(users)
    num_events = int(whole.lengths[:cut_at].sum())
    rest = replace(
        whole,
        lengths=whole.lengths[cut_at:],
        **{name: getattr(whole, name)[num_events:] for name in ("items", "queries", "weights")},
    )
    tail = augment_histories(rest, first_user=first_user + cut_at, **where)
    together = augment_histories(whole, first_user=first_user, **where)
    assert events_of(head) + events_of(tail) == events_of(together)


@settings(max_examples=60, deadline=None)
@given(histories, seeds)
def test_a_crop_is_a_contiguous_part(users, seed):
    result = augmented(users, {"crop": 1.0}, seed=seed)
    for whole, part in zip(events_of(examples_of(users)), events_of(result), strict=True):
        size = len(whole) if len(whole) < 2 else max(2, len(whole) * 6 // 10)
        assert part in [whole[i : i + size] for i in range(len(whole) - size + 1)]


@settings(max_examples=60, deadline=None)
@given(histories, seeds)
def test_a_mask_hides_inputs_and_nothing_else(users, seed):
    before, after = examples_of(users), augmented(users, {"mask": 1.0}, seed=seed)
    for field in fields(Examples):
        if field.name != "is_hidden":
            np.testing.assert_array_equal(getattr(after, field.name), getattr(before, field.name))
    sizes = [len(user) for user in users]
    counts = [sum(is_hidden for *_, is_hidden in events) for events in events_of(after)]
    assert counts == [max(1, size * 3 // 10) if size > 1 else 0 for size in sizes]


@settings(max_examples=60, deadline=None)
@given(histories, seeds)
def test_reordered_events_are_the_same_and_stand_in_one_window(users, seed):
    result = augmented(users, {"reorder": 1.0}, seed=seed)
    for before, after in zip(events_of(examples_of(users)), events_of(result), strict=True):
        assert sorted(after) == sorted(before)
        moved = [i for i, event in enumerate(after) if event != before[i]]
        assert not moved or moved[-1] - moved[0] < max(2, len(before) * 6 // 10)
        assert len(before) > 2 or not moved


def kinds_of(users, result):
    """Return what was done to each of users with one and the same long history."""
    whole = list(range(len(users[0])))
    kinds = []
    for events in events_of(result):
        items = [item for item, *_ in events]
        if len(items) < len(whole):
            kinds.append("crop")
        elif any(is_hidden for *_, is_hidden in events):
            kinds.append("mask")
        else:
            kinds.append("reorder" if items != whole else "nothing")
    return kinds


def standard_errors(hits, rate):
    """Return how many standard errors a share of hits lies from its rate."""
    hits = np.asarray(hits, float)
    return abs(hits.mean() - rate) / np.sqrt(rate * (1 - rate) / len(hits))


def test_each_operation_meets_its_share_of_users():
    users = [list(range(20))] * 3000
    kinds = kinds_of(users, augmented(users, {"crop": 0.2, "mask": 0.5, "reorder": 0.1}, seed=5))
    for name, share in {"crop": 0.2, "mask": 0.5, "reorder": 0.1, "nothing": 0.2}.items():
        assert standard_errors([kind == name for kind in kinds], share) < 4


def test_crops_begin_everywhere_alike():
    result = augmented([list(range(10))] * 3000, {"crop": 1.0})
    begins = np.array([events[0][0] for events in events_of(result)])
    for begin in range(5):
        assert standard_errors(begins == begin, 1 / 5) < 4


def test_masks_hide_every_place_alike():
    is_hidden = hidden(augmented([list(range(10))] * 3000, {"mask": 1.0})).reshape(-1, 10)
    for place in range(10):
        assert standard_errors(is_hidden[:, place], 3 / 10) < 4
    assert standard_errors(is_hidden[:, 0] & is_hidden[:, 1], 3 / 10 * 2 / 9) < 4


def test_all_orders_of_a_window_are_alike():
    result = augmented([list(range(5))] * 6000, {"reorder": 1.0}, seed=2)
    orders = ["".join(str(item) for item, *_ in events) for events in events_of(result)]
    # three windows of three; each order but the old one belongs to one, or by a swap to two
    for order, rate in {"20134": 1 / 18, "03214": 1 / 18, "02134": 2 / 18, "01234": 3 / 18}.items():
        assert standard_errors([found == order for found in orders], rate) < 4


def test_another_step_or_seed_draws_anew():
    users = [list(range(20))] * 4
    first = events_of(augmented(users, ALL))
    assert events_of(augmented(users, ALL)) == first
    assert events_of(augmented(users, ALL, step=1)) != first
    assert events_of(augmented(users, ALL, seed=1)) != first


def test_neighbours_steps_and_places_draw_independently():
    users = [list(range(10))] * 2000
    begins = [
        [events[0][0] for events in events_of(augmented(users, {"crop": 1.0}, step=step))]
        for step in (0, 1)
    ]
    pairs = [(begins[0], begins[1]), (begins[0][:-1], begins[0][1:])]
    for one, other in pairs:
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(len(one))


@pytest.mark.parametrize("shares", [{}, {"crop": 0.0, "mask": 0.0, "reorder": 0.0}])
def test_without_shares_examples_stay_the_same_object(shares):
    examples = examples_of([[1, 2, 3], [4]])
    assert augment_histories(examples, shares, seed=0, step=0, first_user=0) is examples


def test_no_users_stay_no_users():
    examples = examples_of([])
    assert augment_histories(examples, ALL, seed=0, step=0, first_user=7) is examples


@pytest.mark.parametrize("name", ["crop", "mask", "reorder"])
def test_a_single_event_is_left_alone(name):
    result = augmented([[4], [], [6]], {name: 1.0})
    assert events_of(result) == events_of(examples_of([[4], [], [6]]))


def test_dtypes_stay():
    before, after = examples_of([[1, 2, 3, 4]] * 9), augmented([[1, 2, 3, 4]] * 9, ALL)
    for name in ("items", "lengths", "queries", "weights"):
        assert getattr(after, name).dtype == getattr(before, name).dtype


def test_shares_that_add_up_to_1_but_for_rounding_are_allowed():
    users = [list(range(40))] * 200
    kinds = kinds_of(users, augmented(users, {"crop": 0.5, "mask": 0.5, "reorder": 2.3e-16}))
    assert set(kinds) == {"crop", "mask"}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"crop": 0.5, "mask": 0.6}, "at most 1"),
        ({"crop": -0.1}, "at most 1"),
        ({"mask": float("nan")}, "at most 1"),
        ({"shuffle": 0.1}, "no operation shuffle; there are crop, mask, reorder"),
    ],
)
def test_shares_that_are_none_are_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        augmented([[1, 2]], shares)


@settings(max_examples=60, deadline=None)
@given(texts, seeds, steps, st.sampled_from([0, 0.3, 1]), st.sampled_from([0, 0.5, 1]))
def test_texts_are_thinned_as_one_by_one(fields, seed, step, token_mask, field_dropout):
    input_ids = [join(own) for own in fields]
    items = [item * 3 + 1 for item in range(len(input_ids))]
    rates = {"token_mask": token_mask, "field_dropout": field_dropout, "seed": seed, "step": step}
    expected = [thinned_text(ids, i, **rates) for ids, i in zip(input_ids, items, strict=True)]
    assert thinned(input_ids, items=items, **rates) == expected


@settings(max_examples=60, deadline=None)
@given(texts, seeds, st.sampled_from([0.3, 0.9, 1]))
def test_dropped_fields_leave_others_whole_and_one_at_least(fields, seed, field_dropout):
    result = thinned([join(own) for own in fields], field_dropout=field_dropout, seed=seed)
    for before, ids in zip(fields, result, strict=True):
        rest = iter(before)
        assert all(field in rest for field in cut(ids))  # in the old order
        assert any(cut(ids)) == any(before)


@settings(max_examples=60, deadline=None)
@given(texts, seeds)
def test_masked_texts_keep_their_length_and_ends(fields, seed):
    before = [join(own) for own in fields]
    for ids, result in zip(before, thinned(before, token_mask=0.5, seed=seed), strict=True):
        assert len(result) == len(ids)
        assert (result[0], result[-1]) == (CLS, SEP)
        assert all(new in (old, MASK) for old, new in zip(ids, result, strict=True))


@settings(max_examples=40, deadline=None)
@given(texts, st.randoms(use_true_random=False))
def test_an_items_text_depends_on_no_other_item(fields, random):
    input_ids = [join(own) for own in fields]
    order = random.sample(range(len(fields)), len(fields))
    rates = {"token_mask": 0.4, "field_dropout": 0.4}
    shuffled = thinned([input_ids[item] for item in order], items=order, **rates)
    together = thinned(input_ids, **rates)
    assert shuffled == [together[item] for item in order]


def test_tokens_and_fields_meet_their_rates():
    fields = [[1, 2, 3], [4, 5], [6]]
    result = thinned([join(fields)] * 2000, token_mask=0.15, seed=3)
    assert standard_errors(np.array([ids[1:-1] for ids in result]).ravel() == MASK, 0.15) < 4
    kept = [cut(ids) for ids in thinned([join(fields)] * 2000, field_dropout=0.3, seed=3)]
    for field in fields:  # all three would go in .3^3 of the texts, in a third of which this stays
        assert standard_errors([field in own for own in kept], 0.7 + 0.3**3 / 3) < 4


def test_at_rate_1_all_but_the_ends_are_masked_and_one_field_is_left():
    text = join([[1, 2], [3], [4, 5, 6]])
    (masked,) = thinned([text], token_mask=1.0)
    assert masked == [CLS, *[MASK] * 8, SEP]
    left = [cut(ids) for ids in thinned([text] * 60, field_dropout=1.0)]
    assert sorted({tuple(own[0]) for own in left if len(own) == 1}) == [(1, 2), (3,), (4, 5, 6)]
    assert {len(own) for own in left} == {1}


def test_at_rate_0_texts_stay():
    texts = [join([[1, 2], [], [3]]), [CLS, SEP], [CLS], []]
    assert thinned(texts) == texts


def test_texts_of_nothing_but_ends_stay():
    texts = [[CLS, SEP], [CLS], [], join([[], []])]
    result = thinned(texts, token_mask=1.0, field_dropout=1.0)
    assert result == [[CLS, SEP], [CLS], [], [CLS, SEP]]


def test_no_texts_give_none():
    assert thinned([], token_mask=0.5, field_dropout=0.5) == []


def test_another_step_or_seed_thins_anew():
    texts = [join([list(range(10)), list(range(10))])] * 9
    rates = {"token_mask": 0.3, "field_dropout": 0.3}
    assert thinned(texts, **rates) == thinned(texts, **rates)
    assert thinned(texts, step=1, **rates) != thinned(texts, **rates)
    assert thinned(texts, seed=1, **rates) != thinned(texts, **rates)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("name", ["token_mask", "field_dropout"])
def test_rates_outside_0_to_1_are_refused(name, rate):
    with pytest.raises(ValueError, match=f"{name}=.* is not in"):
        thinned([join([[1]])], **{name: rate})


@pytest.fixture(scope="module")
def tokenizer():
    spec = importlib.util.find_spec(OFFLINE_PACKAGE)
    return load_tokenizer(str(Path(spec.origin).parent / "model"))


def test_the_separator_is_what_joins_the_catalogues_fields(tokenizer):
    table = pa.table({"title": ["Green soap"], "brand": ["Ac"], "colour": ["red"]})
    (text,) = make_texts(table, ["title", "brand", "colour"]).to_pylist()
    mask_id, separator_id = mask_and_separator(tokenizer)
    assert tokenizer.convert_ids_to_tokens([mask_id, separator_id]) == ["[MASK]", "|"]
    (ids,) = augment_tokens(
        [tokenizer(text)["input_ids"]],
        items=np.array([5]),
        token_mask=0.0,
        field_dropout=1.0,
        mask_id=mask_id,
        separator_id=separator_id,
        seed=0,
        step=0,
    )
    left = tokenizer.decode(ids)
    assert left in {f"[CLS] {field} [SEP]" for field in ("green soap", "ac", "red")}


def test_a_tokeniser_without_a_mask_is_refused(tokenizer):
    bare = load_tokenizer(tokenizer.name_or_path)
    bare.mask_token = None
    with pytest.raises(ValueError, match=r"model\.text\.encoder=.* has a mask token"):
        mask_and_separator(bare)
