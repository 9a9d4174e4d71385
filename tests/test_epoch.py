"""An epoch on one rank, without Ray: when sums are fetched, and what ends a diverged training."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recdiv_core.config import Config, override
from recdiv_core.errors import DivergedError
from recdiv_core.losses.diversity import REGULARISERS
from recdiv_core.schema import NO_QUERY, TRAIN_EXAMPLE
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import build_model
from recdiv_core.training.epoch import Learner
from tests.worlds import read_train, write_dataset

NUM_ITEMS, NUM_USERS = 20, 30
SMALL = {
    "model.dim": 8,
    "model.num_layers": 1,
    "model.max_history": 5,
    "model.dropout": 0.2,
    "train.batch_size": 5,
    "train.epochs": 2,
    "train.warmup_steps": 1,
    "loss.diversity_weight": 0.3,
    "loss.slate_size": 3,
    "loss.slate_candidates": 10,
}
NUM_STEPS = 6
ATTRIBUTES = ("brand", "colour", "price")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, manifest):
    prepared = tmp_path_factory.mktemp("prepared")
    write_dataset(prepared, manifest, num_items=NUM_ITEMS, num_queries=0)
    rng = np.random.default_rng(0)
    rows = [
        {
            "user_id": f"u{user}",
            "items": rng.integers(0, NUM_ITEMS, 6).tolist(),
            "queries": [NO_QUERY] * 6,
            "weights": [1.0] * 6,
        }
        for user in range(NUM_USERS)
    ]
    (prepared / "train").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, TRAIN_EXAMPLE), prepared / "train" / "part-0.parquet")
    return load_dataset(prepared)


def learner_of(dataset, saved=None, **changes):
    config = override(Config(), SMALL | changes)
    torch.manual_seed(0)  # noqa: TID251
    model = build_model(config, dataset)
    return Learner(config, dataset, model, model, rank=0, world_size=1, saved=saved or {})


def stream(learner, start_step=0):
    train = learner.config.train
    return read_train(
        learner.dataset.prepared,
        batch_size=train.batch_size,
        seed=learner.config.seed,
        start_step=start_step,
        epochs=train.epochs,
    )


def train(learner, steps=range(NUM_STEPS)):
    """Train, and return what each step yields."""
    return list(learner.train_epoch(stream(learner, steps.start), steps))


def weights_of(learner):
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def test_sums_of_all_steps_are_there_at_the_end_of_an_epoch(dataset):
    learner = learner_of(dataset)
    assert train(learner) == [(step, {}) for step in range(NUM_STEPS)]
    assert [sums.num_users for sums in learner.sums] == [5] * NUM_STEPS
    assert all(math.isfinite(sums.loss) for sums in learner.sums)


def test_metrics_come_at_steps_that_the_clock_sets(dataset):
    learner = learner_of(dataset, **{"train.log_every_s": 1e-9})
    found = train(learner)
    assert all(metrics for _, metrics in found)
    assert found[0][1]["step/learning_rate"] == learner.config.train.learning_rate
    assert set(found[0][1]) == {
        *("step/loss", "step/relevance", "step/penalty", "step/grad_norm"),
        *("step/learning_rate", "step/users_per_s"),
    }


def test_a_line_of_the_log_within_an_epoch_names_the_run(dataset, caplog):
    caplog.set_level("INFO")
    train(learner_of(dataset, **{"train.log_every_s": 1e-9, "run.name": "trial-00003"}))
    lines = [line for line in caplog.messages if "users/s" in line]
    assert len(lines) == NUM_STEPS
    assert lines[0].startswith(f"trial-00003: epoch 1: step 1 of {NUM_STEPS}: loss ")
    assert lines[-1].endswith(" users/s, 0 s of steps left")


@pytest.mark.parametrize("negatives", ["uniform", "mixed"])
def test_an_epoch_of_a_sampled_loss_needs_the_vectors_of_its_own_items_alone(dataset, negatives):
    sampled = {"loss.relevance": "sampled_softmax", "loss.negatives": negatives}
    settings = {**sampled, "loss.num_negatives": 4, "loss.diversity_weight": 0.0}
    few, every = (learner_of(dataset, **settings) for _ in range(2))
    assert not few.objective.reads_all
    every.objective = replace(every.objective, reads_all=True)
    for learner in (few, every):
        learner.model.item_tower.popularity_V1 += 1  # items of train events are not cold
    train(few)
    train(every)
    # no score depends on the bias of keys: its gradient is rounding, which AdamW scales up
    got, wanted = (
        {name: value for name, value in weights_of(each).items() if "qkv.bias" not in name}
        for each in (few, every)
    )
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss.relevance": "softmax"},
        {"loss.diversity_weight": 0.1},
        {"loss.diversity_weight": 0.1, "loss.conditioned": True},
        {"model.id_dropout": 0.1},
    ],
    ids=str,
)
def test_other_steps_need_the_vectors_of_all_items(dataset, settings):
    sampled = {"loss.relevance": "sampled_softmax", "loss.diversity_weight": 0.0}
    assert learner_of(dataset, **sampled | settings).objective.reads_all


def test_how_often_metrics_are_logged_changes_no_weight(dataset):
    often, never = (
        learner_of(dataset, **{"train.log_every_s": every_s}) for every_s in (1e-9, 1e9)
    )
    train(often)
    train(never)
    assert all(torch.equal(weights_of(often)[n], value) for n, value in weights_of(never).items())
    assert often.sums == never.sums


def test_a_training_that_is_resumed_in_an_epoch_has_the_bits_of_one_that_is_not(dataset):
    whole, first = (learner_of(dataset) for _ in range(2))
    train(whole)
    train(first, range(4))
    second = learner_of(dataset, first.state(4))
    second.model.load_state_dict(first.model.state_dict())
    train(second, range(4, NUM_STEPS))
    assert all(torch.equal(weights_of(second)[n], value) for n, value in weights_of(whole).items())
    assert second.sums == whole.sums


OF_EVERY_SHOP = [name for name in REGULARISERS if name.partition("_")[0] not in ATTRIBUTES]


def poison(learner, step):
    """Make the weights NaN from a step on."""
    take = learner._step

    def poisoned(examples, now):
        if now == step:
            with torch.no_grad():
                next(learner.model.item_tower.parameters()).fill_(math.nan)
        take(examples, now)

    learner._step = poisoned


def test_a_diverged_training_ends_with_the_step_at_which_it_diverged(dataset):
    learner = learner_of(dataset, **{"loss.diversity": dict.fromkeys(OF_EVERY_SHOP, 1.0)})
    poison(learner, 2)
    with pytest.raises(DivergedError, match="loss nan, gradient norm nan at step 2; lower"):
        train(learner)


def test_no_state_of_a_diverged_training_is_saved(dataset):
    learner = learner_of(dataset)
    poison(learner, 1)
    steps = learner.train_epoch(stream(learner), range(NUM_STEPS))
    assert [next(steps)[0] for _ in range(3)] == [0, 1, 2]  # it is not known yet
    with pytest.raises(DivergedError, match="at step 1;"):
        learner.state(3)


def test_steps_that_overflow_are_counted_when_they_are_fetched(dataset):
    learner = learner_of(dataset, **{"train.precision": "fp16"})
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = weights_of(learner)
    train(learner, range(3))
    assert learner.num_skipped == 3
    assert all(torch.equal(weights_of(learner)[n], value) for n, value in before.items())
    assert learner.shown_V.abs().sum() == 0


def test_an_epoch_reports_means_speed_and_waiting(dataset):
    learner = learner_of(dataset)
    learner.evaluate_under = lambda split, policies: [{"ndcg_at_10": 0.5}] * len(policies)
    train(learner)
    values, metrics = learner.end_epoch(is_final=False)
    assert values == {"ndcg_at_10": 0.5}
    assert metrics["train/users_per_s"] == pytest.approx(NUM_USERS / metrics["train/epoch_s"])
    assert (learner.sums, learner.under_dials) == ([], [])


def test_the_last_epoch_evaluates_the_re_ranking_settings_in_the_same_pass(dataset):
    learner, asked = learner_of(dataset, **{"eval.dials": ["msd 0.2", "logit 0.5"]}), []

    def evaluate(split, policies):
        asked.append((split, [(each.method, each.diversity) for each in policies]))
        return [{"ndcg_at_10": float(place)} for place in range(len(policies))]

    learner.evaluate_under = evaluate
    assert learner.validate(is_final=True) == {"ndcg_at_10": 0.0}
    assert learner.under_dials == [{"ndcg_at_10": 1.0}, {"ndcg_at_10": 2.0}]
    assert asked == [("val", [("none", 0.0), ("msd", 0.2), ("none", 0.0)])]


@pytest.fixture
def trained_text(dataset, tmp_path):
    """Return settings that train the top layer of an encoder as wide as the data's vectors."""
    from transformers import BertConfig, BertModel

    shape = {"hidden_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        BertModel(BertConfig(vocab_size=50, intermediate_size=8, **shape)).save_pretrained(tmp_path)
    lists = [[1, 2 + item, 40] for item in range(NUM_ITEMS)]
    table = pa.table({"input_ids": pa.array(lists, pa.list_(pa.int32()))})
    place = str(dataset.prepared / "tokens.arrow")
    with pa.OSFile(place, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return {
        "model.text.encoder": str(tmp_path),
        "model.text.trainable_layers": 1,
        "train.text_learning_rate": 0.01,
    }


@pytest.mark.parametrize(("every", "refreshed"), [(0, []), (2, [2, 4]), (5, [5])])
def test_all_items_are_encoded_again_on_schedule(dataset, trained_text, every, refreshed):
    learner = learner_of(dataset, **trained_text, **{"train.text_refresh_steps": every})
    text_VH, found = learner.model.text_VH.clone(), []
    for step, _ in learner.train_epoch(stream(learner), range(NUM_STEPS)):
        if not torch.equal(learner.model.text_VH, text_VH):
            found.append(step)
        text_VH = learner.model.text_VH.clone()
    assert found == refreshed
