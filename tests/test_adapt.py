"""`recdiv adapt`: what it learns from, what it writes, what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from recdiv_core.adaptation import adapt as adapting
from recdiv_core.adaptation import directory
from recdiv_core.adaptation.adapt import adapt
from recdiv_core.adaptation.steps import Texts, batches
from recdiv_core.adaptation.texts import read_pairs, read_texts
from recdiv_core.config import Config, override
from recdiv_core.data.text_vectors import encode_here, vectors_path
from recdiv_core.errors import DivergedError, UserError
from recdiv_core.models.encoder_description import describe_encoder, token_ids
from recdiv_core.models.text_encoder import (
    check_encoder,
    encoder_sha256,
    load_encoder,
    load_tokenizer,
)
from recdiv_core.schema import read_manifest
from tests.encoder_worlds import DECODERS, ENCODER_DECODERS, save_encoder, write_shop

NUM_ITEMS = 12
TRAIN = [([0, 1, 1, 2], []), ([3, 4], [3, 4]), ([5, 6], [-1, 6])]
VAL = [([0, 1, 2], 7, 7), ([3, 4], 8, 8)]
QUICK = {"adapt.steps": 30, "adapt.batch_size": 3, "adapt.learning_rate": 3e-3}
QUICK |= {"adapt.mask_share": 0.15}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory, manifest, source) -> Path:
    """Return a shop with queries 3, 4 and 6 in train events; 7 and 8 are held out."""
    place = tmp_path_factory.mktemp("shops") / "shop"
    return write_shop(
        place, manifest, source, num_items=NUM_ITEMS, train=TRAIN, val=VAL, num_queries=10
    )


def config_of(shop: Path, **settings: object) -> Config:
    keys = {f"adapt.{name}": value for name, value in settings.items()}
    return override(Config(), QUICK, {"data.prepared": str(shop)}, keys)


def texts_of(shop: Path):
    own = read_manifest(shop).encoder
    return read_texts(shop, own, own.name)


def halves(texts):
    """Return the tokens of the items and of the queries."""
    tokens = list(texts.tokens)
    return tokens[: texts.num_items], tokens[texts.num_items :]


def vectors(source: str, texts: list[str]) -> np.ndarray:
    tokens = token_ids(load_tokenizer(source), texts, 8, "mean")
    return encode_here(tokens, source, describe_encoder(source).pooling)


def pairs_of(shop: Path, kind) -> set[tuple[int, int]]:
    found = read_pairs(shop, texts_of(shop), kind)
    return set(zip(found.left_P.tolist(), found.right_P.tolist(), strict=True))


# ------------------------------------------------------------------------- what it learns from


def test_pairs_of_queries_are_those_of_train_events(shop):
    assert pairs_of(shop, "queries") == {(NUM_ITEMS + query, query) for query in (3, 4, 6)}
    assert pairs_of(shop, "auto") == pairs_of(shop, "queries")


def test_pairs_of_items_are_neighbours_of_one_user_in_train_events(shop):
    assert pairs_of(shop, "next_item") == {(0, 1), (1, 2), (3, 4), (5, 6)}


def test_only_queries_of_train_events_are_read(shop):
    assert texts_of(shop).queries_T.tolist() == [NUM_ITEMS + query for query in (3, 4, 6)]


def test_a_log_without_queries_gives_pairs_of_items(manifest, source, tmp_path):
    shop = write_shop(tmp_path / "shop", manifest, source, num_items=4, train=[([0, 2], [])])
    assert pairs_of(shop, "auto") == {(0, 2)}
    with pytest.raises(UserError, match=r"adapt\.pairs=queries: the train split has no such pair"):
        pairs_of(shop, "queries")
    assert pairs_of(shop, "none") == set()


def test_what_belongs_together_is_no_negative(shop):
    pairs = read_pairs(shop, texts_of(shop), "next_item")
    left, right = np.array([1, 3]), np.array([0, 1, 2, 4])
    assert pairs.belong(left, right).tolist() == [
        [True, True, True, False],
        [False, False, False, True],
    ]


def test_prefixes_stand_before_queries_and_items(manifest, source, tmp_path):
    prefixes = {"query_prefix": "query ", "passage_prefix": "item "}
    shop = write_shop(
        tmp_path / "shop", manifest, source, num_items=2, train=TRAIN[:0], num_queries=1, **prefixes
    )
    texts = ["item item 0", "item item 1", "query query 0"]
    assert list(texts_of(shop).tokens) == load_tokenizer(source)(texts)["input_ids"]


def test_batches_take_every_row_equally_often():
    drawn = batches(np.arange(5), 3, np.random.default_rng(0))
    counts = np.bincount(np.concatenate([next(drawn) for _ in range(10)]), minlength=5)
    assert counts.tolist() == [6] * 5


def test_texts_are_encoded_in_groups_as_one_by_one(source):
    words = ["item 1", "query 1 2 3 4 5", "2", "item 3"]
    tokens = token_ids(load_tokenizer(source), words, 8, "mean")
    texts, encoder = Texts(tokens, "mean", torch.device("cpu")), load_encoder(source)
    wanted = encode_here(tokens, source, "mean")[[3, 1, 0]]
    rows = np.array([3, 1, 0])
    np.testing.assert_allclose(texts.encode(encoder, rows).detach(), wanted, atol=1e-5)
    np.testing.assert_allclose(texts.encode_all(encoder, rows), wanted, atol=1e-5)


# --------------------------------------------------------------------------- what it writes


@pytest.fixture(scope="module")
def adapted(shop, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("out") / "deep" / "adapted"
    return out, adapt(config_of(shop), out)


def test_the_directory_is_an_encoder_like_any_other(adapted, shop, source):
    out, result = adapted
    check_encoder(str(out))
    assert describe_encoder(str(out)) == describe_encoder(source)
    assert not np.allclose(vectors(str(out), ["item 3"]), vectors(source, ["item 3"]), atol=1e-2)
    assert result["out"] == str(out)
    assert (result["pairs"], result["num_pairs"], result["num_texts"]) == ("queries", 3, NUM_ITEMS)
    assert sorted(path.name for path in out.parent.iterdir()) == ["adapted"]


def test_the_facts_name_base_data_and_settings(adapted, shop, source):
    facts = json.loads((adapted[0] / "adaptation.json").read_text())
    assert facts["encoder"] == {"name": source, "sha256": encoder_sha256(source)}
    assert facts["data"]["fingerprint"] == read_manifest(shop).fingerprint
    assert facts["settings"]["adapt.steps"] == 30
    assert facts["settings"]["seed"] == 0


def test_both_losses_fall_and_queries_come_near_their_items(adapted, source):
    out, result = adapted
    assert set(result["losses"]) == {"contrast", "masked"}
    assert all(last < first for first, last in result["losses"].values())
    queries, items = ([f"{kind} {n}" for n in (3, 4, 6)] for kind in ("query", "item"))
    before, after = (vectors(name, queries) @ vectors(name, items).T for name in (source, str(out)))
    assert (after.argmax(1) == np.arange(3)).all()
    assert np.trace(after) - after.mean() * 3 > np.trace(before) - before.mean() * 3


def test_equal_calls_write_equal_encoders_and_another_seed_another(shop, tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        adapt(override(config_of(shop, steps=2), {"seed": seed}), tmp_path / name)
    one, same, other = (encoder_sha256(str(tmp_path / name)) for name in ("one", "same", "other"))
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("settings", "losses"),
    [
        ({"mask_share": 0.0}, {"contrast"}),
        ({"pairs": "none"}, {"masked"}),
        ({"pairs": "next_item", "mask_share": 0.0}, {"contrast"}),
        ({"layers": 1}, {"imitation"}),
    ],
)
def test_settings_choose_what_is_learned(shop, tmp_path, settings, losses):
    assert set(adapt(config_of(shop, steps=2, **settings), tmp_path / "out")["losses"]) == losses


def test_embeddings_of_tokens_stay(adapted, source):
    from safetensors.torch import load_file

    name = "embeddings.word_embeddings.weight"
    before, after = (
        load_file(Path(place) / "model.safetensors")[name] for place in (source, adapted[0])
    )
    assert torch.equal(before, after)


def test_a_student_gives_the_vectors_of_its_teacher_with_fewer_layers(shop, source, tmp_path):
    texts = [f"item {n}" for n in range(NUM_ITEMS)] + [f"query {n}" for n in (3, 4, 6)]
    distances = []
    for steps in (1, 60):
        out = tmp_path / str(steps)
        adapt(config_of(shop, steps=steps, layers=2, batch_size=12, learning_rate=1e-2), out)
        distances.append(1 - (vectors(str(out), texts) * vectors(source, texts)).sum(1).mean())
    assert distances[1] < 0.3 * distances[0]


def test_a_student_learns_the_stored_vectors_where_there_are_any(shop, source, tmp_path):
    copy = Path(shutil.copytree(shop, tmp_path / "shop"))
    manifest = read_manifest(copy)
    text_vectors = {
        name: encode_here(list(texts), source, "mean")
        for name, texts in zip(("tokens", "queries"), halves(texts_of(copy)), strict=True)
    }
    computed = adapt(config_of(copy, steps=3, layers=1), tmp_path / "one")["losses"]
    (copy / "vectors").mkdir()
    for name, stored in text_vectors.items():
        np.save(vectors_path(copy, manifest, name), stored)
    same = adapt(config_of(copy, steps=3, layers=1), tmp_path / "same")["losses"]
    np.testing.assert_allclose(same["imitation"], computed["imitation"], atol=2e-4)
    np.save(vectors_path(copy, manifest, "tokens"), np.roll(text_vectors["tokens"], 1, axis=0))
    other = adapt(config_of(copy, steps=3, layers=1), tmp_path / "other")["losses"]
    assert abs(other["imitation"][0] - computed["imitation"][0]) > 2e-3


def test_how_an_encoder_is_used_is_written_with_it(manifest, source, tmp_path):
    used = {"pooling": "eos", "query_prefix": "query: ", "passage_prefix": "passage: "}
    shop = write_shop(
        tmp_path / "shop", manifest, source, num_items=4, train=[([0, 2, 1], [])], **used
    )
    adapt(config_of(shop, steps=1), tmp_path / "out")
    found = describe_encoder(str(tmp_path / "out"))
    assert {name: getattr(found, name) for name in used} == used


def test_a_student_of_an_adapted_encoder_starts_from_it(adapted, shop, tmp_path):
    result = adapt(config_of(shop, steps=1, layers=1), tmp_path / "small", str(adapted[0]))
    assert result["encoder"] == str(adapted[0])
    facts = json.loads((tmp_path / "small" / "adaptation.json").read_text())
    assert facts["encoder"]["sha256"] == encoder_sha256(str(adapted[0]))


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_learns_from_pairs(manifest, tmp_path, family):
    source = save_encoder(tmp_path / "decoder", family)
    shop = write_shop(
        tmp_path / "shop",
        manifest,
        source,
        num_items=4,
        train=[([0, 2, 1, 3], [])],
        pooling="last",
    )
    with pytest.raises(UserError, match=r"adapt\.mask_share: \w+ has no masked language modelling"):
        adapt(config_of(shop), tmp_path / "out")
    result = adapt(config_of(shop, mask_share=0), tmp_path / "out")
    first, last = result["losses"]["contrast"]
    assert last < first
    assert describe_encoder(str(tmp_path / "out")).pooling == "last"


# -------------------------------------------------------------------------- what it refuses


def test_an_encoder_decoder_is_refused(manifest, tmp_path):
    source = save_encoder(tmp_path / "t5", next(iter(ENCODER_DECODERS)))
    shop = write_shop(tmp_path / "shop", manifest, source, num_items=2, train=[([0, 1], [])])
    with pytest.raises(UserError, match="is an encoder-decoder, such as T5; allowed are encoders"):
        adapt(config_of(shop), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"pairs": "none", "mask_share": 0.0},
            r"adapt\.pairs=none with adapt\.mask_share=0\.0",
        ),
        ({"layers": 3}, r"adapt\.layers=3: the encoder has 3 layers"),
    ],
)
def test_what_cannot_be_learned_is_named(shop, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        adapt(config_of(shop, **settings), tmp_path / "out")


def test_a_directory_that_is_there_is_not_written_over(shop, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"--out .* exists already; give a new directory"):
        adapt(config_of(shop), tmp_path)


def test_no_data_set_and_no_gpu_are_named(shop, tmp_path):
    with pytest.raises(UserError, match=r"data\.prepared is not set"):
        adapt(Config(), tmp_path / "out")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"scaling\.use_gpu=true: torch sees no GPU"):
            adapt(override(config_of(shop), {"scaling.use_gpu": True}), tmp_path / "out")


def test_an_encoder_that_has_changed_since_prepare_is_refused(shop, source, manifest, tmp_path):
    copy = Path(shutil.copytree(source, tmp_path / "encoder"))
    shop = write_shop(tmp_path / "shop", manifest, str(copy), num_items=2, train=[([0, 1], [])])
    (copy / "notes.txt").write_text("changed")
    with pytest.raises(UserError, match="have changed; run `recdiv prepare` again"):
        adapt(config_of(shop), tmp_path / "out")


def test_an_encoder_that_cannot_be_read_is_named_as_it_was_given(shop, source, manifest, tmp_path):
    out, lost = tmp_path / "out", tmp_path / "lost"
    lost.mkdir()
    with pytest.raises(UserError, match=r"^--encoder nothere: the model hub cannot be reached"):
        adapt(config_of(shop), out, "nothere")
    with pytest.raises(UserError, match=r"^--encoder \S+lost is a directory without a config"):
        adapt(config_of(shop), out, str(lost))
    shutil.copytree(source, lost, dirs_exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (lost / name).unlink()
    with pytest.raises(UserError, match=r"^--encoder \S+lost has no tokeniser"):
        adapt(config_of(shop), out, str(lost))
    own = write_shop(tmp_path / "shop", manifest, str(lost), num_items=2, train=[([0, 1], [])])
    with pytest.raises(UserError, match=r"^model\.text\.encoder=\S+lost has no tokeniser"):
        adapt(config_of(own), out)


def test_nothing_is_left_of_a_call_that_fails(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(directory, "CLOSE", -1.0)  # no vectors are close enough
    with pytest.raises(UserError, match="BertModel gives other vectors after writing"):
        adapt(config_of(shop, steps=1), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_ends_the_call(shop, tmp_path):
    with pytest.raises(DivergedError, match=r"a smaller adapt\.learning_rate may help"):
        adapt(config_of(shop, learning_rate=1e20), tmp_path / "out")


def test_settings_that_a_student_does_not_use_are_named(shop, tmp_path, caplog):
    adapting.warn_idle(config_of(shop, layers=2, mask_share=0.3))
    assert caplog.messages == ["adapt.mask_share: no effect with adapt.layers=2"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("layers", [0, 1])
def test_a_gpu_learns_nearly_what_a_cpu_learns(shop, tmp_path, layers):
    losses = [
        adapt(
            override(config_of(shop, layers=layers), {"scaling.use_gpu": is_on_gpu}),
            tmp_path / str(is_on_gpu),
        )["losses"]
        for is_on_gpu in (False, True)
    ]
    for name, own in losses[0].items():
        np.testing.assert_allclose(losses[1][name], own, rtol=0.1)
