"""A checkpoint on a newer data set of its lineage (slates/carry.py), without Ray."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recdiv_core.config import Config, override
from recdiv_core.data.text_vectors import vectors_path
from recdiv_core.errors import UserError
from recdiv_core.evaluation.systems import check_comparable, find_run, judged_data, on_newest
from recdiv_core.schema import CATALOGUE, EVAL_EXAMPLE, NO_QUERY, TRAIN_EXAMPLE, read_manifest
from recdiv_core.slates.carry import carried
from recdiv_core.slates.checkpoint import (
    ITEMS,
    Progress,
    items_of,
    read_config,
    read_items,
    read_trained_on,
    save_checkpoint,
)
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.fitting import fit_baseline, fit_terms
from recdiv_core.slates.lifting import fit_lifts
from recdiv_core.slates.lineage import check_lineage
from recdiv_core.slates.loading import build_model, load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from tests.worlds import write_dataset

NUM_ITEMS, NUM_USERS = 12, 20
SMALL = {"model.dim": 8, "model.num_layers": 1, "model.blend": ["graph"], "eval.k": 4}
NEW = "brand new"


def write_splits(prepared, order, extra=()):
    """Write histories in which item i follows item i - 1; `order` gives their item_index."""
    train, held_out = [], []
    for user in range(NUM_USERS):
        items = [order[2 + (user + place) % (NUM_ITEMS - 2)] for place in range(5)]
        row = {"user_id": f"u{user}", "queries": [NO_QUERY] * 4, "weights": [1.0] * 4}
        times = [10**12 * place for place in range(5)]
        train.append({**row, "items": items[:4], "times": times[:4]})
        held_out.append(
            {
                "user_id": f"u{user}",
                "history": items[:4],
                "targets": items[4:],
                "query": NO_QUERY,
                "is_cold_user": False,
                "history_times": times[:4],
                "target_times": times[4:],
            }
        )
    train += extra
    for name, rows in (("train", train), ("val", held_out), ("test", held_out)):
        schema = TRAIN_EXAMPLE if name == "train" else EVAL_EXAMPLE
        (prepared / name).mkdir()
        table = pa.Table.from_pylist(rows, schema)
        pq.write_table(table, prepared / name / "part-00000.parquet", row_group_size=16)


@pytest.fixture(scope="module")
def old(tmp_path_factory, manifest):
    prepared = tmp_path_factory.mktemp("old")
    counts = {"num_examples": dict.fromkeys(("train", "val", "test"), NUM_USERS)}
    write_dataset(prepared, manifest.model_copy(update=counts), num_items=NUM_ITEMS, num_queries=0)
    write_splits(prepared, list(range(NUM_ITEMS)))
    (prepared / "tokens.arrow").touch()
    return prepared


def write_newer(old, prepared, *, order, num_new, extra=()):
    """Write the data set with other item indices, and items that are new."""
    manifest = read_manifest(old)
    update = {
        "fingerprint": "a" * 64,
        "lineage": manifest.fingerprint,
        "generation": 1,
        "num_items": len(order) + num_new,
        "num_examples": {**manifest.num_examples, "train": NUM_USERS + len(extra)},
    }
    newer = manifest.model_copy(update=update)
    (prepared / "manifest.json").write_text(newer.model_dump_json())
    rows = pq.read_table(old / "catalogue.parquet").to_pylist()
    rows = [rows[item] for item in order]
    fresh = {"title": "a new item", "categories": [0], "popularity": 0, "is_cold": True}
    rows += [{**fresh, "item_id": f"{NEW} {n}"} for n in range(num_new)]
    rows = [{**row, "item_index": index} for index, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(rows, CATALOGUE), prepared / "catalogue.parquet")
    vectors = np.load(vectors_path(old, manifest, "tokens"))
    path = vectors_path(prepared, newer, "tokens")
    path.parent.mkdir()
    np.save(path, np.concatenate([vectors[order], vectors[:num_new]]))
    shutil.copy(vectors_path(old, manifest, "queries"), path.parent)
    for name in ("tokens.arrow", "queries.arrow"):
        shutil.copy(old / name, prepared / name)
    write_splits(prepared, np.argsort(order).tolist(), extra)
    return prepared


@pytest.fixture(scope="module")
def turned(old, tmp_path_factory):
    """Return the same shop with its items in another order: an append that adds nothing."""
    order = np.random.default_rng(5).permutation(NUM_ITEMS).tolist()
    return write_newer(old, tmp_path_factory.mktemp("turned"), order=order, num_new=0)


@pytest.fixture(scope="module")
def grown(old, tmp_path_factory):
    """Return the shop with two new items, one of them clicked."""
    clicked = {
        "user_id": "v",
        "items": [0, NUM_ITEMS],
        "queries": [NO_QUERY] * 2,
        "weights": [1.0] * 2,
        "times": [0, 1],
    }
    place = tmp_path_factory.mktemp("grown")
    return write_newer(old, place, order=list(range(NUM_ITEMS)), num_new=2, extra=[clicked])


def save(checkpoint, prepared, **changes):
    config = override(Config(), {**SMALL, "data.prepared": str(prepared), **changes})
    dataset = load_dataset(prepared)
    if config.model.kind == "neural":
        with torch.random.fork_rng():
            torch.manual_seed(3)  # noqa: TID251
            model = build_model(config, dataset, fit_terms(config, dataset))
            torch.nn.init.normal_(model.item_tower.gate.weight)
        if model.blend is not None:
            model.blend.weight_T2.copy_(torch.tensor([[1.0, 0.1], [0.7, -0.2]]))
        # for slates of two: those of ten show nearly all of the few items
        fit_lifts(model, dataset, override(config, {"eval.k": 2}))
        weights = model.state_dict()
        weights |= {} if model.blend is None else model.blend.terms_state()
    else:
        baseline = fit_baseline(config, dataset)
        fit_lifts(baseline, dataset, config)
        weights = baseline.state()
    save_checkpoint(
        checkpoint,
        config=config,
        manifest=dataset.manifest,
        progress=Progress(is_finished=True),
        weights=weights,
        training={},
        items=items_of(dataset.catalogue, dataset.catalogue.popularity_V),
    )
    return checkpoint


@pytest.fixture(scope="module", params=["neural", "item_knn"])
def checkpoint(request, old, tmp_path_factory):
    return save(tmp_path_factory.mktemp("run"), old, **{"model.kind": request.param})


def scores_of(checkpoint, prepared, kind="neural"):
    """Return the scores of all held-out users, and the ids of the items."""
    dataset = load_dataset(prepared)
    fitting = carried(checkpoint, prepared, dataset.manifest)
    config = override(Config(), {**SMALL, "model.kind": kind})
    model = load_model(config, dataset, fitting)
    if kind == "neural":
        model.eval()
    share = held_out_of_split(model, dataset, "test", config)
    return torch.cat([each.scores_BV.clone() for each in share]), dataset.catalogue.item_ids


def test_another_order_of_the_items_changes_no_score(checkpoint, old, turned):
    kind = "neural" if "blend.weight_T2" in torch.load(checkpoint / "model.pt") else "item_knn"
    before_BV, ids = scores_of(checkpoint, old, kind)
    after_BV, turned_ids = scores_of(checkpoint, turned, kind)
    place = [turned_ids.to_pylist().index(item_id) for item_id in ids.to_pylist()]
    torch.testing.assert_close(after_BV[:, place], before_BV, atol=1e-5, rtol=1e-5)


def test_a_new_item_scores_as_a_cold_item_with_its_text(old, grown, tmp_path):
    checkpoint = save(tmp_path, old, **{"model.blend": []} | {"model.kind": "neural"})
    scores_BV, ids = scores_of(checkpoint, grown)
    assert ids.to_pylist()[NUM_ITEMS:] == [f"{NEW} 0", f"{NEW} 1"]
    # the vectors of the new items are those of items 0 and 1, which are cold
    torch.testing.assert_close(scores_BV[:, NUM_ITEMS:], scores_BV[:, :2])


def test_new_items_start_training_from_the_mean_id_part(old, grown, tmp_path):
    fitting = carried(save(tmp_path, old), grown, read_manifest(grown))
    weights = torch.load(fitting / "model.pt")
    rows_VD = weights["item_tower.ids.weight"]
    assert torch.equal(rows_VD[0], rows_VD[NUM_ITEMS])  # 0 is cold
    assert not torch.equal(rows_VD[5], rows_VD[NUM_ITEMS])
    before_VD = torch.load(tmp_path / "model.pt")["item_tower.ids.weight"]
    assert torch.equal(rows_VD[2:NUM_ITEMS], before_VD[2:])
    assert read_items(fitting)["popularity"].to_pylist()[NUM_ITEMS:] == [0, 0]


def test_lifts_move_with_their_items_and_new_items_have_none(old, grown, tmp_path):
    checkpoint = save(tmp_path, old)
    before, after = load_dataset(old), load_dataset(grown)
    old_lifts, new_lifts = (
        load_model(
            read_config(checkpoint), data, carried(checkpoint, data.prepared, data.manifest)
        ).lifts
        for data in (before, after)
    )
    known = dict(zip(ids_of(before), old_lifts.needed_V.tolist(), strict=True))
    expected = [known.get(item_id, -1.0) for item_id in ids_of(after)]
    assert new_lifts.needed_V.tolist() == expected
    assert new_lifts.unit == old_lifts.unit > 0
    assert -1.0 in expected


def ids_of(dataset):
    return dataset.catalogue.item_ids.to_pylist()


def test_the_lifts_of_a_baseline_are_measured_on_the_newer_data(old, grown, tmp_path):
    checkpoint = save(tmp_path, old, **{"model.kind": "item_knn"})
    dataset = load_dataset(grown)
    place = carried(checkpoint, grown, dataset.manifest)
    found = load_model(read_config(place), dataset, place).lifts
    again = fit_baseline(read_config(place), dataset)
    fit_lifts(again, dataset, read_config(place))
    assert torch.equal(found.needed_V, again.lifts.needed_V)


def test_terms_of_a_blend_are_fitted_on_the_newer_train_events(old, grown, tmp_path):
    fitting = carried(save(tmp_path, old), grown, read_manifest(grown))
    weights = torch.load(fitting / "model.pt")
    assert weights["terms.graph.popular_V"].shape == (NUM_ITEMS + 2,)
    own = weights["terms.graph.neighbours_VN"][0], weights["terms.graph.weight_VN"][0]
    assert NUM_ITEMS in own[0][own[1] > 0].tolist()  # clicked after item 0
    assert torch.equal(weights["blend.weight_T2"], torch.tensor([[1.0, 0.1], [0.7, -0.2]]))


def test_a_checkpoint_is_carried_over_once(old, grown, tmp_path):
    manifest = read_manifest(grown)
    checkpoint = save(tmp_path, old)
    fitting = carried(checkpoint, grown, manifest)
    written = (fitting / "model.pt").stat().st_mtime_ns
    assert carried(checkpoint, grown, manifest) == fitting
    assert carried(fitting, grown, manifest) == fitting
    assert (fitting / "model.pt").stat().st_mtime_ns == written
    assert read_trained_on(fitting).fingerprint == manifest.fingerprint
    assert not list(fitting.parent.glob("*.partial"))


def test_items_that_are_gone_are_left_out(old, grown, tmp_path, caplog):
    fitting = carried(save(tmp_path, grown), old, read_manifest(old))
    assert len(read_items(fitting)) == NUM_ITEMS
    assert "may have learned the held-out events" in caplog.text


def test_data_of_another_lineage_are_refused_by_name(old, tmp_path, manifest):
    checkpoint = save(tmp_path, old)
    stranger = manifest.model_copy(update={"fingerprint": "0" * 64, "name": "beauty"})
    with pytest.raises(
        UserError, match=r"ffffffffffff \(shop\).*000000000000 \(beauty\)"
    ) as refused:
        check_lineage(checkpoint, stranger)
    assert len(str(refused.value).splitlines()) == 1


def test_a_checkpoint_without_items_fits_its_own_data_alone(old, grown, tmp_path):
    checkpoint = save(tmp_path, old)
    tree = (checkpoint / "checkpoint.json").read_text()
    (checkpoint / "checkpoint.json").write_text(tree.replace('"lineage"', '"name"'))
    (checkpoint / ITEMS).unlink()
    check_lineage(checkpoint, read_manifest(old))
    with pytest.raises(UserError, match="do not fit"):
        check_lineage(checkpoint, read_manifest(grown))


def test_runs_of_a_lineage_are_judged_on_the_newest_data(old, grown, tmp_path):
    for name, prepared in (("before", old), ("after", grown)):
        (tmp_path / name).mkdir()
        save(tmp_path / name, prepared)
    runs = [find_run(str(tmp_path / name), {}, str) for name in ("before", "after")]
    moved = on_newest(runs)
    check_comparable(moved)
    assert {run.config.data.prepared for run in moved} == {str(grown)}
    assert judged_data(moved)["append"] == 1
    asked = [find_run(run.name, {"data.prepared": str(old)}, str) for run in runs]
    assert {run.config.data.prepared for run in on_newest(asked)} == {str(old)}


def test_runs_of_two_lineages_do_not_compare_and_both_are_named(old, tmp_path, manifest):
    other = tmp_path / "other"
    shutil.copytree(old, other)
    stranger = read_manifest(old).model_copy(update={"fingerprint": "0" * 64, "name": "beauty"})
    (other / "manifest.json").write_text(stranger.model_dump_json())
    runs = []
    for name, prepared in (("one", old), ("two", other)):
        (tmp_path / name).mkdir()
        runs.append(find_run(str(save(tmp_path / name, prepared)), {}, str))
    with pytest.raises(UserError, match=r"000000000000 \(beauty\), not ffffffffffff \(shop\)"):
        check_comparable(on_newest(runs))


def test_slates_of_a_carried_model_hold_new_items(old, grown, tmp_path):
    checkpoint = save(tmp_path, old, **{"model.blend": []})
    dataset = load_dataset(grown)
    config = override(Config(), {**SMALL, "eval.k": NUM_ITEMS - 2})
    model = load_model(config, dataset, carried(checkpoint, grown, dataset.manifest)).eval()
    policy = replace(slate_policy(config, dataset), k=NUM_ITEMS - 2)
    (held_out,) = held_out_of_split(model, dataset, "test", config)
    slates_BK, _ = held_out.slates(dataset, policy)
    assert (slates_BK >= NUM_ITEMS).any()
