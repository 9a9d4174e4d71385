"""Make an Objective and parameter groups from the config and a data set.

The config is unpacked into plain arguments here; modules below do not know it.
"""

from __future__ import annotations

import torch
from torch import nn

from recdiv_core.config import Config
from recdiv_core.models.recommender import Recommender
from recdiv_core.slates.dataset import Dataset
from recdiv_core.training.objective import Objective


def build_objective(config: Config, dataset: Dataset, model: Recommender) -> Objective:
    """Return what a training step minimises."""
    loss = config.loss
    relevance = loss.relevance
    if relevance == "auto":
        small = len(dataset.catalogue) <= loss.softmax_max_items
        relevance = "softmax" if small else "sampled_softmax"
    return Objective(
        relevance=relevance,
        temperature=config.model.temperature,
        num_negatives=loss.num_negatives,
        negatives=loss.negatives,
        logq_alpha=loss.logq_alpha,
        # soft slates, moving texts and the mean id of dropped ones need the others too
        reads_all=relevance == "softmax"
        or loss.diversity_weight > 0
        or loss.conditioned
        or model.encoder is not None
        or config.model.id_dropout > 0,
        left_out_X=_no_negatives(config, dataset),
        diversity_weight=loss.diversity_weight,
        is_conditioned=loss.conditioned,
        shared_dim=config.model.dim,
        blend=model.blend,
        mix={str(name): share for name, share in loss.diversity.items()},
        slate_size=loss.slate_size,
        slate_candidates=loss.slate_candidates,
        slate_temperature=loss.slate_temperature,
        teacher=(loss.distil_method, loss.distil_diversity),
        traits=dataset.traits,
    )


def _no_negatives(config: Config, dataset: Dataset) -> torch.Tensor | None:
    """Return the item_index of items that relevance losses do not push down; None = no item.

    These are the items without train events. They are never a target, so as negatives they would
    fall below all others, whatever their texts say. Without texts nothing speaks for them, and they
    stay negatives.
    """
    cold_X = (dataset.traits.num_events_V == 0).nonzero()[:, 0]
    return cold_X if config.model.text.enabled and len(cold_X) else None


def parameter_groups(
    model: nn.Module, *, learning_rate: float, text_learning_rate: float, weight_decay: float
) -> list[dict[str, object]]:
    """Group the trained parameters by learning rate (text encoder, rest) and decay (matrices)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(("encoder." in name, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": text_learning_rate if is_text else learning_rate,
            "weight_decay": weight_decay if is_matrix else 0.0,
        }
        for (is_text, is_matrix), parameters in groups.items()
    ]
