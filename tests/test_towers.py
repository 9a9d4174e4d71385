import numpy as np
import pytest
import torch

from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import pack
from recdiv_core.models.dial import Dial
from recdiv_core.models.item_tower import ItemTower
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.session_tower import SessionTower

NUM_ITEMS, DIM, MAX_HISTORY = 9, 8, 6
POPULARITY = torch.tensor([0, 5, 1, 0, 30, 2, 2, 7, 1])
IS_COLD = POPULARITY == 0
HISTORIES = [[1, 2, 3], [4], [], [5, 6, 7, 8, 1, 2], [2, 2]]


@pytest.fixture
def rng():
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        yield torch.Generator().manual_seed(1)


def unit_vectors(rng, rows, width=5):
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=rng), dim=1)


def session_tower(**changes):
    settings = {"dim": DIM, "num_layers": 2, "num_heads": 2, "max_history": MAX_HISTORY}
    return SessionTower(**settings, **{"dropout": 0.0, **changes})


def item_tower(**changes):
    return ItemTower(POPULARITY, **{"text_dim": 5, "dim": DIM, "id_dropout": 0.0, **changes})


def recommender(rng, *, text=True, queries=True):
    return Recommender(
        item_tower(text_dim=5 if text else 0),
        session_tower(),
        text_VH=unit_vectors(rng, NUM_ITEMS) if text else None,
        queries_QH=unit_vectors(rng, 3) if queries else None,
        dim=DIM,
    )


def packed_histories(histories, queries=None):
    flat = np.array([item for items in histories for item in items], np.int64)
    return pack(
        Examples(
            items=flat,
            lengths=np.array([len(items) for items in histories], np.int64),
            queries=np.full(len(flat), -1) if queries is None else np.array(queries),
            weights=np.ones(len(flat), np.float32),
            targets=np.zeros(0, np.int64),
            target_lengths=np.zeros(0, np.int64),
        ),
        max_history=MAX_HISTORY,
    )


def states_of(model, histories, queries=None):
    """Return the states of each history in its own order, the start first."""
    packed = packed_histories(histories, queries)
    states, _ = model(packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW)
    segments = packed.segment_RW.flatten()
    return [states[segments == segment] for segment in range(len(histories))]


def test_packed_histories_have_the_states_of_each_alone(rng):
    model = recommender(rng)
    together = states_of(model, HISTORIES)
    alone = [states_of(model, [history])[0] for history in HISTORIES]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_a_later_event_changes_no_earlier_state(rng):
    model = recommender(rng)
    (before,) = states_of(model, [[1, 2, 3, 4]])
    (after,) = states_of(model, [[1, 2, 8, 4]])
    torch.testing.assert_close(after[:3], before[:3], rtol=0, atol=1e-6)
    assert ((after[3:] - before[3:]).abs().amax(1) > 1e-3).all()


def test_the_order_of_a_history_matters(rng):
    model = recommender(rng)
    (one,), (other,) = states_of(model, [[1, 2, 3]]), states_of(model, [[2, 1, 3]])
    assert (one[-1] - other[-1]).abs().max() > 1e-4


def test_a_state_depends_on_distances_and_not_on_the_length_of_the_history(rng):
    model = recommender(rng)
    with torch.no_grad():
        for block in model.session_tower.blocks:
            block.distance.normal_()
            block.distance[:, 2:] = -1e4  # two layers then reach back two events
    (short,), (long,) = states_of(model, [[3, 4, 5, 6]]), states_of(model, [[8, 1, 3, 4, 5, 6]])
    torch.testing.assert_close(short[-1], long[-1], rtol=0, atol=1e-5)
    (other,) = states_of(model, [[8, 1, 3, 7, 5, 6]])
    assert (other[-1] - long[-1]).abs().max() > 1e-3


def test_heads_learn_how_far_apart_events_are(rng):
    model = recommender(rng)
    (before,) = states_of(model, [[1, 2, 3, 4]])
    with torch.no_grad():
        model.session_tower.blocks[0].distance[0, 1] = 3.0
    (after,) = states_of(model, [[1, 2, 3, 4]])
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-6)
    assert ((after[1:] - before[1:]).abs().amax(1) > 1e-4).all()


def test_the_start_is_the_same_for_everyone(rng):
    starts = torch.stack([states[0] for states in states_of(recommender(rng), HISTORIES)])
    torch.testing.assert_close(starts, starts[:1].expand(5, -1), rtol=0, atol=1e-5)


