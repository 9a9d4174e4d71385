"""Time fine-tuning and encoding of texts against sentence-transformers.

    python -m benchmarks.text_tower --quick
    python -m benchmarks.text_tower --pairs 128 --steps 20 --threads 2

Needs the extras `bench` and `offline`. Both sides have the same encoder (all-MiniLM-L6-v2), the
same pairs of the built-in shop (query or previous item, clicked item), batch, trained layers, loss
(in-batch softmax of cosines over 0.05), optimiser and threads, in one process. The other side
tokenises and pads each column of a batch and computes all layers, as its own loop `old_fit` does.
recdiv encodes each distinct text of a batch once, in groups of similar length, and starts from the
stored output of the frozen layers where there are any. Steps of both sides alternate, so that a
busy machine slows both; a ratio is the median of the ratios of neighbouring steps.

Prints one JSON line, ratios of recdiv's speed to that of sentence-transformers:
`finetune_vs_st_cached` with one trained layer, `finetune_vs_st_full` with all six, `encode_vs_st`
for its `encode`. `padding_share` is the share of padding in recdiv's batches, `distinct_share` the
distinct texts of a batch among all. Without --quick also `finetune_vs_st_cached_2` with two trained
layers, and `finetune_vs_st_cached_distinct`, with one, where no text of a batch repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn
from torch.nn import functional as F

from recdiv_core.config import Config
from recdiv_core.data.catalogue import Tokens, make_texts
from recdiv_core.data.layer_states import LayerStates, WriteStates, state_blocks
from recdiv_core.data.text_vectors import WriteVectors
from recdiv_core.data.vector_files import text_blocks
from recdiv_core.models.encoder_description import token_ids
from recdiv_core.models.frozen_layers import FrozenLayers
from recdiv_core.models.item_tower import ItemTower
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.session_tower import SessionTower
from recdiv_core.models.text_encoder import (
    OFFLINE_ENCODER,
    load_tokenizer,
    resolve_encoder,
)
from recdiv_core.models.text_groups import CALL_TOKENS
from recdiv_core.models.trainable_encoder import encoder_layers, trainable_encoder
from recdiv_core.shop.generate import click_log, size
from recdiv_core.shop.goods import catalogue_table, stock
from recdiv_core.shop.shoppers import draw_shoppers
from recdiv_core.training.item_texts import ItemTexts

TEMPERATURE: Final = 0.05
MAX_TOKENS: Final = 64
RATE: Final = 2e-5
CLIP_NORM: Final = 1.0

Step = Callable[[np.ndarray], float]


class Pairs(NamedTuple):
    """Pairs of texts: `left` and `right` number the rows of `texts`, which are distinct."""

    texts: list[str]
    left: np.ndarray
    right: np.ndarray


def made_pairs(num_events: int) -> Pairs:
    """Return pairs of the built-in shop: its query, or else the previous item, and the item."""
    num_users, num_items = size(num_events, seed=0)
    goods = stock(num_items, seed=0)
    catalogue = catalogue_table(goods, seed=0)
    log = click_log(draw_shoppers(np.arange(num_users), seed=0), goods)
    titles = make_texts(catalogue, Config().model.text.fields).to_pylist()
    of_item = dict(zip(catalogue["item_id"].to_pylist(), titles, strict=True))
    log = log.filter(pc.not_equal(log["event"], "impression"))
    log = log.sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
    rows: dict[str, int] = {}
    pairs: list[tuple[int, int]] = []
    before: tuple[str, str] = ("", "")
    columns = (log[name].to_pylist() for name in ("user_id", "item_id", "query"))
    for user, item, query in zip(*columns, strict=True):
        left = query or (before[1] if before[0] == user else "")
        right = of_item[item]
        if left and left != right:
            pairs.append(tuple(rows.setdefault(text, len(rows)) for text in (left, right)))
        before = (user, right)
    left, right = np.array(pairs).T
    return Pairs(list(rows), left, right)


def in_batch_loss(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the loss of pairs of unit vectors: each left text predicts its right one."""
    return F.cross_entropy(left @ right.T / TEMPERATURE, torch.arange(len(left)))


def optimised(model: nn.Module) -> Callable[[torch.Tensor], float]:
    """Return a function that takes a step down a loss, and returns the loss."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)

    def descend(loss: torch.Tensor) -> float:
        loss.backward()
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return descend


def peer_step(source: str, pairs: Pairs, num_layers: int) -> Step:
    """Return a training step of sentence-transformers, as its `old_fit` takes it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    model: Any = SentenceTransformer(source, device="cpu")
    model.max_seq_length = MAX_TOKENS
    layers = encoder_layers(model[0].auto_model)
    if num_layers < len(layers):
        model.requires_grad_(False)
        for layer in layers[-num_layers:]:
            layer.requires_grad_(True)
    loss: Any = losses.MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    descend = optimised(model)
    model.train()

    def step(rows: np.ndarray) -> float:
        columns = [[pairs.texts[at] for at in side[rows]] for side in (pairs.left, pairs.right)]
        features = [model.preprocess(texts) for texts in columns]
        return descend(loss(features, torch.zeros(0)))

    return step


