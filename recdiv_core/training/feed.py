"""The input of a step on one rank: its users as tensors, with dials; the negatives.

Every random number for a user or a step is a function of the seed and of that user or step. So it
depends neither on the number of workers nor on the accumulation parts, and a repeated step has the
same random numbers. All tensors are on the CPU; the caller moves them to the device (parts.py).
Reading is in data/, the step itself in step.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import torch.distributed as dist

from recdiv_core.config import Config
from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import pack
from recdiv_core.data.plan import num_steps, users_a_step
from recdiv_core.data.reading import list_fragments
from recdiv_core.losses.negatives import Negatives, mixed_negatives
from recdiv_core.slates.dataset import Dataset
from recdiv_core.training.item_texts import ItemTexts
from recdiv_core.training.objective import Objective
from recdiv_core.training.parts import Part, with_dials
from recdiv_core.training.step_texts import StepTexts, share_texts

NEGATIVES_KEY: Final = 1
DIALS_KEY: Final = 2
WINDOWS_KEY: Final = 3


class Feed:
    """Make the inputs of a rank's steps.

    Args:
        config: config of the run.
        dataset: data set, on the device of the training.
        objective: what training minimises.
        texts: texts of the catalogue, when the encoder is trained.
        rank: this worker.
        world_size: number of workers.

    Attributes:
        num_users: train examples per epoch.
        batch_size: users of a step, over all ranks and parts.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        objective: Objective,
        texts: ItemTexts | None,
        *,
        rank: int,
        world_size: int,
    ) -> None:
        self.config, self.dataset, self.objective, self.texts = config, dataset, objective, texts
        self.rank, self.world_size = rank, world_size
        self.log_prior_V = dataset.log_prior_V.cpu()
        is_negative_V = torch.ones(len(dataset.catalogue), dtype=torch.bool)
        if objective.left_out_X is not None:
            is_negative_V[objective.left_out_X.cpu()] = False
        self.negative_items = is_negative_V.nonzero()[:, 0]
        fragments = list_fragments(dataset.prepared, "train")
        self.num_users = sum(fragment.num_rows for fragment in fragments)
        self.batch_size = users_a_step(config.train.batch_size, self.num_users)

    def parts(self, step_examples: Sequence[Examples], step: int) -> list[Part]:
        """Make a step's parts; the draws for a user do not depend on ranks and parts."""
        start = step % num_steps(self.num_users, self.batch_size) * self.batch_size
        size = min(self.batch_size, self.num_users - start)
        shares = self.world_size * len(step_examples)
        draws = self._draws(step, WINDOWS_KEY).random(size)
        dials = None
        if self.config.loss.conditioned:
            dials = draw_dials(self._draws(step, DIALS_KEY), size)
        parts: list[Part] = []
        for index, examples in enumerate(step_examples):
            first = size * (self.rank * len(step_examples) + index) // shares
            users = slice(first, first + len(examples.lengths))
            max_history = self.config.model.max_history
            part = Part(pack(examples, max_history=max_history, draws_B=draws[users]))
            if dials is not None:
                part = with_dials(part, dials[users])
            parts.append(part)
        return parts

    def step_texts(self, parts: Sequence[Part]) -> StepTexts | None:
        """Collect the items of all ranks and parts; return the texts that this rank encodes."""
        if self.texts is None:
            return None
        each = [part.packed.items_RW[part.packed.position_RW > 0] for part in parts]
        items_U = torch.cat(each).unique()
        if self.world_size > 1:
            items_U = _gather(items_U, self.dataset.log_prior_V.device).unique()
        return share_texts(
            self.texts,
            items_U.numpy(),
            num_chunks=len(parts),
            rank=self.rank,
            world_size=self.world_size,
        )

    def negatives(self, parts: Sequence[Part], step: int) -> Negatives | None:
        """Draw a step's negatives, and collect the targets of all ranks and parts."""
        objective = self.objective
        if objective.relevance == "softmax":
            return None
        uniform_U = torch.zeros(0, dtype=torch.int64)
        if objective.negatives != "in_batch":
            rng = self._draws(step, NEGATIVES_KEY)
            drawn = rng.integers(objective.num_negative_items, size=objective.num_negatives)
            uniform_U = self.negative_items[torch.from_numpy(drawn)]
        targets_N = uniform_U[:0]
        if objective.negatives != "uniform":
            targets_N = torch.cat([part.packed.targets_N for part in parts])
            if self.world_size > 1:
                targets_N = _gather(targets_N, self.dataset.log_prior_V.device)
        num_items = objective.num_negative_items
        return mixed_negatives(targets_N, uniform_U, self.log_prior_V, num_items=num_items)

    def _draws(self, step: int, key: int) -> np.random.Generator:
        """Return a step's generator for one purpose, the same on all ranks."""
        # a key of three numbers: dropout and the order of an epoch have keys of another length
        seeds = np.random.SeedSequence(self.config.seed, spawn_key=(step, key, 0))
        return np.random.default_rng(seeds)


def draw_dials(rng: np.random.Generator, num_users: int) -> torch.Tensor:
    """Draw the dials of a conditioned model's users: [num_users] in [0, 1].

    Half are 0, which keeps accuracy; the others are uniform.
    """
    is_on = rng.random(num_users) < 0.5
    dials = rng.random(num_users)
    return torch.from_numpy(np.where(is_on, dials, 0.0).astype(np.float32))


def _gather(values_N: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Concatenate the values of all ranks, in the order of ranks; the host waits for the others.

    How many values each rank has is known only there, so the sizes are exchanged first.
    """
    size = torch.tensor([len(values_N)], device=device)
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    lengths = torch.cat(sizes).tolist()
    padded = torch.zeros(max(lengths), dtype=values_N.dtype, device=device)
    padded[: len(values_N)] = values_N.to(device)
    gathered = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([values[:n] for values, n in zip(gathered, lengths, strict=True)]).cpu()
