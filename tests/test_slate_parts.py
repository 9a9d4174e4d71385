import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.schema import SLATE
from recdiv_core.slates.files import UNFINISHED, PartWriter, list_parts, part_path, slate_table

ITEM_IDS = pa.array(["a", "b", "ш"])


def test_a_short_slate_is_a_short_list():
    slates = np.array([[2, 0], [1, -1], [-1, -1]])
    scores = np.array([[3.0, 1.0], [2.0, -np.inf], [-np.inf, -np.inf]], np.float32)
    table = slate_table(["u", "v", "w"], slates, scores, ITEM_IDS)
    assert table.schema == SLATE
    assert table.to_pylist() == [
        {"user_id": "u", "item_ids": ["ш", "a"], "scores": [3.0, 1.0]},
        {"user_id": "v", "item_ids": ["b"], "scores": [2.0]},
        {"user_id": "w", "item_ids": [], "scores": []},
    ]


def test_notes_stand_beside_places_or_users():
    slates = np.array([[2, 0], [1, -1]])
    notes = {"novelty": np.array([[0.0, 0.5], [0.25, 9.0]]), "gave_way": pa.array([["x"], []])}
    table = slate_table(["u", "v"], slates, np.zeros((2, 2), np.float32), ITEM_IDS, notes)
    assert table.schema.names == [*SLATE.names, "novelty", "gave_way"]
    assert table["novelty"].to_pylist() == [[0.0, 0.5], [0.25]]
    assert table["gave_way"].to_pylist() == [["x"], []]


def test_no_users_are_no_rows():
    none = np.zeros((0, 3))
    assert slate_table([], none.astype(int), none, ITEM_IDS).num_rows == 0


def test_a_part_is_there_once_it_is_whole(tmp_path):
    rows = slate_table(["u"], np.array([[1]]), np.array([[0.5]], np.float32), ITEM_IDS)
    path = part_path(tmp_path / "slates", 3)
    with PartWriter(path) as part:
        part.write(rows)
        part.write(rows)
        assert not path.exists()
    assert pq.read_table(path).num_rows == 2
    assert list_parts(tmp_path / "slates") == [path]


def test_a_part_that_fails_leaves_nothing(tmp_path):
    def fail():
        with PartWriter(part_path(tmp_path, 0)) as part:
            part.write(slate_table([], np.zeros((0, 1), int), np.zeros((0, 1)), ITEM_IDS))
            assert list(tmp_path.glob(UNFINISHED)) == [part.fresh]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())


def test_what_is_no_directory_of_slates_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a directory"):
        list_parts(tmp_path / "nowhere")
    (tmp_path / "diversity=0.1").mkdir()
    with pytest.raises(ValueError, match=r"it is a grid, give one of diversity=0\.1"):
        list_parts(tmp_path)
