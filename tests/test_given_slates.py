"""Slates of another system: read, matched with a split, and judged as if they were ours."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recdiv_core.config import Config, override
from recdiv_core.evaluation.groupings import item_groups
from recdiv_core.evaluation.scorecards import finish_split, scorecard_of
from recdiv_core.metrics.scorecard import NEEDS
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.given import read_given_slates, shown_of_split
from recdiv_core.slates.loading import build_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from tests.worlds import write_dataset

NUM_ITEMS, NUM_USERS, K = 20, 17, 4
KINDS = ("user", "popularity", "category")
CONFIG = override(
    Config(),
    {
        "model.dim": 8,
        "model.num_layers": 1,
        "model.max_history": 5,
        "eval.k": K,
        "eval.batch_size": 5,
    },
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, manifest):
    rng = np.random.default_rng(0)
    prepared = tmp_path_factory.mktemp("prepared")
    write_dataset(prepared, manifest, num_items=NUM_ITEMS, num_queries=1)
    rows = [
        {
            "user_id": f"u{user}",
            "history": rng.integers(0, NUM_ITEMS, rng.integers(0, 9)).tolist(),
            "targets": rng.permutation(NUM_ITEMS)[: rng.integers(1, 5)].tolist(),
            "query": NO_QUERY,
            "is_cold_user": user % 3 == 0,
        }
        for user in range(NUM_USERS)
    ]
    (prepared / "test").mkdir()
    for shard in range(2):
        table = pa.Table.from_pylist(rows[shard::2], EVAL_EXAMPLE)
        pq.write_table(table, prepared / "test" / f"part-{shard}.parquet", row_group_size=4)
    return load_dataset(prepared)


@pytest.fixture(scope="module")
def ids(dataset):
    return dataset.catalogue.table["item_id"].to_pylist()


@pytest.fixture(scope="module")
def ours(dataset):
    """Return our own slates of the split, batch by batch, as a model makes them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        model = build_model(CONFIG, dataset)
    policy = slate_policy(CONFIG, dataset)
    return [
        held.shown(dataset, policy) for held in held_out_of_split(model, dataset, "test", CONFIG)
    ]


@pytest.fixture
def written(ours, ids, tmp_path):
    """Return our slates as a production system would hand them over, users in another order."""
    rows = [
        {"user_id": user, "item_ids": [ids[item] for item in slate if item >= 0]}
        for shown in ours
        for user, slate in zip(shown.examples.user_ids, shown.slates_BK.tolist(), strict=True)
    ]
    place = tmp_path / "slates"
    place.mkdir()
    for part in range(2):
        table = pa.Table.from_pylist(rows[::-1][part::2])
        pq.write_table(table, place / f"part-{part}.parquet")
    return place


def write(path, rows):
    """Write slates, (user_id, item_ids) each, as Parquet."""
    columns = {"user_id": [u for u, _ in rows], "item_ids": [own for _, own in rows]}
    types = {"user_id": pa.string(), "item_ids": pa.list_(pa.string())}
    table = pa.table({name: pa.array(v, types[name]) for name, v in columns.items()})
    pq.write_table(table, path)
    return path


def read(place, dataset):
    ids = dataset.catalogue.item_ids
    return read_given_slates(place, dataset.prepared, ids, "test", k=K)


def judged(shown, dataset, without=()):
    card = scorecard_of(shown, dataset, k=K, cutoffs=(2,), kinds=KINDS, without=without)
    return card, finish_split(card, item_groups(KINDS, dataset.catalogue))


def test_our_own_slates_are_judged_as_our_model_is(dataset, ours, written):
    _, expected = judged(ours, dataset)
    given = read(written, dataset)
    shown = shown_of_split(given, dataset, "test", CONFIG)
    _, found = judged(shown, dataset, without=("scores",))
    left_out = expected["metrics"].keys() - found["metrics"].keys()
    assert left_out == {f"{name}_at_{k}" for name in NEEDS["scores"] for k in (2, K)}
    assert found["metrics"] == {name: expected["metrics"][name] for name in found["metrics"]}
    assert found["slices"] == expected["slices"]
    assert found["fairness"] == expected["fairness"]