def test_what_is_given_at_the_start_place_is_ignored(rng):
    tower = session_tower()
    position, segment = torch.tensor([[0, 1]]), torch.zeros(1, 2, dtype=torch.int64)
    inputs = torch.randn(1, 2, DIM, generator=rng)
    changed = inputs.clone()
    changed[0, 0] += 9
    torch.testing.assert_close(
        tower(changed, position, segment), tower(inputs, position, segment), rtol=0, atol=0
    )


@pytest.mark.parametrize("size", [1e-2, 100.0])
def test_small_id_vectors_count_as_much_as_large_ones(rng, size: float):
    tower = session_tower(normalises_inputs=True)
    position, segment = torch.tensor([[0, 1, 2]]), torch.zeros(1, 3, dtype=torch.int64)
    inputs = torch.randn(1, 3, DIM, generator=rng)
    torch.testing.assert_close(
        tower(size * inputs, position, segment), tower(inputs, position, segment), rtol=0, atol=0.1
    )


def test_a_query_changes_the_state_that_answers_it_and_later_ones_alone(rng):
    model = recommender(rng)
    (without,) = states_of(model, [[1, 2, 3]])
    (with_query,) = states_of(model, [[1, 2, 3]], queries=[-1, 2, -1])
    torch.testing.assert_close(with_query[:1], without[:1], rtol=0, atol=1e-6)
    assert ((with_query[1:] - without[1:]).abs().amax(1) > 1e-4).all()


def test_without_queries_their_numbers_are_ignored(rng):
    model = recommender(rng, queries=False)
    torch.testing.assert_close(
        states_of(model, [[1, 2]], queries=[0, 1]), states_of(model, [[1, 2]])
    )


def session_states(model, packed, inputs):
    """Return what the session tower alone makes of given inputs."""
    return model.session_tower(inputs, packed.position_RW, packed.segment_RW).flatten(0, 1)


def test_without_queries_the_session_tower_gets_the_item_vectors_alone(rng):
    model, packed = recommender(rng, queries=False), packed_histories([*HISTORIES, [3, 0, 5]])
    items = torch.randn(NUM_ITEMS, DIM, generator=rng, requires_grad=True)
    fields = (packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW)
    states = model.states(items, *fields)
    plain = session_states(model, packed, torch.nn.functional.embedding(packed.items_RW, items))
    assert torch.equal(states, plain)
    (gradient,) = torch.autograd.grad(states.square().sum(), items)
    (expected,) = torch.autograd.grad(plain.square().sum(), items)
    assert torch.equal(gradient, expected)


def test_dropout_acts_in_training_alone(rng):
    tower = session_tower(dropout=0.5)
    position, segment = torch.arange(4)[None], torch.zeros(1, 4, dtype=torch.int64)
    inputs = torch.randn(1, 4, DIM, generator=rng)
    assert not torch.equal(tower(inputs, position, segment), tower(inputs, position, segment))
    tower.eval()
    assert torch.equal(tower(inputs, position, segment), tower(inputs, position, segment))


def test_the_id_vectors_of_cold_items_have_no_effect(rng):
    tower, text = item_tower(), unit_vectors(rng, NUM_ITEMS)
    before = tower(text)
    with torch.no_grad():
        tower.ids.weight[IS_COLD] += 1.0
    assert torch.equal(tower(text), before)
    with torch.no_grad():
        tower.ids.weight[~IS_COLD] += 1.0
    assert ((tower(text) - before).abs().amax(1) > 1e-4).all()


def test_a_fresh_tower_is_the_sum_of_text_and_id_and_cold_items_take_the_mean_id(rng):
    tower, text = item_tower(), unit_vectors(rng, NUM_ITEMS)
    mean_D = tower.ids.weight[~IS_COLD].mean(0)
    expected = tower.project(text) + torch.where(IS_COLD[:, None], mean_D, tower.ids.weight)
    torch.testing.assert_close(tower(text), expected)


def test_cold_items_of_one_text_have_one_vector_that_teaches_no_id(rng):
    tower, text = item_tower(), unit_vectors(rng, 1).expand(NUM_ITEMS, -1)
    cold = tower(text)[IS_COLD]
    assert len(cold) > 1
    torch.testing.assert_close(cold, cold[:1].expand_as(cold))
    cold.square().sum().backward()
    assert not tower.ids.weight.grad.any()
    assert tower.project.weight.grad.any()


