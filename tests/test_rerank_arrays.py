"""Arrays in, positions out: what the NumPy door gives is what the re-rankers choose elsewhere."""

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
import pyversity
import torch

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import describe_items
from recdiv_core.rerank import RERANKERS, rerank
from recdiv_core.rerank.arrays import NEEDS
from recdiv_core.slates.making import make_slates
from recdiv_core.slates.policy import SlatePolicy
from tests.candidate_worlds import ATTRIBUTES, random_candidates

NUM_USERS, NUM_ITEMS, K = 7, 24, 6
each_method = pytest.mark.parametrize("method", RERANKERS)


def world(seed=0):
    """Return the arguments of `rerank` for several users of one catalogue."""
    rng = np.random.default_rng(seed)
    categories = [[f"c{g}" for g in rng.permutation(4)[: 1 + rng.integers(2)]] for _ in range(24)]
    events = [rng.integers(0, NUM_ITEMS, rng.integers(0, 6)).tolist() for _ in range(NUM_USERS)]
    return {
        "scores": rng.normal(size=(NUM_USERS, NUM_ITEMS)).astype(np.float32),
        "embeddings": rng.normal(size=(NUM_ITEMS, 5)),
        "categories": categories,
        "attributes": {"brand": rng.integers(0, 4, NUM_ITEMS).tolist()},
        "history": [[categories[item] for item in own] for own in events],
    }, events


def slates_of_pipelines(given, events, method, diversity):
    """Make the slates as evaluation and recommendation make them."""
    numbers = {f"c{g}": g for g in range(4)}
    padded = [[*(numbers[c] for c in own), -1][:2] for own in given["categories"]]
    traits = describe_items(
        torch.nn.functional.normalize(torch.tensor(given["embeddings"]).float()),
        labels_of_padded(torch.tensor(padded)),
        torch.zeros(NUM_ITEMS, dtype=torch.int64),
        num_train_users=1,
        num_categories=4,
        attributes={"brand": torch.tensor(given["attributes"]["brand"])},
    )
    policy = SlatePolicy(K, False, method, diversity, NUM_ITEMS, 0.0)
    user = np.repeat(np.arange(NUM_USERS), [len(own) for own in events])
    item = np.array([item for own in events for item in own], dtype=np.int64)
    return make_slates(
        torch.tensor(given["scores"]),
        torch.from_numpy(user),
        torch.from_numpy(item),
        traits,
        torch.zeros(NUM_ITEMS),
        policy,
    )


@each_method
@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0])
def test_slates_are_those_of_the_pipelines(method, diversity):
    given, events = world()
    found = rerank(**given, k=K, method=method, diversity=diversity)
    slates, scores = slates_of_pipelines(given, events, method, diversity)
    assert found.positions.tolist() == slates.tolist()
    np.testing.assert_allclose(found.scores, scores.numpy())


@each_method
def test_dial_0_is_the_order_of_the_scores(method):
    given, _ = world()
    found = rerank(**given, k=K, method=method, diversity=0.0)
    assert found.positions.tolist() == np.argsort(-given["scores"], axis=1)[:, :K].tolist()


@pytest.mark.parametrize("method", [name for name in RERANKERS if name != "exposure"])
def test_a_user_alone_gets_the_slate_that_he_gets_among_others(method):
    given, _ = world()
    together = rerank(**given, k=K, method=method)
    for user in range(NUM_USERS):
        own = {**given, "scores": given["scores"][user], "history": given["history"][user]}
        alone = rerank(**own, k=K, method=method)
        assert alone.positions.shape == alone.scores.shape == (K,)
        assert alone.positions.tolist() == together.positions[user].tolist()


def without_personal_taste():
    return [name for name in NEEDS if "history" not in NEEDS[name] and name != "none"]


@pytest.mark.parametrize("method", without_personal_taste())
@pytest.mark.parametrize("diversity", [0.3, 0.7, 1.0])
def test_the_golden_slates_come_out(method, diversity):
    golden = json.loads((Path(__file__).parent / "golden" / "rerank.json").read_text())
    candidates = random_candidates(2024, num_users=3, num_candidates=50, dim=16, zeros=0.0)
    traits = candidates.traits
    every = torch.arange(traits.num_items)
    found = rerank(
        candidates.scores_BC.numpy(),
        traits.embeddings_VD.numpy(),
        method=method,
        diversity=diversity,
        items=candidates.items_BC.numpy(),
        categories=[[c for c in own if c >= 0] for own in traits.categories[every].tolist()],
        attributes={
            name: [None if v < 0 else v for v in traits.attributes[name].tolist()]
            for name in ATTRIBUTES
        },
    )
    assert found.positions.flatten().tolist() == golden[f"{method} {diversity}"]