@pytest.mark.parametrize("world_size", [2, 3])
def test_no_figure_depends_on_the_number_of_workers(dataset, written, world_size):
    given = read(written, dataset)

    def shares(size):
        return [
            judged(
                shown_of_split(given, dataset, "test", CONFIG, rank=rank, world_size=size),
                dataset,
                without=("scores",),
            )[0]
            for rank in range(size)
        ]

    together, (alone,) = shares(world_size), shares(1)
    sums = sum(together[1:], together[0])
    for ours, theirs in zip(sums.tallies, alone.tallies, strict=True):
        torch.testing.assert_close(ours.flat(), theirs.flat(), rtol=0, atol=1e-12)


def test_what_does_not_fit_is_counted_and_named(dataset, ids, tmp_path, caplog):
    path = write(
        tmp_path / "slates.parquet",
        [
            ("u0", [*ids[:3], "new item", *ids[3:9]]),
            ("u1", [ids[5], ids[5], ids[6]]),
            ("u2", []),
            ("stranger", ids[:4]),
        ],
    )
    given = read(path, dataset)
    assert given.of_users(["u0", "u1", "u2", "u3"]).tolist() == [
        [0, 1, 2, 3],
        [5, 6, -1, -1],
        [-1] * 4,
        [-1] * 4,
    ]
    assert vars(given.matching) == {
        "num_users": 4,
        "num_unknown_users": 1,
        "num_users_without_slate": NUM_USERS - 3,
        "num_short_slates": 2,
        "num_unknown_items": 1,
        "num_repeated_items": 1,
    }
    for sentence in (
        "1 user not held out in this split: left out",
        "14 held-out users without a slate: counted as shown nothing",
        "2 slates with fewer than eval.k=4 known items",
        "1 listed item not in the catalogue: left out",
        "1 listed item again in the same slate: the first one counts",
    ):
        assert sentence in caplog.text


def test_json_lines_and_csv_are_read_as_parquet_is(dataset, ids, tmp_path):
    rows = [("u0", ids[:4]), ("u1", ids[4:6])]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"user_id": u, "item_ids": own}) + "\n" for u, own in rows)
    )
    lines = "".join(f"{user},{'|'.join(own)}\n" for user, own in rows)
    (tmp_path / "a.csv").write_text("user_id,item_ids\n" + lines)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    names = ("a.jsonl", "a.csv", "a.csv.gz")
    places = [write(tmp_path / "a.parquet", rows), *(tmp_path / name for name in names)]
    found = [read(place, dataset) for place in places]
    assert found[0].of_users(["u0", "u1"]).tolist() == [[0, 1, 2, 3], [4, 5, -1, -1]]
    for other in found[1:]:
        assert (other.row_of, other.matching) == (found[0].row_of, found[0].matching)
        assert np.array_equal(other.slates_UK, found[0].slates_UK)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no rows"),
        ([("nobody", ["a"])], "1 user, none held out in this split"),
        ([("u0", ["a"]), ("u0", [])], "1 user with several slates"),
        ([("u0", ["no such item"])], "no item of it is in the catalogue .*'no such item'"),
    ],
)
def test_slates_of_another_shop_are_refused(dataset, tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / "a.parquet", rows), dataset)


def test_what_are_no_slates_is_refused(dataset, tmp_path):
    def refuse(place, message):
        with pytest.raises(ValueError, match=message):
            read(place, dataset)

    refuse(tmp_path / "nothing", "--slates=.*/nothing does not exist")
    refuse(tmp_path, "is a directory without files")
    pq.write_table(pa.table({"user_id": ["u0"], "items": [["a"]]}), tmp_path / "a.parquet")
    refuse(tmp_path / "a.parquet", "has no column item_ids; it has user_id, items")
    pq.write_table(pa.table({"user_id": ["u0"], "item_ids": ["a"]}), tmp_path / "b.parquet")
    refuse(tmp_path / "b.parquet", "item_ids as lists of text, got string and string")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no more")
    refuse(tmp_path / "c.parquet", "--slates: .* is not readable as parquet")
    (tmp_path / "d.xml").write_text("<slates/>")
    refuse(tmp_path / "d.xml", "--slates: .*d.xml")
    (tmp_path / "e.jsonl").write_text('{"user_id": "u0", "item_ids": ["a"]}\n[1]\n')
    refuse(tmp_path / "e.jsonl", "e.jsonl: row 2: not a JSON object")
    (tmp_path / "grid" / "diversity=0.2").mkdir(parents=True)
    write(tmp_path / "grid" / "diversity=0.2" / "part-0.parquet", [("u0", ["a"])])
    refuse(tmp_path / "grid", "is a grid: give one of diversity=0.2")
