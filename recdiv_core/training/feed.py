"""What a rank is fed in a step: its users as tensors, augmented, with dials; the negatives.

The one idea: whatever is drawn for a user, an item or a step is a function of the seed and of what
it is for, so that it depends neither on the number of workers nor on the cut into parts, and is the
same when a step is done again. Reading is plan.py's business, the step itself step.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
import torch.distributed as dist

from recdiv_core.config import Config
from recdiv_core.data.augment import augment_histories, augment_tokens, mask_and_separator
from recdiv_core.data.batches import pack
from recdiv_core.data.catalogue import Tokens
from recdiv_core.data.draws import draw_key, uniforms
from recdiv_core.data.plan import num_steps
from recdiv_core.data.reading import Examples, list_fragments
from recdiv_core.losses.negatives import Negatives, mixed_negatives
from recdiv_core.models.recommender import FreshText
from recdiv_core.models.text_encoder import load_tokenizer, pad_tokens, resolve_encoder
from recdiv_core.slates.dataset import Dataset
from recdiv_core.training.build import target_weights
from recdiv_core.training.objective import Objective, Part

NEGATIVES_KEY: Final = 1
DIALS_KEY: Final = 2
NOISE_DRAWS: Final = 16


class Feed:
    """Make the parts of a rank's steps.

    Args:
        config: of the run.
        dataset: on the device that trains.
        objective: what is minimised.
        tokens: of the catalogue, when the encoder is trained.
        rank: this worker.
        world_size: workers.

    Attributes:
        num_users: train examples an epoch.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        objective: Objective,
        tokens: Tokens | None,
        *,
        rank: int,
        world_size: int,
    ) -> None:
        self.config, self.dataset, self.objective, self.tokens = config, dataset, objective, tokens
        self.rank, self.world_size = rank, world_size
        self.device = dataset.text_VH.device
        self.target_weights_V = target_weights(config, dataset)
        fragments = list_fragments(dataset.prepared, "train")
        self.num_users = sum(fragment.num_rows for fragment in fragments)
        if config.train.token_mask or config.train.field_dropout:
            source = resolve_encoder(config.model.text.encoder)
            self.special_tokens = mask_and_separator(load_tokenizer(source))

    def parts(self, step_examples: Sequence[Examples], step: int) -> list[Part]:
        """Make a step's parts; what is drawn for a user does not depend on ranks and parts."""
        batch_size = self.config.train.batch_size
        start = step % num_steps(self.num_users, batch_size) * batch_size
        size = min(batch_size, self.num_users - start)
        shares = self.world_size * len(step_examples)
        dials = None
        if self.config.loss.conditioned:
            dials = draw_dials(self._draws(step, DIALS_KEY), size).to(self.device)
        parts: list[Part] = []
        for index, examples in enumerate(step_examples):
            first = size * (self.rank * len(step_examples) + index) // shares
            users = slice(first, first + len(examples.lengths))
            part = self._load(examples, step, first)
            if dials is not None:
                part = replace(part, dial_B=dials[users])
            if self.objective.attack.kind == "freelb":
                part = replace(part, draws=self._noise_draws(part, step, first))
            parts.append(part)
        return parts

    def _load(self, examples: Examples, step: int, first_user: int) -> Part:
        train, seed = self.config.train, self.config.seed
        shares = {str(name): share for name, share in train.augment.items()}
        examples = augment_histories(examples, shares, seed=seed, step=step, first_user=first_user)
        packed = pack(examples, max_history=self.config.model.max_history).to(self.device)
        if self.target_weights_V is not None:
            weights_N = packed.weights_N * self.target_weights_V[packed.targets_N]
            packed = replace(packed, weights_N=weights_N)
        if self.tokens is None:
            return Part(packed)
        items = np.unique(examples.items) if examples.items.size else np.zeros(1, np.int64)
        texts = [self.tokens[int(item)] for item in items]
        if train.token_mask or train.field_dropout:
            mask_id, separator_id = self.special_tokens
            texts = augment_tokens(
                texts,
                items=items,
                token_mask=train.token_mask,
                field_dropout=train.field_dropout,
                mask_id=mask_id,
                separator_id=separator_id,
                seed=seed,
                step=step,
            )
        input_ids, mask = pad_tokens(texts)
        fresh = FreshText(
            torch.from_numpy(items).to(self.device),
            input_ids.to(self.device),
            mask.to(self.device),
        )
        return Part(packed, fresh)

    def _noise_draws(self, part: Part, step: int, first_user: int) -> torch.Tensor:
        """Draw where noise starts: by the user and position, or by the item and token."""
        attack, key = self.objective.attack, draw_key(self.config.seed, step, NOISE_DRAWS)
        if attack.on == "tokens":
            assert part.fresh is not None
            rows = part.fresh.items_U.cpu().numpy()[:, None].repeat(part.fresh.mask.shape[1], 1)
            places = np.arange(part.fresh.mask.shape[1])[None, :]
        else:
            rows = first_user + part.packed.user_RW.cpu().numpy()
            places = part.packed.position_RW.cpu().numpy()
        columns = places[..., None] * attack.width + np.arange(attack.width)
        draws = uniforms(key, rows[..., None], columns)
        return torch.from_numpy(draws.astype(np.float32)).to(self.device)

    def negatives(self, parts: Sequence[Part], step: int) -> Negatives | None:
        """Draw a step's negatives, and collect the targets of all ranks and parts."""
        objective = self.objective
        if objective.relevance == "softmax":
            return None
        uniform_U = torch.zeros(0, dtype=torch.int64, device=self.device)
        if objective.negatives != "in_batch":
            rng = self._draws(step, NEGATIVES_KEY)
            drawn = rng.integers(len(self.dataset.catalogue), size=objective.num_negatives)
            uniform_U = torch.from_numpy(drawn).to(self.device)
        targets_N = uniform_U[:0]
        if objective.negatives != "uniform":
            targets_N = _gather(torch.cat([part.packed.targets_N for part in parts]))
        return mixed_negatives(targets_N, uniform_U, self.dataset.log_prior_V)

    def _draws(self, step: int, key: int) -> np.random.Generator:
        """Return a step's generator for one purpose, the same on all ranks."""
        # three numbers: no rank's dropout and no epoch's order has them
        seeds = np.random.SeedSequence(self.config.seed, spawn_key=(step, key, 0))
        return np.random.default_rng(seeds)


def draw_dials(rng: np.random.Generator, num_users: int) -> torch.Tensor:
    """Draw the dials that a conditioned model is trained at: [num_users] in [0, 1].

    Half are 0, so that accuracy stays, the others are even.
    """
    is_on = rng.random(num_users) < 0.5
    dials = rng.random(num_users)
    return torch.from_numpy(np.where(is_on, dials, 0.0).astype(np.float32))


def _gather(values_N: torch.Tensor) -> torch.Tensor:
    """Concatenate what each rank holds, in the order of ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values_N
    size = torch.tensor([len(values_N)], device=values_N.device)
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    longest = max(int(each) for each in sizes)
    padded = torch.zeros(longest, dtype=values_N.dtype, device=values_N.device)
    padded[: len(values_N)] = values_N
    gathered = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([values[: int(each)] for values, each in zip(gathered, sizes, strict=True)])