@pytest.mark.parametrize("method", ["mmr", "msd", "dpp", "ssd"])
def test_picks_are_those_of_pyversity(method):
    rng, dial, odds = np.random.default_rng(3), 0.4, 2 * 0.4 / (0.6 * (K - 1))
    own_dials = {"mmr": dial, "msd": odds / (1 + odds), "dpp": 0.5, "ssd": dial}
    own = {"scale": (1 - dial) / dial} if method == "dpp" else {}
    for _ in range(20):
        vectors, scores = np.abs(rng.normal(size=(30, 8))), rng.random(30)
        scaled = (scores - scores.min()) / np.ptp(scores)
        theirs = getattr(pyversity, method)(
            vectors, scaled, k=K, diversity=own_dials[method], **own
        )
        ours = rerank(scores, vectors, K, method=method, diversity=dial)
        assert ours.positions.tolist() == theirs.indices.tolist()


def test_minus_infinity_is_no_candidate_and_slates_end_in_minus_1():
    found = rerank([[0.2, -np.inf, 0.9], [0.1, 0.2, 0.3]], np.eye(3), k=4)
    assert found.positions.tolist() == [[2, 0, -1, -1], [2, 1, 0, -1]]
    assert found.scores[0].tolist() == [0.9, 0.2, -np.inf, -np.inf]


def test_scores_may_be_lists_integers_or_of_no_user():
    assert rerank([3, 2, 1], method="none", k=2).positions.tolist() == [0, 1]
    assert rerank(np.zeros((0, 3)), method="none", k=2).positions.shape == (0, 2)


def test_rules_are_kept():
    scores, brands = [5, 4, 3, 2, 1], ["a", "a", "a", "b", None]
    given = {"attributes": {"brand": brands}, "method": "none", "k": 3}
    assert rerank(scores, rules=["at most 1 of brand"], **given).positions.tolist() == [0, 3, 4]
    assert rerank(scores, rules=["at most 1 of brand=a"], **given).positions.tolist() == [0, 3, 4]
    assert rerank(scores, rules=["exclude 1", "exclude 2"], **given).positions.tolist() == [0, 3, 4]
    assert 4 in rerank(scores, rules=["include 4"], **given).positions
    assert rerank([scores], method="exposure", k=2, rules=["exclude 0"]).positions.tolist() == [
        [1, 2]
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "mrm"}, r"method='mrm' is unknown; allowed: none, mmr \(needs embeddings\)"),
        ({"embeddings": None}, "method='mmr' needs embeddings"),
        ({"method": "calibrated"}, "method='calibrated' needs categories and history"),
        ({"method": "alpha"}, "method='alpha' needs categories or attributes"),
        ({"history": [["a"]]}, "history names categories, so it needs categories"),
        ({"scores": [[[1.0]]]}, r"scores: expected \[C\] or \[B, C\], C >= 1, got \[1, 1, 1\]"),
        ({"scores": [1.0, np.nan, 0.0]}, "scores hold NaN or infinity"),
        ({"scores": [1.0, np.inf, 0.0]}, "scores hold NaN or infinity"),
        ({"embeddings": np.eye(2)}, "same items, but scores has 3, embeddings has 2"),
        ({"embeddings": [1, 2, 3]}, r"embeddings: expected \[V, D\], got \[3\]"),
        ({"embeddings": [[1], [np.nan], [0]]}, "embeddings: row 1 holds a number that is not"),
        ({"categories": ["a"]}, "categories has 1"),
        ({"attributes": {"brand": [["a", "b"], "a", "b"]}}, "brand: item 0 has 2 values"),
        ({"diversity": 1.5}, r"diversity=1.5 must lie in \[0, 1\]"),
        ({"k": 0}, "k=0 must be at least 1"),
        ({"items": [0, 1]}, r"items: expected a row number for each of the scores \[1, 3\]"),
        ({"items": [0, 1, 3]}, r"items must be whole numbers in 0\.\.2"),
        ({"items": [0, 1, 1]}, "items: row 0 names an item twice"),
        ({"rules": ["at most 1 of brand"]}, "there is no 'brand'; given are no categories"),
        ({"rules": ["include 9"]}, r"expected a row number in 0\.\.2"),
        ({"categories": "aab", "rules": ["draw 1 of category=a"]}, "are missing to draw by"),
        ({"categories": "aab", "rules": ["at least 1 of category=c"]}, "no item has category=c"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    given = {"scores": [3.0, 2.0, 1.0], "embeddings": np.eye(3), "k": 2, **changes}
    with pytest.raises(ValueError, match=message):
        rerank(**given)


def test_history_of_another_number_of_users_is_refused():
    given = {"categories": ["a", "b"], "history": [["a"]], "method": "xquad"}
    with pytest.raises(ValueError, match="history is of 1 users, scores are of 2"):
        rerank([[1.0, 2.0], [2.0, 1.0]], **given)


def test_the_table_of_needs_names_every_re_ranker():
    assert NEEDS.keys() == RERANKERS.keys()


def test_the_example_of_the_documentation_prints_what_it_says():
    path = Path(__file__).parents[1] / "docs" / "python.md"
    assert doctest.testfile(str(path), module_relative=False) == (0, 10)
