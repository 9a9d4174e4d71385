"""What recommend refuses before Ray starts; its slates are in tests/cluster/test_recommend.py."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.config import override
from recdiv_core.data.catalogue import load_catalogue
from recdiv_core.data.reading import SplitRows
from recdiv_core.schema import read_manifest
from recdiv_core.settings import parse_overrides
from recdiv_core.slates.eligibility import copy_lists, eligibility_of, with_own_lists
from recdiv_core.slates.files import PartWriter, freed_share, part_path, short_slates, slate_table
from recdiv_core.slates.inputs import checkpoint_config
from recdiv_core.slates.maker import SlateMaker
from recdiv_core.slates.parts import SEVERAL, PartMaker, PartTask
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.recommend import PLAN, dials_of, recommend
from tests.sweep_worlds import K


@pytest.fixture(scope="module")
def checkpoint(swept_shop) -> Path:
    return next(swept_shop.storage.glob("*/checkpoint_1"))


def refused(checkpoint, out, *overrides, users="test", dials=()):
    config = checkpoint_config(checkpoint, parse_overrides(overrides))
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the caller looks at the message)
        recommend(config, checkpoint, out, users=users, dials=dials)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "dials", "message"),
    [
        ((), (0.0, 0.5), "rerank.method=none has no dial"),
        ((), (0.3,), "rerank.method=none has no dial"),
        (("rerank.method=mmr",), (0.0, 1.5), "--dial 1.5 must lie in [0, 1]"),
        (("rerank.method=mmr",), (0.5, 0.5), "--dial 0.5,0.5 names a dial twice"),
        (("data.prepared=nowhere",), (), "nowhere is not a directory"),
        (("rerank.method=alpha", "rerank.attributes={colour: 1}"), (), "no column 'colour'"),
    ],
)
def test_settings_that_make_no_slates_are_refused(checkpoint, tmp_path, overrides, dials, message):
    out = tmp_path / "slates"
    assert message in refused(checkpoint, out, *overrides, dials=dials)
    assert not out.exists()


def test_what_is_not_chosen_place_by_place_is_not_explained(checkpoint, tmp_path):
    config = checkpoint_config(checkpoint, {"rerank.method": "exposure"})
    with pytest.raises(ValueError, match=r"--explain: rerank\.method=exposure .*allowed: mmr, msd"):
        recommend(config, checkpoint, tmp_path / "why", users="test", explained=True)


def test_a_part_says_why_and_what_gave_way(checkpoint, tmp_path):
    config = checkpoint_config(checkpoint, {"rerank.method": "mmr"})
    prepared = Path(config.data.prepared)
    item = load_catalogue(prepared).table["item_id"][3].as_py()
    rules = ["at most 1 of brand", f"include {item}"]
    config = override(config, {"rerank.rules": rules})
    dials = [0.0, 0.5]
    places = [tmp_path / f"{dial}" for dial in dials]
    task = PartTask(config, checkpoint, prepared, "test", 20, places, dials, explained=True)
    done = PartMaker(task)({"part": np.array([1])})
    assert done["num_users"].tolist() == [20]
    rows = SplitRows(prepared, "test").read(20, 40).to_pylist()
    histories = {row["user_id"]: row["history"] for row in rows}
    for place, dial in zip(places, dials, strict=True):
        table = pq.read_table(part_path(place, 1))
        assert table.schema.names[3:] == ["gave_way", "relevance", "novelty", "rule"]
        for row in table.to_pylist():
            has_seen = 3 in histories[row["user_id"]]  # and so cannot be shown it
            assert (rules[1] in row["gave_way"]) == has_seen == (item not in row["item_ids"])
            assert len(row["item_ids"]) == len(row["relevance"]) == len(row["rule"]) == K
            assert set(row["rule"]) <= {"", SEVERAL, *rules}
            if not dial:
                assert not any(row["novelty"])


def test_a_part_says_what_raised_an_item(checkpoint, tmp_path):
    def explained(**settings: float) -> list[dict[str, Any]]:
        rerank = {"method": "mmr", "diversity": 0.2, **settings}
        own = {f"rerank.{key}": value for key, value in rerank.items()}
        config = checkpoint_config(checkpoint, own)
        place = [tmp_path / f"{len(settings)}"]
        prepared = Path(config.data.prepared)
        task = PartTask(config, checkpoint, prepared, "test", 20, place, [0.2], explained=True)
        PartMaker(task)({"part": np.array([0])})
        return pq.read_table(part_path(place[0], 0)).to_pylist()

    alone, raised = explained(), explained(logit_adjustment=0.1)
    assert "raised" not in alone[0]
    num_shared = 0
    for before, after in zip(alone, raised, strict=True):
        old = dict(zip(before["item_ids"], before["scores"], strict=True))
        for item, score, own in zip(
            after["item_ids"], after["scores"], after["raised"], strict=True
        ):
            assert own > 0  # a share of train events below 1 has a negative logarithm
            if item in old:
                num_shared += 1
                assert score - own == pytest.approx(old[item], abs=1e-5)
    assert num_shared >= 50


def test_slates_draw_alike_in_recommend_and_for_one_request_at_a_time(checkpoint, tmp_path):
    rules = ["draw 1 of is_cold=true for 50 % of slates"]
    config = checkpoint_config(checkpoint, {"rerank.rules": rules, "eval.filter_seen": False})
    prepared = Path(config.data.prepared)
    catalogue = load_catalogue(prepared)
    cold = set(catalogue.item_ids.filter(catalogue.table["is_cold"].combine_chunks()).to_pylist())
    task = PartTask(config, checkpoint, prepared, "test", 40, [tmp_path], [0.0], False)
    PartMaker(task)({"part": np.array([0])})
    found = pq.read_table(part_path(tmp_path, 0)).to_pylist()
    maker = SlateMaker(checkpoint, prepared)
    maker.policy = slate_policy(config, maker.dataset)
    for row, own in zip(SplitRows(prepared, "test").read(0, 40).to_pylist(), found, strict=True):
        history = [maker.item_ids[item] for item in row["history"]]
        asked = {"k": K, "model_diversity": 0.0, "rerank_diversity": 0.0}
        (slate,) = maker.slates([history], **asked)  # without the query, so scores differ
        assert cold & set(slate.item_ids) == cold & set(own["item_ids"])
        assert own["gave_way"] == []
    with_cold = sum(bool(cold & set(row["item_ids"])) for row in found)
    assert 10 <= with_cold <= 32


def test_a_split_without_users_is_refused(checkpoint, tmp_path):
    message = refused(checkpoint, tmp_path / "slates", users="val")
    assert "--users val" in message
    assert "holds no val example" in message


def test_what_is_not_of_recommend_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "did not write" in refused(checkpoint, tmp_path)
    assert "is a file" in refused(checkpoint, tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_slates_of_other_settings_are_left_alone(checkpoint, tmp_path):
    (tmp_path / PLAN).write_text(json.dumps({"eval.k": 99, "users": "test"}))
    message = refused(checkpoint, tmp_path)
    assert f"eval.k was 99, is {K}" in message
    assert "users was" not in message


def test_dials_are_numbers_with_commas():
    assert dials_of("0,0.1,1") == [0, 0.1, 1]
    assert dials_of("") == []
    with pytest.raises(ValueError, match="--dial 0;1: allowed are numbers"):
        dials_of("0;1")


def test_blocked_items_stand_in_no_slate_and_freed_places_are_counted(checkpoint, tmp_path):
    config = checkpoint_config(checkpoint, {})
    prepared = Path(config.data.prepared)
    ids = load_catalogue(prepared).item_ids.to_pylist()
    (tmp_path / "block.txt").write_text("\n".join(ids[::2]))
    tables = []
    for name, path in (("all", ""), ("some", str(tmp_path / "block.txt"))):
        own = override(config, {"eligible.block": path})
        task = PartTask(own, checkpoint, prepared, "test", 20, [tmp_path / name], [0.0], False)
        PartMaker(task)({"part": np.array([0])})
        tables.append(pq.read_table(part_path(tmp_path / name, 0)))
    before, after = tables
    assert "freed" not in before.schema.names
    blocked = set(ids[::2])
    freed = [sum(item in blocked for item in slate) for slate in before["item_ids"].to_pylist()]
    assert after["freed"].to_pylist() == freed
    assert not any(blocked & set(slate) for slate in after["item_ids"].to_pylist())
    assert freed_share(tmp_path / "some", K) == sum(freed) / (20 * K)


def test_short_and_empty_slates_of_all_dials_are_counted(tmp_path):
    item_ids = pa.array(["a", "b", "c"])
    slates = {"d=0": [[0, 1, 2], [1, -1, -1]], "d=1": [[-1, -1, -1], [2, 1, -1]]}
    for name, slates_BK in slates.items():
        scores = np.zeros((2, 3), np.float32)
        table = slate_table(["u", "v"], np.array(slates_BK), scores, item_ids)
        with PartWriter(part_path(tmp_path / name, 0)) as part:
            part.write(table)
    assert short_slates([tmp_path / name for name in slates], 3) == (3, 1)
    assert short_slates([tmp_path / "d=0"], 1) == (0, 0)
    assert short_slates([], 3) == (0, 0)


def test_lists_and_times_that_leave_no_item_are_refused(checkpoint, tmp_path):
    (tmp_path / "none.txt").write_text("nothing\n")
    for key in ("only=none.txt", "block=gone.csv"):
        name, place = key.split("=")
        message = refused(checkpoint, tmp_path / "out", f"eligible.{name}={tmp_path / place}")
        assert f"eligible.{name}" in message
    assert "eligible.at=soon is no time" in refused(
        checkpoint, tmp_path / "out", "eligible.at=soon"
    )


def test_a_registered_checkpoint_keeps_its_lists(checkpoint, tmp_path):
    config = checkpoint_config(checkpoint, {})
    manifest = read_manifest(Path(config.data.prepared))
    (tmp_path / "stock.csv").write_text("item_id,left\ni3,1\ni4,2\n")
    given = override(config, {"eligible.only": str(tmp_path / "stock.csv")})
    copy_lists(given, manifest, tmp_path)
    (tmp_path / "stock.csv").unlink()
    own = with_own_lists(given, tmp_path)
    eligible = eligibility_of(own, load_catalogue(Path(config.data.prepared)), manifest)
    assert np.flatnonzero(eligible.is_open_V).tolist() == [3, 4]
    assert with_own_lists(config, tmp_path / "none") == config


def test_a_maker_takes_lists_with_each_call(checkpoint):
    maker = SlateMaker(checkpoint, Path(checkpoint_config(checkpoint, {}).data.prepared))
    asked = {"k": K, "model_diversity": 0.0, "rerank_diversity": 0.0}
    (first,) = maker.slates([[]], **asked)
    (other,) = maker.slates([[]], **asked, eligible_block=first.item_ids[:1])
    assert other.item_ids[: K - 1] == first.item_ids[1:]
    (few,) = maker.slates([[]], **asked, eligible_only=[first.item_ids[2], "no such item"])
    assert few.item_ids == first.item_ids[2:3]
    with pytest.raises(ValueError, match="eligible: no item may be shown"):
        maker.slates([[]], **asked, eligible_only=["no such item"])