def test_a_catalogue_without_a_known_item_has_text_vectors(rng):
    tower = ItemTower(torch.zeros(3), text_dim=5, dim=DIM, id_dropout=0.0)
    text = unit_vectors(rng, 3)
    assert torch.equal(tower(text), tower.project(text))


def test_without_text_item_vectors_are_the_ids(rng):
    tower = item_tower(text_dim=0)
    assert torch.equal(tower(None), tower.ids.weight)


def test_ids_are_withheld_in_training_alone(rng):
    tower, text = item_tower(id_dropout=0.3), unit_vectors(rng, 1).expand(NUM_ITEMS, -1)

    def is_as_cold():
        vectors = tower(text)
        return torch.isclose(vectors, vectors[IS_COLD][0]).all(1)

    withheld = is_as_cold()
    assert withheld[IS_COLD].all()
    assert 0 < (withheld & ~IS_COLD).sum() < (~IS_COLD).sum()
    tower.eval()
    assert torch.equal(is_as_cold(), IS_COLD)


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("queries", [True, False])
def test_gradients_reach_every_parameter(rng, text, queries):
    model = recommender(rng, text=text, queries=queries)
    packed = packed_histories(HISTORIES, queries=[0, 1, 2, -1, 0, 1, 2, -1, 0, 1, 2, 0])
    states, items = model(packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW)
    (states[packed.target_place_N] @ items.T).logsumexp(1).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []


def test_every_parameter_has_a_gradient_even_without_users(rng):
    model = recommender(rng)
    packed = packed_histories([])
    states, items = model(packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW)
    (states[packed.target_place_N] @ items.T).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_frozen_text_vectors_are_no_part_of_the_weights(rng):
    assert not {"text_VH", "queries_QH"} & set(recommender(rng).state_dict())


def conditioned(rng, *, strength=0.5):
    """Return a conditioned recommender whose dial does something."""
    model = Recommender(
        item_tower(),
        session_tower(),
        text_VH=unit_vectors(rng, NUM_ITEMS),
        queries_QH=None,
        dim=DIM,
        dial_items=item_tower(),
    ).eval()
    assert model.dial is not None
    for layer in (model.dial.gate, model.dial.scale):
        torch.nn.init.normal_(layer.weight, std=strength, generator=rng)
    return model


def forward(model, packed, dial_RW=None):
    fields = (packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW)
    with torch.no_grad():
        return model(*fields, dial_RW=dial_RW)


def test_a_dial_of_0_leaves_every_state_as_it_is(rng):
    model, packed = conditioned(rng), packed_histories(HISTORIES)
    plain, _ = forward(model, packed)
    at_0, _ = forward(model, packed, torch.zeros(packed.items_RW.shape))
    assert torch.equal(at_0, plain)
    model.dial_items, model.dial = None, None
    bare, _ = forward(model, packed)
    assert torch.equal(plain, torch.nn.functional.pad(bare, (0, DIM)))


def test_the_dial_bends_states_and_never_item_vectors(rng):
    model, packed = conditioned(rng), packed_histories(HISTORIES)
    plain, items = forward(model, packed)
    bent, same = forward(model, packed, torch.full(packed.items_RW.shape, 0.5))
    assert torch.equal(items, same)
    assert (bent - plain).abs().amin(1).max() > 1e-3


def test_each_user_has_a_dial_of_their_own(rng):
    model, packed = conditioned(rng), packed_histories(HISTORIES)
    dial_B = torch.tensor([0.0, 0.3, 0.0, 1.0, 0.1])
    mixed, _ = forward(model, packed, dial_B[packed.user_RW])
    for user, place in enumerate(packed.last_place_B):
        alone, _ = forward(model, packed, torch.full(packed.items_RW.shape, dial_B[user].item()))
        torch.testing.assert_close(mixed[place], alone[place])


def test_a_fresh_dial_changes_nothing(rng):
    states = torch.randn(4, DIM, generator=rng)
    bent = Dial(DIM, 2)(states, torch.rand(4, generator=rng))
    assert torch.equal(bent, torch.nn.functional.pad(states, (0, 2)))


def test_the_dial_has_gradients_at_the_start(rng):
    dial = Dial(DIM, 2)
    dial(torch.randn(4, DIM, generator=rng), torch.rand(4, generator=rng)).square().sum().backward()
    assert dial.gate.weight.grad.abs().max() > 0
    assert dial.scale.weight.grad.abs().max() > 0