def own_step(source: str, pairs: Pairs, num_layers: int, place: Path) -> tuple[Step, ItemTexts]:
    """Return a training step of recdiv's encoder, and its texts."""
    ids = token_ids(load_tokenizer(source), pairs.texts, MAX_TOKENS, "mean")
    tokens = Tokens(pa.chunked_array([ids], pa.list_(pa.int32())))
    encoder = trainable_encoder(source, num_layers, 0, recomputes=False)
    num_frozen = len(encoder_layers(encoder)) - num_layers
    model = Recommender(
        ItemTower(torch.ones(len(ids)), text_dim=384, dim=8, id_dropout=0.0),
        SessionTower(dim=8, num_layers=1, num_heads=2, max_history=2, dropout=0.0),
        text_VH=torch.zeros(len(ids), 384),
        queries_QH=None,
        dim=8,
        encoder=encoder,
    ).train()
    states = None
    if num_frozen:
        model.frozen = FrozenLayers(encoder, num_frozen)
        write = WriteStates(source, num_frozen, False)
        for block in state_blocks(place, tokens, 384):
            write(block)
        states = LayerStates(place, tokens)
    texts = ItemTexts(tokens, states, call=CALL_TOKENS["cpu"])
    descend = optimised(encoder)

    def step(rows: np.ndarray) -> float:
        distinct, where = np.unique((pairs.left[rows], pairs.right[rows]), return_inverse=True)
        groups = texts.groups(distinct)
        encoded = torch.cat([model.encode(g.input_ids, g.mask, g.states) for g in groups])
        order = torch.cat([group.items_U for group in groups]).argsort()
        left, right = encoded[order][torch.from_numpy(where.reshape(2, -1))]
        return descend(in_batch_loss(left, right))

    return step, texts


def ratio(peer: Step, own: Step, batches: Sequence[np.ndarray]) -> float:
    """Return how many times faster `own` is: the median over the batches after the first."""
    found: list[float] = []
    for batch in batches:
        times = []
        for step in (peer, own):
            started = time.perf_counter()
            step(batch)
            times.append(time.perf_counter() - started)
        found.append(times[0] / times[1])
    return round(statistics.median(found[1:]), 2)


def padding(texts: ItemTexts, pairs: Pairs, batches: Sequence[np.ndarray]) -> float:
    """Return the share of padding in the batches."""
    masks = [
        group.mask
        for rows in batches
        for group in texts.groups(np.unique((pairs.left[rows], pairs.right[rows])))
    ]
    return round(1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks), 4)


def encode_ratio(source: str, texts: list[str], rounds: int, home: Path) -> float:
    """Return how many times faster texts are encoded, tokenising included."""
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(source, device="cpu")
    model.max_seq_length = MAX_TOKENS
    writer, tokenizer = WriteVectors(source, "mean", False), load_tokenizer(source)
    place = home / "vectors.npy"
    np.lib.format.open_memmap(place, mode="w+", dtype=np.float32, shape=(len(texts), 384)).flush()
    wanted = np.zeros(0)

    def peer(_: np.ndarray) -> float:
        nonlocal wanted
        wanted = model.encode(texts, batch_size=32, normalize_embeddings=True)
        return 0.0

    def own(_: np.ndarray) -> float:
        ids = token_ids(tokenizer, texts, MAX_TOKENS, "mean")
        for block in text_blocks(place, ids, np.arange(len(ids))):
            writer(block)
        return 0.0

    found = ratio(peer, own, [np.zeros(0)] * (rounds + 1))
    np.testing.assert_allclose(np.load(place), wanted, atol=1e-4)
    return found


def drawn(pairs: Pairs, size: int, num_batches: int, *, is_distinct: bool) -> list[np.ndarray]:
    """Draw batches of pairs; the first pair of each text only, if texts may not repeat."""
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(num_batches):
        rows = rng.permutation(len(pairs.left))
        if is_distinct:
            taken: set[int] = set()
            rows = np.array([r for r in rows if _takes(taken, pairs.left[r], pairs.right[r])])
        batches.append(rows[:size])
    return batches


def _takes(taken: set[int], *rows: int) -> bool:
    is_new = taken.isdisjoint(rows)
    if is_new:
        taken.update(rows)
    return is_new


def measure(options: argparse.Namespace, home: Path) -> dict[str, object]:
    """Return all ratios."""
    source = resolve_encoder(OFFLINE_ENCODER)
    pairs = made_pairs(options.events)
    num_batches = options.steps + 1
    batches = drawn(pairs, options.pairs, num_batches, is_distinct=False)
    report: dict[str, object] = {}
    names = {1: "finetune_vs_st_cached", 6: "finetune_vs_st_full"}
    if not options.quick:
        names[2] = "finetune_vs_st_cached_2"
    for num_layers, name in names.items():
        peer = peer_step(source, pairs, num_layers)
        own, texts = own_step(source, pairs, num_layers, home / f"layer{num_layers}.npy")
        torch.set_num_threads(options.threads)  # an actor takes one
        report[name] = ratio(peer, own, batches)
        if num_layers == 1:
            report["padding_share"] = padding(texts, pairs, batches)
            if not options.quick:
                distinct = drawn(pairs, options.pairs, num_batches, is_distinct=True)
                report[f"{name}_distinct"] = ratio(peer, own, distinct)
    encoded = pairs.texts[: options.texts]
    report["encode_vs_st"] = encode_ratio(source, encoded, options.rounds, home)
    sizes = [len(np.unique((pairs.left[r], pairs.right[r]))) / (2 * len(r)) for r in batches]
    report["distinct_share"] = round(float(np.mean(sizes)), 3)
    return report | {"pairs": options.pairs, "threads": options.threads}


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three steps of 48 pairs")
    parser.add_argument("--pairs", type=int, default=128, help="pairs of a batch")
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each way")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of encoding")
    parser.add_argument("--texts", type=int, default=2000, help="texts to encode, at most")
    parser.add_argument("--events", type=int, default=20_000, help="events of the built-in shop")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.steps, options.rounds, options.texts = 48, 3, 2, 150
        options.events = 4000
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)  # noqa: TID251
    with tempfile.TemporaryDirectory() as home:
        print(json.dumps(measure(options, Path(home))))


if __name__ == "__main__":
    main()
