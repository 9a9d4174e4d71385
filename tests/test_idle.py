"""Every setting of a training step and of slates changes the outcome, or is named in a warning."""

import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recdiv_core.config import Config, known_keys, override
from recdiv_core.data.plan import num_steps
from recdiv_core.idle import idle_in_reranking, idle_in_training
from recdiv_core.models.lifts import Lifts
from recdiv_core.schema import NO_QUERY, TRAIN_EXAMPLE
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import build_model
from recdiv_core.slates.making import make_slates
from recdiv_core.slates.policy import slate_policy
from recdiv_core.training.build import build_objective, parameter_groups
from recdiv_core.training.epoch import PRECISIONS
from recdiv_core.training.feed import Feed
from recdiv_core.training.schedules import schedule, warmup
from recdiv_core.training.step import train_step
from tests.worlds import read_train, write_dataset

NUM_ITEMS, NUM_USERS, NUM_STEPS = 30, 24, 4

SMALL = {
    "model.dim": 8,
    "model.num_layers": 1,
    "model.max_history": 6,
    "model.dropout": 0.0,
    "train.batch_size": 12,
    "train.warmup_steps": 2,
    "train.epochs": 2,
    "eval.k": 3,
    "loss.slate_size": 3,
    "loss.slate_candidates": 12,
}
DIVERSE = {"loss.diversity_weight": 0.5}
SAMPLED = {"loss.relevance": "sampled_softmax", "loss.num_negatives": 8}
RERANKED = {"rerank.method": "mmr", "rerank.diversity": 0.6}

# key -> another value, and what else must be set for it to have an effect
KEYS: dict[str, tuple[object, dict[str, object]]] = {
    "model.dim": (12, {}),
    "model.num_layers": (2, {}),
    "model.num_heads": (4, {}),
    "model.max_history": (4, {}),
    "model.dropout": (0.4, {}),
    "model.id_dropout": (0.5, {}),
    "model.temperature": (0.5, {}),
    "model.text.enabled": (False, {}),
    "loss.relevance": ("sampled_softmax", {}),
    "loss.softmax_max_items": (5, {}),
    "loss.num_negatives": (3, SAMPLED),
    "loss.logq_alpha": (0.3, SAMPLED | {"loss.negatives": "in_batch"}),
    "loss.negatives": ("mixed", SAMPLED),
    "loss.diversity_weight": (0.4, {}),
    "loss.diversity_warmup": (0.7, DIVERSE),
    "loss.conditioned": (True, DIVERSE),
    "loss.diversity": ({"dpp": 1.0}, DIVERSE),
    "loss.distil_method": ("msd", DIVERSE | {"loss.diversity": {"distil": 1.0}}),
    "loss.distil_diversity": (0.9, DIVERSE | {"loss.diversity": {"distil": 1.0}}),
    "loss.slate_size": (4, DIVERSE),
    "loss.slate_candidates": (5, DIVERSE),
    "loss.slate_temperature": (0.9, DIVERSE),
    "train.epochs": (3, {}),
    "train.batch_size": (6, {}),
    "train.learning_rate": (0.01, {}),
    "train.weight_decay": (0.5, {}),
    "train.clip_norm": (0.01, {}),
    "train.warmup_steps": (3, {}),
    "train.final_lr_share": (0.9, {}),
    "train.precision": ("bf16", {}),
    "rerank.method": ("dpp", RERANKED),
    "rerank.diversity": (1.0, RERANKED),
    "rerank.num_candidates": (4, RERANKED),
    "rerank.window": (1, RERANKED | {"rerank.method": "dpp"}),
    "rerank.alpha": (0.1, RERANKED | {"rerank.method": "xquad"}),
    "rerank.beam_width": (3, RERANKED | {"rerank.method": "beam"}),
    "rerank.attributes": ({"brand": 1.0}, RERANKED | {"rerank.method": "alpha"}),
    "rerank.rules": (["exclude i1"], {}),
    "rerank.logit_adjustment": (2.0, {}),
    "rerank.lift": (1.0, {}),
    "eligible.where": ({"category": ["A"]}, {}),
    "eval.k": (4, {}),
    "eval.filter_seen": (False, {}),
    "seed": (7, {}),
}

