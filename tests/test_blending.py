"""Fitting the blend of a run (training/blending.py), without Ray."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recdiv_core.config import Config, override
from recdiv_core.data.batches import pack
from recdiv_core.data.reading import train_examples
from recdiv_core.models.blend import DIAL_CHANGE, query_prior, read_terms
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, TRAIN_EXAMPLE
from recdiv_core.slates.checkpoint import Progress, save_checkpoint
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.fitting import fit_terms
from recdiv_core.slates.loading import build_model, load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from recdiv_core.training import blending
from recdiv_core.training.blending import (
    WORTH,
    describe_blend,
    fit_blend,
    keeps_weights,
    log_blend,
    sample_users,
    spread_of,
)
from recdiv_core.training.build import build_objective
from recdiv_core.training.epoch import Learner
from recdiv_core.training.parts import Part, with_dials
from recdiv_core.training.step_slates import soft_slates
from tests.worlds import write_dataset

NUM_ITEMS, NUM_USERS = 24, 60
ALL_TERMS = ["graph", "text", "item_knn", "ease", "rp3beta", "buy_again", "recent_popular"]


def chain(user: int, length: int) -> list[int]:
    """Return a history in which item i is always followed by item i + 1."""
    return [(user + place) % NUM_ITEMS for place in range(length)]


@pytest.fixture(scope="module", params=[True, False], ids=["times", "order"])
def dataset(request, tmp_path_factory, manifest):
    prepared = tmp_path_factory.mktemp("prepared")
    write_dataset(prepared, manifest, num_items=NUM_ITEMS, num_queries=0)
    train, held_out = [], []
    for user in range(NUM_USERS):
        items = chain(user, 5)
        times = [10**12 * place for place in range(5)] if request.param else None
        train.append(
            {
                "user_id": f"u{user}",
                "items": items[:4],
                "queries": [NO_QUERY] * 4,
                "weights": [1.0] * 4,
                "times": times and times[:4],
            }
        )
        held_out.append(
            {
                "user_id": f"u{user}",
                "history": items[:4],
                "targets": items[4:],
                "query": NO_QUERY,
                "is_cold_user": False,
                "history_times": times and times[:4],
                "target_times": times and times[4:],
            }
        )
    for split, rows in (("train", train), ("val", held_out)):
        schema = TRAIN_EXAMPLE if split == "train" else EVAL_EXAMPLE
        (prepared / split).mkdir()
        table = pa.Table.from_pylist(rows, schema)
        pq.write_table(table, prepared / split / "part-0.parquet", row_group_size=16)
    return load_dataset(prepared)


def fitted(dataset, **changes) -> tuple[Config, Any]:
    """Return config and untrained model with a fitted blend."""
    small = {"model.dim": 8, "model.num_layers": 1, "model.blend": ["graph"], "eval.k": 3}
    config = override(Config(), small | changes)
    torch.manual_seed(0)  # noqa: TID251
    model = build_model(config, dataset, fit_terms(config, dataset))
    fit_blend(model, dataset, config, sample_users(dataset))
    return config, model


def hits(config, model, dataset) -> float:
    """Return the share of users with the held-out item in the slate."""
    found = []
    for held_out in held_out_of_split(model, dataset, "val", config):
        slates_BK, targets_BT = held_out.slates(dataset, slate_policy(config, dataset))
        found.append((slates_BK[:, :, None] == targets_BT[:, None]).any(2).any(1))
    return torch.cat(found).float().mean().item()


def test_a_blend_finds_what_an_untrained_model_cannot(dataset):
    config, model = fitted(dataset)
    assert hits(config, model, dataset) > 0.95
    model.blend = None
    assert hits(config, model, dataset) < 0.5


def test_the_log_has_the_weights_of_a_run_in_one_line(dataset, caplog):
    caplog.set_level("INFO")
    _, model = fitted(dataset)
    assert not [record for record in caplog.records if record.name == blending.__name__]
    model.blend.weight_T2.copy_(torch.tensor([[1.0, 0.0], [0.5, 0.0]]))
    log_blend("plain", 3, model.blend, has_queries=False)
    log_blend("plain", 3, None, has_queries=False)
    said = [record.message for record in caplog.records if record.name == blending.__name__]
    assert said == ["plain: blend after epoch 3: learned 1.000 to 1.000, graph 0.500 to 0.500"]


@pytest.mark.parametrize("fits", [True, False])
def test_weights_follow_the_model_unless_the_run_keeps_them(dataset, fits):
    config, model = fitted(dataset)
    fitted_T2 = model.blend.weight_T2.clone()
    given_T2 = model.blend.weight_T2.copy_(torch.tensor([[0.5, 0.0], [0.1, 0.0]])).clone()
    saved = {"rank": 0, "world_size": 1, "saved": {}}
    Learner(config, dataset, model, model, **saved, fits_blend=fits).validate(is_final=False)
    expected_T2 = fitted_T2 if fits else given_T2
    torch.testing.assert_close(model.blend.weight_T2, expected_T2)


def test_only_a_run_with_a_penalty_and_the_same_terms_keeps_weights():
    plain = Config()
    inside = {"loss.diversity_weight": 0.3, "loss.diversity": {"ild": 1.0}}
    diverse = override(plain, inside)
    assert keeps_weights(diverse, plain)
    assert keeps_weights(diverse, diverse)
    assert not keeps_weights(plain, diverse)
    for change in ({"model.blend": ["graph"]}, {"eval.filter_seen": False}):
        assert not keeps_weights(diverse, override(plain, change))
    over_all = {"ild": 1.0, "coverage": 9.0}
    spreading = override(diverse, {"loss.diversity": over_all})
    assert not keeps_weights(spreading, plain)
    for changed in (diverse, spreading):
        assert not keeps_weights(override(changed, {"loss.conditioned": True}), plain)


def test_the_fit_raises_coverage_beside_a_penalty_over_all_slates(dataset):
    config = override(Config(), {"loss.diversity_weight": 0.5, "loss.diversity": {"ild": 1.0}})
    assert spread_of(config, dataset) is None
    config = override(config, {"loss.diversity": {"coverage": 1.0}})
    spread = spread_of(config, dataset)
    assert spread is not None
    assert spread.worth == WORTH / 2
    assert spread.num_items == len(dataset.catalogue)


DIAL = {"loss.conditioned": True, "loss.diversity_weight": 1.0}


def test_a_conditioned_model_has_the_weights_of_a_plain_one_at_dial_0(dataset):
    _, plain = fitted(dataset)
    _, model = fitted(dataset, **DIAL, **{"loss.diversity": {"coverage": 1.0}})
    assert plain.blend.dial_change_T2 is None
    torch.testing.assert_close(model.blend.weight_T2, plain.blend.weight_T2)


def test_a_conditioned_model_has_the_weights_of_a_run_with_the_penalty_at_dial_1(dataset):
    spread = {"loss.diversity_weight": 1.0, "loss.diversity": {"coverage": 1.0}}
    _, apart = fitted(dataset, **spread)
    _, model = fitted(dataset, **spread, **{"loss.conditioned": True})
    # a new dial leaves the state as it is, so both fits see the same learned scores
    at_1_T2 = model.blend.weight_T2 + model.blend.dial_change_T2
    torch.testing.assert_close(at_1_T2, apart.blend.weight_T2)
    assert model.blend.dial_change_T2.abs().max() > 1e-3
    assert "at dial 1: learned" in describe_blend(model.blend, has_queries=False)


def test_a_penalty_inside_slates_gives_all_dials_the_same_weights(dataset):
    _, model = fitted(dataset, **DIAL, **{"loss.diversity": {"ild": 1.0}})
    assert not model.blend.dial_change_T2.any()


def test_every_kind_of_term_fits_and_scores(dataset):
    config, model = fitted(dataset, **{"model.blend": ALL_TERMS})
    assert torch.isfinite(model.blend.weight_T2).all()
    assert hits(config, model, dataset) > 0.9


def test_terms_that_can_do_nothing_are_left_out(dataset, request):
    has_times = "order" not in request.node.callspec.id
    asked = {"model.blend": ["graph", "recent_popular", "buy_again"]}
    _, hidden = fitted(dataset, **asked)
    _, shown = fitted(dataset, **asked, **{"eval.filter_seen": False})
    late = ["recent_popular"] if has_times else []
    assert hidden.blend.kinds == ["graph", *late]
    assert shown.blend.kinds == ["graph", *late, "buy_again"]


def test_the_sample_has_no_user_twice_and_covers_a_small_split(dataset, monkeypatch):
    users = [user for part in sample_users(dataset) for user in part.user_ids]
    assert sorted(users) == sorted(f"u{user}" for user in range(NUM_USERS))
    monkeypatch.setattr(blending, "SAMPLE_USERS", 20)
    users = [user for part in sample_users(dataset) for user in part.user_ids]
    assert len(users) == len(set(users))
    assert 20 <= len(users) <= 32


def test_terms_come_back_from_a_checkpoint(dataset):
    config, model = fitted(dataset, **{"model.blend": ["graph", "ease"]})
    saved = {**model.state_dict(), **model.blend.terms_state()}
    again = build_model(config, dataset, read_terms(config.model.blend, saved))
    weights = {name: value for name, value in saved.items() if not name.startswith("terms.")}
    again.load_state_dict(weights)
    for one, other in zip(
        held_out_of_split(model, dataset, "val", config),
        held_out_of_split(again, dataset, "val", config),
        strict=True,
    ):
        assert torch.equal(one.scores_BV, other.scores_BV)


@pytest.mark.parametrize("dial", [None, 0.25, 1.0])
def test_regularisers_see_the_slates_of_the_blended_scores(dataset, dial):
    is_conditioned = dial is not None
    config, model = fitted(
        dataset,
        **{
            "loss.diversity_weight": 0.5,
            "loss.slate_size": 3,
            "loss.conditioned": is_conditioned,
            "model.diversity": dial or 0.0,
        },
    )
    if is_conditioned:
        model.blend.dial_change_T2 = torch.tensor([[3.0, 0.0], [-3.0, 0.0]])
    model.eval()
    rows = pq.read_table(dataset.prepared / "train")
    examples = train_examples(rows)
    packed = pack(examples, max_history=config.model.max_history)
    part, dial_RW = Part(packed), None
    if is_conditioned:
        part = with_dials(part, torch.full((len(examples.lengths),), dial))
        dial_RW = part.dials.dial_RW
    states, items_VD = model(
        packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW, dial_RW=dial_RW
    )
    objective = build_objective(config, dataset, model)
    slates, _ = soft_slates(states, items_VD, part, objective, torch.zeros(NUM_ITEMS))
    users = rows["user_id"].to_pylist()
    best = dict(zip(users, slates.candidates_BM[:, :3].tolist(), strict=True))
    for held_out in held_out_of_split(model, dataset, "val", config):
        shown_BK, _ = held_out.slates(dataset, slate_policy(config, dataset))
        for user, shown_K in zip(held_out.examples.user_ids, shown_BK.tolist(), strict=True):
            assert best[user] == shown_K
    assert slates.membership_BM.requires_grad


def test_a_checkpoint_of_an_earlier_version_has_the_same_weights_at_all_dials(dataset, tmp_path):
    config, model = fitted(dataset, **DIAL, **{"loss.diversity": {"coverage": 1.0}})
    weights = {**model.state_dict(), **model.blend.terms_state()}
    assert weights.pop(DIAL_CHANGE).any()
    place = tmp_path / "old"
    place.mkdir()
    made = {"config": config, "manifest": dataset.manifest, "progress": Progress(is_finished=True)}
    save_checkpoint(place, **made, weights=weights, training={})
    old = load_model(config, dataset, place)
    assert torch.equal(old.blend.weight_T2, model.blend.weight_T2)
    assert not old.blend.dial_change_T2.any()


def test_without_terms_there_is_no_blend(dataset):
    _, model = fitted(dataset, **{"model.blend": []})
    assert model.blend is None
    assert np.all([not name.startswith("blend") for name in model.state_dict()])


def test_a_log_without_queries_has_a_prior_for_requests_with_one(dataset):
    _, model = fitted(dataset, **{"model.blend": ["graph", "text_cosine", "bm25"]})
    _, plain = fitted(dataset, **{"model.blend": ["graph"]})
    assert torch.equal(model.blend.weight_T2, plain.blend.weight_T2)
    assert torch.equal(model.blend.query_weight_U2, query_prior(model.blend.kinds))


@pytest.fixture(scope="module")
def searched(tmp_path_factory, manifest):
    """Return a data set in which every other user asks for the number of an item and takes it."""
    prepared = tmp_path_factory.mktemp("searched")
    write_dataset(prepared, manifest, num_items=NUM_ITEMS, num_queries=NUM_ITEMS)
    train, held_out = [], []
    for user in range(NUM_USERS):
        items, asks = chain(user, 5), user % 2 == 1
        query = (7 * user + 3) % NUM_ITEMS if asks else NO_QUERY
        own = {"user_id": f"u{user}", "is_cold_user": False}
        events = {"queries": [NO_QUERY] * 4, "weights": [1.0] * 4, "times": None}
        train.append({"user_id": f"u{user}", "items": items[:4], **events})
        targets = {"targets": [query] if asks else items[4:], "query": query}
        times = {"history_times": None, "target_times": None}
        held_out.append({**own, "history": items[:4], **targets, **times})
    for split, rows in (("train", train), ("val", held_out)):
        schema = TRAIN_EXAMPLE if split == "train" else EVAL_EXAMPLE
        (prepared / split).mkdir()
        pq.write_table(pa.Table.from_pylist(rows, schema), prepared / split / "part-0.parquet")
    return load_dataset(prepared)


def ranks(config, model, dataset) -> dict[str, int]:
    """Return the place of the held-out item of each user among items outside the history."""
    found = {}
    for held_out in held_out_of_split(model, dataset, "val", config):
        seen = held_out.packed.seen_user_S, held_out.packed.seen_item_S
        scores_BV = held_out.scores_BV.index_put(seen, torch.tensor(-torch.inf))
        wanted_B1 = scores_BV.gather(1, held_out.targets_BT[:, :1])
        place_B = (scores_BV > wanted_B1).sum(dim=1)
        found |= zip(held_out.examples.user_ids, place_B.tolist(), strict=True)
    return found


def test_a_query_is_answered_whatever_the_history(searched):
    config, model = fitted(searched, **{"model.blend": ["graph", "text_cosine", "bm25"]})
    place = ranks(config, model, searched)
    histories = {f"u{user}": chain(user, 4) for user in range(NUM_USERS)}
    asking = {f"u{user}": (7 * user + 3) % NUM_ITEMS for user in range(1, NUM_USERS, 2)}
    new = [user for user, item in asking.items() if item not in histories[user]]
    assert len(new) > 10
    assert [place[user] for user in new] == [0] * len(new)
    others = [place[f"u{user}"] for user in range(0, NUM_USERS, 2)]
    assert np.mean([found < 3 for found in others]) > 0.9


def test_the_line_of_the_weights_has_those_of_requests_with_a_query_too(searched):
    _, model = fitted(searched, **{"model.blend": ["graph", "bm25"]})
    said = describe_blend(model.blend, has_queries=True)
    without, with_query = said.split("; with a query: ")
    assert describe_blend(model.blend, has_queries=False) == without
    assert [part.split()[0] for part in without.split(", ")] == ["learned", "graph"]
    assert [part.split()[0] for part in with_query.split(", ")] == ["learned", "graph", "bm25"]


def test_users_without_a_query_are_fitted_alone(searched):
    config, model = fitted(searched, **{"model.blend": ["graph", "text_cosine", "bm25"]})
    _, plain = fitted(searched, **{"model.blend": ["graph"]})
    asking = {f"u{user}" for user in range(1, NUM_USERS, 2)}
    for one, other in zip(
        held_out_of_split(model, searched, "val", config),
        held_out_of_split(plain, searched, "val", config),
        strict=True,
    ):
        rows = [row for row, user in enumerate(one.examples.user_ids) if user not in asking]
        assert torch.equal(one.scores_BV[rows], other.scores_BV[rows])


def test_the_sample_holds_users_with_and_without_a_query_apart(searched):
    sample = sample_users(searched)
    for examples in sample:
        assert len(set((examples.queries == NO_QUERY).tolist())) == 1
    users = [user for examples in sample for user in examples.user_ids]
    assert len(users) == len(set(users)) == NUM_USERS


@pytest.mark.parametrize("enough", [1, 10_000])
def test_the_history_has_a_say_on_queries_only_from_enough_requests_on(
    searched, monkeypatch, enough
):
    monkeypatch.setattr(blending, "GATED_REQUESTS", enough)
    _, model = fitted(searched, **{"model.blend": ["graph", "bm25"]})
    fitted_U2 = model.blend.query_weight_U2
    by_kind = dict(zip(("learned", *model.blend.kinds), fitted_U2, strict=True))
    assert by_kind["bm25"][0] > 0
    for kind in ("learned", "graph"):
        assert bool(by_kind[kind].any()) == (enough == 1)
