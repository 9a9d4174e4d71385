"""The text encoder trained along: what moves, what stays, the same on any workers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recdiv_core.config import Config
from recdiv_core.data.catalogue import load_tokens
from recdiv_core.data.text_vectors import load_vectors
from recdiv_core.schema import read_manifest
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import build_model
from recdiv_core.training.item_texts import open_texts
from tests.cluster.conftest import Shop, run, train_steps

pytestmark = pytest.mark.ray

TUNED = (
    "model.dropout=0",
    "model.max_history=8",
    "train.epochs=2",
    "train.warmup_steps=0",
    "train.text_learning_rate=1e-4",
)
TOLERANCE = 1e-4
"""Sums of float32 taken in another order, through six layers and four steps of AdamW."""


def weights(result):
    return torch.load(Path(result["checkpoint"]) / "model.pt", weights_only=True)


def train(shop: Shop, name: str, *more: str):
    layers = "model.text.trainable_layers=1"
    return run("train", *shop.arguments(f"run.name={name}", layers, *TUNED, *more))


def moved_by(shop: Shop, result, **text: int) -> dict[str, float]:
    """Return how far each tensor of the encoder is from the pretrained one."""
    config = Config.model_validate({"model": {"dim": 16, "text": text}})
    pretrained = build_model(config, load_dataset(shop.prepared)).state_dict()
    return {
        name: float((tensor - pretrained[name]).abs().max())
        for name, tensor in weights(result).items()
        if name.startswith("encoder.")
    }


@pytest.mark.slow
def test_two_workers_in_shards_with_stored_states_train_the_top_layer_as_one_without_does(shop):
    two = train(shop, "text-two", "scaling.num_workers=2", "scaling.shard_encoder=true")
    one = train(shop, "text-one", "scaling.layer_cache_gib=0")
    (stored,) = (shop.prepared / "vectors").glob("layer5-*.npy")
    assert np.load(stored, mmap_mode="r").shape == (load_tokens(shop.prepared).lengths.sum(), 384)

    losses = [value for _, value in shop.curve(two["mlflow_run_id"], "train/loss")]
    assert losses[-1] < losses[0]
    moved = moved_by(shop, two, trainable_layers=1)
    top = {name for name in moved if ".layer.5." in name}
    assert top
    assert all(moved[name] > 0 for name in top)
    assert not any(moved[name] for name in moved.keys() - top)
    cached = load_vectors(shop.prepared, read_manifest(shop.prepared))
    assert np.abs(weights(two)["text_VH"].numpy() - cached).max() > 1e-3

    others = weights(one)
    for name, tensor in weights(two).items():
        if "key.bias" in name:
            continue  # softmax ignores it: its gradient is rounding noise, which AdamW scales up
        if name.startswith("blend.") and name.endswith("_U2"):
            continue  # a handful of requests with a query fits them, and NDCG has steps
        torch.testing.assert_close(others[name], tensor, atol=TOLERANCE, rtol=0, msg=name)


@pytest.mark.slow  # test_trainable_encoder.py has the same of small encoders
# peft asks transformers by a name that is on its way out
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_alone_are_trained(shop):
    text = {"trainable_layers": 1, "lora_rank": 4}
    config = Config.model_validate({"model": {"dim": 16, "text": text, "dropout": 0.0}})
    dataset = load_dataset(shop.prepared)
    model = build_model(config, dataset)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    train_steps(model, dataset, config, num_steps=2, texts=open_texts(model, dataset, config))

    moved = {
        name: float((tensor - before[name]).abs().max())
        for name, tensor in model.state_dict().items()
        if name.startswith("encoder.")
    }
    adapters = {name for name in moved if "lora_" in name}
    assert len(adapters) == 4
    # B starts at nought, so that it alone says that something was learnt
    assert all(moved[name] > 0 for name in adapters if "lora_B" in name)
    assert not any(moved[name] for name in moved.keys() - adapters)