# keys of these sections that a single step does not show, and where each is shown instead
ELSEWHERE = {
    "model.kind": "tests/test_fit.py",
    "model.baseline.": "tests/test_baselines.py, training/kinds.py",
    "model.blend": "tests/test_blending.py: no part of a step",
    "model.diversity": "tests/test_towers.py: of a conditioned model, asked after training",
    "model.text.": "tests/test_trainable_encoder.py, tests/cluster/test_fine_tuning.py",
    "train.text_learning_rate": "tests/test_trainable_encoder.py",
    "train.text_refresh_steps": "tests/test_epoch.py",
    "train.accumulation": "tests/test_step.py: memory alone, the weights stay",
    "train.compile": "tests/test_compile.py",
    "train.select": "tests/cluster/test_train.py",
    "train.patience": "tests/cluster/test_train.py",
    "train.tie": "tests/test_selection.py",
    "train.checkpoint_every_steps": "tests/cluster/test_resume.py",
    "train.log_every_s": "tests/test_epoch.py",
    "train.keep_checkpoints": "tests/cluster/test_resume.py",
    "train.max_failures": "tests/cluster/test_resume.py",
    "train.init_from": "tests/cluster/test_train.py",
    "eligible.dates": "tests/test_eligibility.py",
    "eligible.block": "tests/test_eligibility.py",
    "eligible.only": "tests/test_eligibility.py",
    "eligible.at": "tests/test_eligibility.py: of requests after training",
    "eval.batch_size": "tests/test_evaluate.py: memory alone",
    "eval.max_users": "tests/test_evaluate.py",
    "eval.cutoffs": "tests/test_evaluate.py",
    "eval.slices": "tests/test_evaluate.py",
    "eval.dials": "tests/test_dials.py",
    "eval.objective": "tests/test_config.py",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, manifest):
    prepared = tmp_path_factory.mktemp("prepared")
    write_dataset(prepared, manifest, num_items=NUM_ITEMS, num_queries=0)
    path = prepared / "catalogue.parquet"
    brands = pa.array([f"b{item % 4}" for item in range(NUM_ITEMS)])
    pq.write_table(pq.read_table(path).append_column("brand", brands), path)
    rng = np.random.default_rng(0)
    # popular items are met more often, so that what leans on popularity shows itself
    histories = [
        (NUM_ITEMS * rng.random(rng.integers(2, 12)) ** 2).astype(int) for _ in range(NUM_USERS)
    ]
    rows = [
        {
            "user_id": f"u{user}",
            "items": items.tolist(),
            "queries": [NO_QUERY] * len(items),
            "weights": [1.0] * len(items),
        }
        for user, items in enumerate(histories)
    ]
    (prepared / "train").mkdir()
    table = pa.Table.from_pylist(rows, TRAIN_EXAMPLE)
    pq.write_table(table, prepared / "train" / "part-0.parquet", row_group_size=7)
    return load_dataset(prepared)


