"""Compare the default model with the sequence models of WarpRec, at equal training time.

    pip install --no-deps --ignore-requires-python --target DIR warprec==2.2.8 loguru coolname
    pip install --no-deps --target DIR lightning pytorch-lightning lightning-utilities torchmetrics
    python -m benchmarks.sequence_models --warprec DIR --prepared runs/prepared/beauty
    python -m benchmarks.sequence_models --warprec DIR --prepared runs/prepared/beauty --quick

The defaults of recdiv are trained on a prepared data set in this process, on one thread. SASRec and
BSARec of WarpRec, released classes with their own losses, then learn from the same users for as
many CPU seconds: each prefix of a history is a sample, as in WarpRec's loader. Ours counts all that
`recdiv train` does, such as evaluating each epoch; theirs counts training steps alone. Their
settings are common ones for Amazon Beauty, and are not tuned. All models are evaluated by the same
functions: after each epoch on validation, and on test with the epoch of the highest NDCG@10 there.
With --quick each model has one epoch, which checks that the script runs. Prints one JSON line, by
model: `ndcg`, `hit` and `coverage` at 10 on test, `cpu_s`, and for WarpRec the `epochs` begun.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch

from benchmarks import nightly
from recdiv_core.config import Config, override
from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import Packed
from recdiv_core.data.reading import SplitRows, read_eval, train_examples
from recdiv_core.evaluation.evaluate import tally_split
from recdiv_core.metrics.tally import finish
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import score_users

PEERS: Final = {"SASRec": "sasrec", "BSARec": "bsarec"}
BATCH, WIDTH, LEARNING_RATE = 256, 50, 1e-3
SETTINGS: Final[dict[str, object]] = {
    "embedding_size": 64,
    "n_layers": 2,
    "n_heads": 2,
    "inner_size": 256,
    "dropout_prob": 0.5,
    "attn_dropout_prob": 0.5,
    "alpha": 0.7,
    "c": 5,
    "reg_weight": 0.0,
    "weight_decay": 0.0,
    "batch_size": BATCH,
    "epochs": 1,
    "learning_rate": LEARNING_RATE,
    "neg_samples": 0,
    "max_seq_len": WIDTH,
}
"""Of both models; `alpha` and `c` are of BSARec alone. Without negatives the loss is cross-entropy
over all items."""

STUBS: Final = {
    "warprec": (),
    "warprec.data": (),
    "warprec.data.entities": ("Interactions", "Sessions"),
    "warprec.recommenders": (),
    "warprec.recommenders.sequential_recommender": (),
    "warprec.utils": (),
    "warprec.utils.config": (),
    "warprec.utils.config.model_configuration": ("LRSchedulerConfig", "OptimizerConfig"),
}
"""Packages that are not run, because they need Python 3.12, and names that others import."""


def main() -> None:
    """Train, evaluate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--warprec", type=Path, required=True, metavar="DIR", help="see above")
    parser.add_argument("--prepared", required=True, metavar="DIR", help="of `recdiv prepare`")
    parser.add_argument("--quick", action="store_true", help="one epoch of each model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = override(Config(), {"data.prepared": args.prepared, "scaling.num_workers": 1})
    if args.quick:
        config = override(config, {"train.epochs": 1})
    nightly.encode_texts(Path(args.prepared))
    dataset = load_dataset(Path(args.prepared))
    started = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        own = nightly.train(override(config, {"eval.dials": []}), Path(place) / "model")
        taken_s = time.process_time() - started
        print(f"recdiv: {taken_s:.0f} s", file=sys.stderr)
    found = {"recdiv": {**figures(own.test), "cpu_s": round(taken_s)}}
    for name, module in PEERS.items():
        torch.manual_seed(0)  # noqa: TID251
        peer = load_peer(args.warprec, module, name, len(dataset.catalogue))
        budget_s = 0.0 if args.quick else taken_s
        found[name] = learn(name, peer, dataset, config, budget_s)
    print(json.dumps(found))


def load_peer(directory: Path, module: str, name: str, num_items: int) -> Any:
    """Make a released model of WarpRec without the imports that need Python 3.12."""
    if str(directory) not in sys.path:
        sys.path.append(str(directory))
    for package, names in STUBS.items():
        stub = sys.modules.setdefault(package, ModuleType(package))
        stub.__path__ = [str(directory.joinpath(*package.split(".")))]
        for each in names:
            setattr(stub, each, object)
    released = importlib.import_module(f"warprec.recommenders.sequential_recommender.{module}")
    peer = getattr(released, name)(dict(SETTINGS), {"n_items": num_items, "n_users": 1})
    peer.log = lambda *_, **__: None  # there is no trainer to log to
    return peer


def learn(
    name: str, peer: Any, dataset: Dataset, config: Config, budget_s: float
) -> dict[str, float]:
    """Train a peer for a budget of CPU seconds, at least one epoch; return its test figures."""
    rows = SplitRows(dataset.prepared, "train")
    samples = prefixes(histories_of(train_examples(rows.read(0, rows.num_rows))))
    optimizer = torch.optim.Adam(peer.parameters(), lr=LEARNING_RATE)
    rng = np.random.default_rng(0)
    spent_s, epochs, best, kept = 0.0, 0, -1.0, {}
    while not epochs or spent_s < budget_s:
        started = time.process_time()
        peer.train()
        for batch in batches(samples, rng, num_items=len(dataset.catalogue)):
            optimizer.zero_grad()
            peer.training_step(batch, 0).backward()
            optimizer.step()
            if epochs and spent_s + time.process_time() - started >= budget_s:
                break
        spent_s += time.process_time() - started
        epochs += 1
        ndcg = judge(peer, dataset, config, "val")["ndcg_at_10"]
        print(f"{name}: epoch {epochs}, {spent_s:.0f} s, val {ndcg:.4f}", file=sys.stderr)
        if ndcg > best:
            best, kept = ndcg, copy.deepcopy(peer.state_dict())
    peer.load_state_dict(kept)
    test = judge(peer, dataset, config, "test")
    return {**figures(test), "epochs": epochs, "cpu_s": round(spent_s)}


def prefixes(histories: Iterable[np.ndarray]) -> list[tuple[np.ndarray, int]]:
    """Return each prefix of each history, its latest WIDTH items, with the item after it."""
    return [
        (items[max(0, place - WIDTH) : place], int(items[place]))
        for items in histories
        for place in range(1, len(items))
    ]


def histories_of(examples: Examples) -> list[np.ndarray]:
    """Return the items of each user."""
    return np.split(examples.items, np.cumsum(examples.lengths)[:-1])


def batches(
    samples: list[tuple[np.ndarray, int]], rng: np.random.Generator, *, num_items: int
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield an epoch of padded sequences, their lengths and the items after them."""
    order = rng.permutation(len(samples))
    for start in range(0, len(order), BATCH):
        chosen = [samples[place] for place in order[start : start + BATCH]]
        sequences, lengths = padded([items for items, _ in chosen], num_items)
        yield sequences, lengths, torch.tensor([target for _, target in chosen])


def padded(histories: list[np.ndarray], num_items: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the latest WIDTH items of each history, padded on the right, and their number."""
    sequences = np.full((len(histories), WIDTH), num_items)
    for row, items in enumerate(histories):
        latest = items[-WIDTH:]
        sequences[row, : len(latest)] = latest
    lengths = torch.tensor([min(len(items), WIDTH) for items in histories])
    return torch.from_numpy(sequences), lengths


def judge(peer: Any, dataset: Dataset, config: Config, split: str) -> dict[str, float]:
    """Evaluate a peer as `recdiv evaluate` evaluates a checkpoint."""
    peer.eval()
    num_items = len(dataset.catalogue)

    def score(examples: Examples, _: Packed) -> torch.Tensor:
        states_BD = peer(*padded(histories_of(examples), num_items))
        return states_BD @ peer.item_embedding.weight[:-1].T

    share = read_eval(
        dataset.prepared, split, batch_size=config.eval.batch_size, rank=0, world_size=1
    )
    users = score_users(share, dataset, score, max_history=config.model.max_history)
    return finish(tally_split(users, dataset, slate_policy(config, dataset)))


def figures(test: Mapping[str, float]) -> dict[str, float]:
    """Return what is printed of a model."""
    return {name: round(test[f"{name}_at_10"], 5) for name in ("ndcg", "hit", "coverage")}


if __name__ == "__main__":
    main()
