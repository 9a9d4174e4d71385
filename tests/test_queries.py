"""Any text is a query: vectors at request time, and files of queries, without Ray."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recdiv_core.config import Config, override
from recdiv_core.data.queries import QueryEncoder, count_requests, load_queries, mark_seen
from recdiv_core.data.reading import SplitRows
from recdiv_core.data.requests import REQUESTS
from recdiv_core.errors import UserError
from recdiv_core.metrics.tally import SEARCH_METRICS
from recdiv_core.models.text_encoder import (
    OFFLINE_ENCODER,
    copy_encoder,
    encoder_sha256,
    load_tokenizer,
    resolve_encoder,
)
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, TRAIN_EXAMPLE, EncoderSource
from recdiv_core.slates.checkpoint import Progress, save_checkpoint
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.eligibility import fitting
from recdiv_core.slates.files import part_path
from recdiv_core.slates.loading import build_model
from recdiv_core.slates.maker import SlateMaker
from recdiv_core.slates.parts import PartMaker, PartTask
from recdiv_core.slates.query_vectors import QueryVectors
from recdiv_core.slates.search_requests import (
    SPLIT,
    check_reads_queries,
    read_requests,
    write_requests,
)
from recdiv_core.training.checks import OF_QUERIES, check_queries
from tests.worlds import write_dataset

NUM_ITEMS = 20


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """Return the directory of a tiny BERT, as wide as the vectors of `write_dataset`."""
    from transformers import BertConfig, BertModel

    path = tmp_path_factory.mktemp("encoder")
    load_tokenizer(resolve_encoder(OFFLINE_ENCODER)).save_pretrained(path)
    torch.manual_seed(0)  # noqa: TID251
    shape = {"hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=30_522, intermediate_size=8, **shape)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, manifest, encoder) -> Path:
    path = tmp_path_factory.mktemp("data") / "prepared"
    path.mkdir()
    sha256 = encoder_sha256(str(encoder))
    source = EncoderSource(name=str(encoder), sha256=sha256, max_tokens=8, fields=("title",))
    own = manifest.model_copy(update={"encoder": source})
    write_dataset(path, own, num_items=NUM_ITEMS, num_queries=3)
    (path / "train").mkdir()
    train = [
        {
            "user_id": f"u{user}",
            "items": [user, user + 1],
            "queries": [NO_QUERY, user],
            "weights": [1.0, 1.0],
            "times": None,
        }
        for user in range(2)
    ]
    table = pa.Table.from_pylist(train, TRAIN_EXAMPLE)
    pq.write_table(table, path / "train" / "part-00000.parquet")
    (path / REQUESTS).mkdir()
    users = [
        {"user_id": row["user_id"], "history": row["items"], "targets": [], "query": NO_QUERY}
        | {"is_cold_user": False, "history_times": None, "target_times": None}
        for row in train
    ]
    table = pa.Table.from_pylist(users, EVAL_EXAMPLE)
    pq.write_table(table, path / REQUESTS / "part-00000.parquet")
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, prepared) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    small = {"model.dim": 8, "model.num_layers": 1, "model.blend": [], "eval.k": 4}
    config = override(Config(), small | {"data.prepared": str(prepared)})
    dataset = load_dataset(prepared)
    torch.manual_seed(0)  # noqa: TID251
    model = build_model(config, dataset)
    save_checkpoint(
        path,
        config=config,
        manifest=dataset.manifest,
        progress=Progress(best_metrics={}, is_finished=True),
        weights=model.state_dict(),
        training={},
    )
    return path


def test_a_query_has_one_vector_whatever_was_asked_with_it(prepared):
    manifest = load_dataset(prepared).manifest
    alone = QueryEncoder(manifest).encode(["red shoe"])
    together = QueryEncoder(manifest).encode(["a far longer query", "red shoe", "red shoe"])
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)
    assert np.array_equal(together[1], together[2])


def test_only_the_latest_vectors_are_kept(prepared):
    encoder = QueryEncoder(load_dataset(prepared).manifest, kept=2)
    for asked, num_encoded in (("ab", 2), ("a", 2), ("c", 3), ("a", 3), ("b", 4)):
        encoder.encode(list(asked))
        assert encoder.num_encoded == num_encoded
    assert encoder.encode(list("abcd")).shape == (4, 6)


def test_a_copied_encoder_is_the_same_encoder(prepared, encoder, tmp_path):
    manifest = load_dataset(prepared).manifest
    copy_encoder(str(encoder), tmp_path / "copy")
    own = QueryEncoder(manifest, tmp_path / "copy").encode(["red shoe"])
    assert np.array_equal(own, QueryEncoder(manifest).encode(["red shoe"]))


def test_another_encoder_is_refused(prepared):
    manifest = load_dataset(prepared).manifest
    other = manifest.encoder.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(ValueError, match="run `recdiv prepare` again"):
        QueryEncoder(manifest.model_copy(update={"encoder": other})).encode(["red"])


def test_queries_of_the_log_are_looked_up_and_others_encoded(prepared):
    dataset = load_dataset(prepared)
    vectors = QueryVectors(dataset)
    asked = vectors.ask(["query 1", "", "red shoe"])
    assert asked is not None
    assert torch.equal(asked.vectors_BH[0], dataset.queries_QH[1])
    assert not asked.vectors_BH[1].any()
    assert asked.vectors_BH[2].norm().item() == pytest.approx(1.0, abs=1e-5)
    assert vectors.encoder.num_encoded == 1
    assert asked.has_query_B.tolist() == [True, False, True]
    assert vectors.ask(["", ""]) is None
    assert [vectors.is_known(text) for text in ("query 2", "red shoe")] == [True, False]


def test_train_events_tell_which_queries_are_seen(prepared):
    assert mark_seen(prepared, 3).tolist() == [True, True, False]
    assert mark_seen(prepared, 0).tolist() == []
    assert load_queries(prepared).to_pylist() == ["query 0", "query 1", "query 2"]


def slates(maker, histories, queries):
    found = maker.slates(histories, queries, k=4, model_diversity=0, rerank_diversity=0)
    return [slate.scores for slate in found], [slate.query_is_known for slate in found]


def test_every_query_counts_however_it_is_typed(checkpoint, prepared):
    maker = SlateMaker(checkpoint, prepared)
    typed = ["query 1", " QUERY \t1", "red shoe", "Red  SHOE", None, " ", "blue boot"]
    scores, is_known = slates(maker, [["i1"]] * 7, typed)
    assert scores[0] == scores[1]
    assert scores[2] == scores[3]
    assert scores[4] == scores[5]
    assert len({tuple(own) for own in scores}) == 4
    assert is_known == [True, True, False, False, True, True, False]


def test_a_request_does_not_depend_on_others_in_its_batch(checkpoint, prepared):
    maker = SlateMaker(checkpoint, prepared)
    histories, queries = [["i1", "i2"], [], ["i3"]], ["red shoe", None, "query 0"]
    together, _ = slates(maker, histories, queries)
    for history, query, own in zip(histories, queries, together, strict=True):
        np.testing.assert_allclose(slates(maker, [history], [query])[0][0], own, atol=1e-5)


CSV = "query,user_id,history\nRed  Shoe,,i1|i2|gone\nquery 1,u1,\nboot,nobody,\n"


def test_rows_of_a_file_become_requests(prepared, tmp_path, caplog):
    (tmp_path / "q.csv").write_text(CSV)
    requests = read_requests(str(tmp_path / "q.csv"))
    assert requests.table["query"].to_pylist() == ["red shoe", "query 1", "boot"]
    assert requests.names_users
    dataset = load_dataset(prepared)
    write_requests(requests, tmp_path, prepared, dataset.catalogue.item_ids, 16)
    rows = SplitRows(tmp_path, SPLIT).read(0, 3).to_pylist()
    assert [row["history"] for row in rows] == [[1, 2], [1, 2], []]
    assert [row["text"] for row in rows] == ["red shoe", "query 1", "boot"]
    assert [row["user_id"] for row in rows] == ["", "u1", "nobody"]
    assert "1 user without a history" in caplog.text
    assert "1 item of histories not in the catalogue" in caplog.text


def test_json_lines_and_parquet_give_the_same_requests(tmp_path):
    rows = [{"query": "Shoe", "history": ["i1", "i2"]}, {"query": "boot", "history": None}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    found = [read_requests(str(tmp_path / f"q.{end}")) for end in ("jsonl", "parquet")]
    assert found[0].table.to_pylist() == found[1].table.to_pylist()
    assert found[0].table["history"].to_pylist() == [["i1", "i2"], None]
    assert not found[0].names_users
    assert found[0].sha256 == found[1].sha256
    assert len(found[0].sha256) == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query\n", "has no row"),
        ("words\nred\n", "query"),
        ("query,user_id\nred,u1\n  ,u2\n", "row 3: the query is empty"),
        ("query,user_id\nred,u1\nblue\n", "row 3"),
    ],
)
def test_a_row_without_a_query_is_named(tmp_path, text, message):
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(ValueError, match=f"--queries.*{message}"):
        read_requests(str(tmp_path / "q.csv"))


def test_a_file_without_queries_names_its_columns_and_no_setting(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\ni0,shoe\n")
    with pytest.raises(UserError, match=r"no column 'query'; columns there: item_id, title$"):
        read_requests(str(tmp_path / "items.csv"))


def answered(checkpoint, prepared, place):
    """Return the slates of place/q.csv as `recommend` writes them, and the maker of its model."""
    requests = read_requests(str(place / "q.csv"))
    write_requests(requests, place, prepared, load_dataset(prepared).catalogue.item_ids, 16)
    maker = SlateMaker(checkpoint, prepared)
    task = PartTask(maker.config, str(checkpoint), place, SPLIT, 64, [place], [0.0], False)
    PartMaker(task)({"part": np.array([0])})
    return pq.read_table(part_path(place, 0)).to_pylist(), maker


def test_a_file_of_queries_is_answered_row_by_row(checkpoint, prepared, tmp_path):
    (tmp_path / "q.csv").write_text(CSV)
    rows, maker = answered(checkpoint, prepared, tmp_path)
    assert [row["query"] for row in rows] == ["red shoe", "query 1", "boot"]
    histories = [["i1", "i2"], ["i1", "i2"], []]
    texts = ["red shoe", "query 1", "boot"]
    made = maker.slates(histories, texts, k=4, model_diversity=0, rerank_diversity=0)
    assert [row["item_ids"] for row in rows] == [slate.item_ids for slate in made]


def test_each_row_of_a_file_of_queries_may_have_conditions_of_its_own(
    checkpoint, prepared, tmp_path
):
    where = ["category=A", "", "category=nowhere", "category=A", "category=B|A; is_cold=false"]
    rows = [f"query 1,i{number},{text}" for number, text in enumerate(where)]
    (tmp_path / "q.csv").write_text("\n".join(["query,history,where", *rows]))
    found, maker = answered(checkpoint, prepared, tmp_path)
    made = maker.slates(
        [[f"i{number}"] for number in range(5)],
        ["query 1"] * 5,
        k=4,
        model_diversity=0,
        rerank_diversity=0,
        where=where,
    )
    assert [row["item_ids"] for row in found] == [slate.item_ids for slate in made]
    assert [len(row["item_ids"]) > 0 for row in found] == [True, True, False, True, True]
    assert [row["freed"] for row in found][1] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("category", "row 3: where='category': allowed are conditions ATTRIBUTE=VALUE"),
        ("colours=red", "row 3: where: colours: the catalogue has no attribute 'colours'"),
    ],
)
def test_a_row_with_wrong_conditions_is_named(prepared, tmp_path, text, message):
    (tmp_path / "q.csv").write_text(f"query,where\nred,category=A\nblue,{text}\n")
    catalogue = load_dataset(prepared).catalogue
    with pytest.raises(UserError, match=f"--queries.*{re.escape(message)}"):
        read_requests(str(tmp_path / "q.csv"), lambda text: fitting(None, catalogue, text))


def test_a_model_that_ignores_queries_does_not_answer_them():
    for config, num_queries, is_refused in (
        (override(Config(), {"model.kind": "ease"}), 5, True),
        (override(Config(), {"model.blend": []}), 0, True),
        (override(Config(), {"model.blend": []}), 5, False),
    ):
        if is_refused:
            with pytest.raises(ValueError, match="--queries: the model does not read queries"):
                check_reads_queries(config, num_queries)
        else:
            check_reads_queries(config, num_queries)


def test_a_log_without_queries_needs_no_encoder(prepared, checkpoint):
    maker = SlateMaker(checkpoint, prepared)
    maker.queries.dataset = replace(maker.dataset, queries_QH=None)
    slates(maker, [["i1"]], None)
    assert maker.queries.encoder.num_encoded == 0


def test_the_requests_with_a_query_of_a_split_are_counted(tmp_path):
    (tmp_path / "val").mkdir()
    table = pa.table({"query": pa.array([2, NO_QUERY, 0], pa.int32())})
    pq.write_table(table, tmp_path / "val" / "part-0.parquet")
    assert count_requests(tmp_path, "val") == 2
    assert count_requests(tmp_path, "test") == 0


def test_an_objective_of_queries_needs_requests_with_one(tmp_path):
    with pytest.raises(UserError, match=r"eval.objective=query_ndcg .* has none"):
        check_queries(tmp_path, "query_ndcg", "eval.objective=query_ndcg")
    check_queries(tmp_path, "ndcg", "eval.objective=ndcg")


def test_the_metrics_of_queries_that_may_be_objectives_are_those_of_every_epoch():
    assert set(OF_QUERIES) == set(SEARCH_METRICS)


def test_each_request_may_have_conditions_of_its_own(checkpoint, prepared):
    maker = SlateMaker(checkpoint, prepared)
    where = ["category=A", "", None, "category=B|C", "category=B"]
    settings = {"k": 4, "model_diversity": 0, "rerank_diversity": 0}
    found = maker.slates([["i1"]] * 5, None, where=where, **settings)
    (plain,) = maker.slates([["i1"]], None, **settings)
    assert found[1].item_ids == found[2].item_ids == plain.item_ids
    categories = load_dataset(prepared).catalogue.category_lists.to_pylist()
    for slate, allowed in zip(found, ({0}, {0, 1, 2}, {0, 1, 2}, {1, 2}, {1}), strict=True):
        shown = [set(categories[maker.item_index[item]]) for item in slate.item_ids]
        assert len(shown) == 4
        assert all(own & allowed for own in shown)


def test_a_request_that_no_item_fits_gets_an_empty_slate(checkpoint, prepared):
    maker = SlateMaker(checkpoint, prepared)
    settings = {"k": 4, "model_diversity": 0, "rerank_diversity": 0}
    found = maker.slates([["i1"], ["i1"]], None, where=["category=nothing", ""], **settings)
    assert found[0].item_ids == []
    assert len(found[1].item_ids) == 4


@pytest.mark.parametrize(
    ("where", "said"),
    [(["region"], "where='region'"), (["size=1"], "where: size"), (["", ""], "of 2 requests")],
)
def test_conditions_that_cannot_be_read_are_refused(checkpoint, prepared, where, said):
    maker = SlateMaker(checkpoint, prepared)
    with pytest.raises(UserError, match=said):
        maker.slates([[]], None, where=where, k=4, model_diversity=0, rerank_diversity=0)