def outcome(dataset, config: Config) -> list[torch.Tensor]:
    """Train some steps; return the weights, the figures of the steps and slates made then."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)  # noqa: TID251
        model = build_model(config, dataset)
        objective = build_objective(config, dataset, model)
        groups = parameter_groups(
            model,
            learning_rate=config.train.learning_rate,
            text_learning_rate=config.train.text_learning_rate,
            weight_decay=config.train.weight_decay,
        )
        optimizer, feed = (
            torch.optim.AdamW(groups),
            Feed(config, dataset, objective, None, rank=0, world_size=1),
        )
        train, seed = config.train, config.seed
        steps = read_train(
            dataset.prepared, batch_size=train.batch_size, seed=seed, epochs=train.epochs
        )
        total = train.epochs * num_steps(NUM_USERS, train.batch_size)
        base_rates = [group["lr"] for group in optimizer.param_groups]
        shown_V = torch.zeros(NUM_ITEMS)
        figures = []
        for step, examples in enumerate(itertools.islice(steps, NUM_STEPS)):
            parts = feed.parts(examples, step)
            factor = schedule(
                step,
                num_steps=total,
                warmup_steps=config.train.warmup_steps,
                final_share=config.train.final_lr_share,
            )
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * factor
            w = warmup(step, num_steps=total, share=config.loss.diversity_warmup)
            sums_7 = train_step(
                model,
                parts,
                replace(objective, diversity_weight=w * objective.diversity_weight),
                optimizer,
                torch.amp.GradScaler("cpu", enabled=False),
                precision=PRECISIONS[config.train.precision],
                clip_norm=config.train.clip_norm,
                shown_V=shown_V,
                negatives=feed.negatives(parts, step),
            )
            loss, relevance, _, spread, _, _, grad_norm = sums_7
            figures += [loss, relevance, spread, grad_norm]
    return [torch.tensor(figures), *model.state_dict().values(), *slates(dataset, config)]


KNOWN: dict[str, list[torch.Tensor]] = {}


def known(dataset, config: Config) -> list[torch.Tensor]:
    """Return the outcome of a config that several tests compare with."""
    key = repr(config)
    if key not in KNOWN:
        KNOWN[key] = outcome(dataset, config)
    return KNOWN[key]


def slates(dataset, config: Config) -> list[torch.Tensor]:
    """Return slates of scores that do not depend on the model, as the config makes them."""
    rng = np.random.default_rng(3)
    scores_BV = torch.from_numpy(rng.normal(size=(16, NUM_ITEMS)).astype(np.float32))
    seen_user_S, seen_item_S = torch.arange(16), scores_BV.argmax(dim=1)
    lifts = Lifts(NUM_ITEMS)
    lifts.set(torch.linspace(0.0, 0.5, NUM_ITEMS), torch.tensor(1.0))
    policy = slate_policy(config, dataset, lifts)
    seen = (seen_user_S, seen_item_S)
    items_BK, _ = make_slates(scores_BV, *seen, dataset.traits, dataset.log_prior_V, policy)
    return [items_BK]


def differ(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    pairs = zip(one, other, strict=False)
    return len(one) != len(other) or any(not torch.equal(a, b) for a, b in pairs)


def test_every_key_of_a_step_and_of_slates_is_here():
    sections = ("model.", "loss.", "train.", "rerank.", "eval.", "eligible.", "seed")
    known = {key for key in known_keys() if key.startswith(sections)}
    assert {key for key in known if not key.startswith(tuple(ELSEWHERE))} | {
        "model.text.enabled"
    } == set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_changes_the_outcome_where_what_it_needs_is_set(dataset, key: str):
    value, needed = KEYS[key]
    config = override(Config(), SMALL, needed)
    changed = override(config, {key: value})
    if key.startswith(("rerank.", "eligible.", "eval.")):
        assert differ(slates(dataset, changed), slates(dataset, config))
    else:
        assert differ(outcome(dataset, changed), known(dataset, config))
    messages = idle_in_training(changed, NUM_ITEMS) + idle_in_reranking(changed)
    assert not [message for message in messages if key in message.partition(":")[0].split(", ")]


REFUSED = {"loss.conditioned"}  # without a weight: tests/test_config.py


@pytest.mark.parametrize(
    "key", [key for key, (_, needed) in KEYS.items() if needed and key not in REFUSED]
)
def test_a_key_without_what_it_needs_is_named_and_changes_nothing(dataset, key: str):
    config = override(Config(), SMALL)
    changed = override(config, {key: KEYS[key][0]})
    messages = idle_in_training(changed, NUM_ITEMS) + idle_in_reranking(changed)
    named = [message for message in messages if key in message.partition(":")[0].split(", ")]
    assert len(named) == 1
    assert not differ(outcome(dataset, changed), known(dataset, config))


def test_what_a_sweep_still_changes_decides_nothing():
    config = override(Config(), {"rerank.method": "msd"})
    assert idle_in_reranking(config) == ["rerank.method: no effect with rerank.diversity=0.0"]
    assert idle_in_reranking(config, swept={"rerank.diversity"}) == []


def test_where_nothing_is_trained_the_settings_of_training_are_named():
    config = override(
        Config(), {"train.epochs": 0, "train.batch_size": 8, "loss.relevance": "softmax"}
    )
    assert idle_in_training(config, 5) == [
        "loss.relevance, train.batch_size: no effect with train.epochs=0"
    ]
    assert idle_in_training(config, 5, swept={"train.epochs"}) == []
