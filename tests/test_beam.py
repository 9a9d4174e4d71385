"""Diverse beam search, against one over an explicit tree of paths."""

import math

import hypothesis.strategies as st
from hypothesis import assume, given

from tests.candidate_worlds import candidates_of_one, random_candidates, rerank
from tests.oracles import greedy_regret


def standardised(scores):
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    return [(score - mean) / deviation for score in scores]


def search_tree(scores, categories, k, width, penalty):
    """Search root -> category -> item group by group, with all paths of a group in hand."""
    logits = standardised(scores)
    total = math.log(sum(map(math.exp, logits)))
    slate, taken = [], dict.fromkeys(categories, 0)
    while len(slate) < min(k, len(scores)):
        paths = {}
        for category in taken:
            own = [item for item, of in enumerate(categories) if of == category]
            of_category = math.log(sum(math.exp(logits[item]) for item in own)) - total
            for item in own:
                of_item = logits[item] - total - of_category
                if item not in slate:
                    paths[item] = of_category - penalty * taken[category] + of_item
        beams = sorted(paths, key=lambda item: (-paths[item], item))[: min(width, k - len(slate))]
        slate += beams
        for item in beams:
            taken[categories[item]] += 1
    return slate


@given(
    st.lists(st.floats(-5, 5), min_size=3, max_size=9, unique=True),
    st.lists(st.integers(0, 3), min_size=9, max_size=9),
    st.sampled_from([1, 2, 3, 9]),
    st.sampled_from([0.0, 0.2, 0.5, 0.8]),
)
def test_slates_are_those_of_the_search_of_the_tree(scores, categories, width, dial):
    scores = sorted({round(score, 3) for score in scores}, reverse=True)
    assume(len(scores) > 1)
    categories = categories[: len(scores)]
    candidates = candidates_of_one(scores, categories=[[own] for own in categories])
    expected = search_tree(scores, categories, 6, width, dial / (1 - dial))
    found = rerank("beam", candidates, 6, dial, beam_width=width)[0].tolist()
    assert found == expected + [-1] * (6 - len(expected))


@given(seed=st.integers(0, 10_000), dial=st.sampled_from([0.2, 0.6, 1.0]))
def test_an_item_of_several_categories_pays_the_mean_of_theirs(seed, dial):
    candidates = random_candidates(seed, num_users=1)
    slate = rerank("beam", candidates, 8, dial)[0].tolist()
    relevance = standardised(candidates.scores_BC[0].tolist())
    labels = [[v for v in row if v >= 0] for row in candidates.labels_BCL("category")[0].tolist()]

    def value(item, chosen):
        taken = dict.fromkeys(labels[item], 0.0)
        for other in chosen:
            for label in labels[other]:
                if label in taken:
                    taken[label] += 1 / len(labels[other])
        paid = sum(taken.values()) / max(1, len(taken))
        return (1 - dial) * relevance[item] - dial * paid

    assert greedy_regret(slate, relevance, value) < 1e-5


def test_beam_by_hand():
    candidates = candidates_of_one([4.0, 3.0, 2.0, 1.0], categories=[[0], [0], [0], [1]])
    assert rerank("beam", candidates, 3, 0.9).tolist() == [[0, 3, 1]]
    # two beams a group: the second of the first group pays nothing for the first
    assert rerank("beam", candidates, 3, 0.9, beam_width=2).tolist() == [[0, 1, 3]]
    assert rerank("beam", candidates, 3, 0.9, beam_width=3).tolist() == [[0, 1, 2]]
