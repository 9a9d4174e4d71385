"""The benchmark of encoders (benchmarks/encoders.py)."""

import numpy as np

from benchmarks.encoders import encode, judge, ndcg, profiles, shown, speeds
from recdiv_core.data.arrays import Examples
from tests.encoder_worlds import save_encoder, write_shop


def test_ndcg_is_that_of_the_shown_items():
    scores, targets = np.array([0.5, 0.9, 0.1, 0.7]), np.array([0, 2])
    # shown are items 3, 0 and 2: the targets stand second and third
    wanted = (1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert ndcg(np.pad(scores, (0, 20), constant_values=-9), targets, np.array([1])) == wanted
    assert ndcg(scores, np.array([1]), np.array([], int)) == 1.0


def test_a_profile_weighs_events_by_their_age():
    nothing = np.zeros(0, np.int64)
    examples = Examples(
        items=np.array([0, 1, 2]),
        lengths=np.array([2, 0, 1]),
        queries=np.full(3, -1),
        weights=np.zeros(0),
        targets=nothing,
        target_lengths=nothing,
    )
    found = profiles(examples, np.eye(3, dtype=np.float32))
    assert found.tolist() == [[0.5, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_encoders_are_compared_on_the_same_requests(manifest, tmp_path):
    source = save_encoder(tmp_path / "encoder")
    shop = write_shop(
        tmp_path / "shop",
        manifest,
        source,
        num_items=12,
        train=[([3, 4], [3, 4])],
        val=[([0, 1], 3, 3), ([3, 4], -1, 8), ([], 5, 5), ([3, 4], -1, 4)],  # 4 is seen
        num_queries=6,
    )
    one = encode(shop, source)
    found = judge(one, shop, "val")
    assert [len(found[name]) for name in ("query", "history", "text")] == [2, 1, 2]
    same = {name: values.copy() for name, values in found.items()}
    line = shown(same, found, np.arange(6) == 3)
    assert (line["num_seen"], line["num_unseen"], line["num_history"]) == (1, 1, 1)
    assert line["query_minus_first"] == [0, 0, 0]
    assert speeds([one, one], num_texts=4, rounds=1)[0] == 1.0
