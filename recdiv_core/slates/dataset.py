"""From Config and a prepared data set to the objects that training and evaluation work with.

The doorway: here the Config is unpacked into plain arguments, and nowhere below. Everything a
worker needs of the data set besides the examples is in a Dataset, loaded once a process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from recdiv_core.config import Config, rerank_candidates
from recdiv_core.data.catalogue import (
    Catalogue,
    Tokens,
    item_attributes,
    load_catalogue,
    load_tokens,
)
from recdiv_core.data.rule_labels import labels_of_items, labels_of_rule
from recdiv_core.data.text_vectors import load_vectors
from recdiv_core.items.labels import Labels, labels_of_lists
from recdiv_core.losses.class_balance import effective_number_weights, item_weights, log_prior
from recdiv_core.losses.soft_slates import ItemTraits
from recdiv_core.metrics.facts import CatalogueFacts, catalogue_facts
from recdiv_core.models.baselines import Baseline
from recdiv_core.models.dial import dial_dim
from recdiv_core.models.item_tower import ItemTower
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.session_tower import SessionTower
from recdiv_core.models.text_encoder import resolve_encoder
from recdiv_core.models.trainable_encoder import trainable_encoder
from recdiv_core.rerank import Options
from recdiv_core.rerank.candidates import Rule
from recdiv_core.schema import Manifest, read_manifest
from recdiv_core.slate_rules import SlateRule, group_rules
from recdiv_core.slates.checkpoint import load_weights, read_weights
from recdiv_core.slates.making import SlatePolicy
from recdiv_core.training.objective import Attack, Objective


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared data set as a worker holds it.

    Attributes:
        prepared: its directory, absolute.
        manifest: its manifest.
        catalogue: its items.
        text_VH: unit text vectors, [V, H] float32.
        queries_QH: unit text vectors of the queries, [Q, H]; None without queries.
        categories: category indices of every item.
        log_prior_V: log of each item's share of train events, smoothed.
        facts: what metrics must know of the catalogue.
    """

    prepared: Path
    manifest: Manifest
    catalogue: Catalogue
    text_VH: torch.Tensor
    queries_QH: torch.Tensor | None
    categories: Labels
    log_prior_V: torch.Tensor
    facts: CatalogueFacts

    def to(self, device: torch.device) -> Dataset:
        """Return the data set with its tensors on a device."""
        return replace(
            self,
            text_VH=self.text_VH.to(device),
            queries_QH=None if self.queries_QH is None else self.queries_QH.to(device),
            categories=self.categories.to(device),
            log_prior_V=self.log_prior_V.to(device),
            facts=self.facts.to(device),
        )

    @cached_property
    def traits(self) -> ItemTraits:
        """What regularisers and re-rankers may know of the items; one place a train user."""
        device = self.text_VH.device
        return ItemTraits(
            embeddings_VD=self.text_VH,
            categories=self.categories,
            num_categories=self.catalogue.num_categories,
            popularity_V=self.log_prior_V.exp(),
            num_places=float(self.manifest.num_train_users),
            attributes={
                name: torch.from_numpy(values).to(device)
                for name, values in item_attributes(self.catalogue).items()
            },
        )


def load_dataset(prepared: Path) -> Dataset:
    """Load a prepared data set whose text vectors are cached.

    Raises:
        UserError: not a prepared data set, another schema version, or no cached vectors.
    """
    manifest = read_manifest(prepared)
    catalogue = load_catalogue(prepared)
    categories = as_labels(catalogue.category_lists)
    text = torch.from_numpy(np.array(load_vectors(prepared, manifest)))
    queries = torch.from_numpy(np.array(load_vectors(prepared, manifest, "queries")))
    return Dataset(
        prepared=prepared,
        manifest=manifest,
        catalogue=catalogue,
        text_VH=text,
        queries_QH=queries if len(queries) else None,
        categories=categories,
        log_prior_V=log_prior(torch.tensor(catalogue.popularity_V)),
        facts=catalogue_facts(
            text,
            categories,
            torch.tensor(catalogue.popularity_V),
            num_train_users=max(1, manifest.num_train_users),
            num_categories=catalogue.num_categories,
            attributes={
                name: torch.from_numpy(values)
                for name, values in item_attributes(catalogue).items()
            },
        ),
    )


def as_labels(lists: pa.ListArray) -> Labels:
    """Return lists of labels as tensors."""
    lengths = np.diff(lists.offsets.to_numpy())
    return labels_of_lists(torch.tensor(lists.flatten().to_numpy()), torch.tensor(lengths))


def build_model(config: Config, dataset: Dataset) -> Recommender:
    """Build the model that the config describes, freshly initialised from the global generator."""
    text = config.model.text
    text_vectors = dataset.text_VH if text.enabled else None
    encoder = None
    if text.enabled and text.trainable_layers:
        encoder = trainable_encoder(
            resolve_encoder(text.encoder),
            text.trainable_layers,
            text.lora_rank,
            recomputes=text.gradient_checkpointing,
        )
        text_vectors = dataset.text_VH.clone()
    make_item_tower = partial(
        ItemTower,
        torch.tensor(dataset.catalogue.popularity_V),
        text_dim=dataset.text_VH.shape[1] if text.enabled else 0,
        id_dropout=config.model.id_dropout,
    )
    dim = config.model.dim
    return Recommender(
        make_item_tower(dim=dim),
        SessionTower(
            dim=config.model.dim,
            num_layers=config.model.num_layers,
            num_heads=config.model.num_heads,
            max_history=config.model.max_history,
            dropout=config.model.dropout,
        ),
        text_VH=text_vectors,
        queries_QH=dataset.queries_QH,
        dim=config.model.dim,
        encoder=encoder,
        dial_items=make_item_tower(dim=dial_dim(dim)) if config.loss.conditioned else None,
    )


def load_model(config: Config, dataset: Dataset, checkpoint: Path) -> Recommender | Baseline:
    """Return the model that a checkpoint of this config holds.

    Raises:
        UserError: missing or damaged file, or weights of another shape.
    """
    if config.model.kind != "neural":
        return Baseline(config.model.kind, read_weights(checkpoint))
    model = build_model(config, dataset)
    load_weights(checkpoint, model)
    return model


def build_objective(config: Config, dataset: Dataset, model: Recommender) -> Objective:
    """Build what a training step minimises."""
    loss = config.loss
    relevance = loss.relevance
    if relevance == "auto":
        small = len(dataset.catalogue) <= loss.softmax_max_items
        relevance = "softmax" if small else "sampled_softmax"
    on_tokens = loss.adversarial_on == "tokens"
    return Objective(
        relevance=relevance,
        temperature=config.model.temperature,
        num_negatives=loss.num_negatives,
        negatives=loss.negatives,
        mask_history=loss.mask_history,
        logq_alpha=loss.logq_alpha,
        gbce_calibration=loss.gbce_calibration,
        focal_gamma=loss.focal_gamma,
        logit_bias_V=loss.logit_adjustment * dataset.log_prior_V if loss.logit_adjustment else None,
        balance=loss.balance,
        diversity_weight=loss.diversity_weight,
        is_conditioned=loss.conditioned,
        shared_dim=config.model.dim,
        mix={str(name): share for name, share in loss.diversity.items()},
        slate_form=loss.slate_form,
        slate_size=loss.slate_size,
        slate_candidates=loss.slate_candidates,
        slate_temperature=loss.slate_temperature,
        teacher=(loss.distil_method, loss.distil_diversity),
        attack=Attack(
            kind=loss.adversarial,
            on=loss.adversarial_on,
            ascends=loss.adversarial_ascends,
            epsilon=loss.adversarial_epsilon,
            num_steps=loss.adversarial_steps,
            step_size=loss.adversarial_step_size,
            width=model.token_embeddings().embedding_dim if on_tokens else config.model.dim,
        ),
        traits=replace(
            dataset.traits, num_places=float(dataset.manifest.num_train_users * loss.slate_size)
        ),
    )


def target_weights(config: Config, dataset: Dataset) -> torch.Tensor | None:
    """Return the weight of each item as a target, [V], by the sizes of its categories; or None."""
    beta = config.loss.class_balance_beta
    if not beta:
        return None
    events_V = torch.tensor(dataset.catalogue.popularity_V).to(dataset.text_VH.device)
    row_N, label_N, part_N = dataset.categories.spread(torch.arange(len(events_V)).to(events_V))
    counts = part_N.new_zeros(dataset.catalogue.num_categories)
    counts.index_add_(0, label_N, events_V[row_N] * (part_N > 0).to(counts.dtype))
    return item_weights(effective_number_weights(counts, beta), dataset.categories)


def parameter_groups(
    model: nn.Module, *, learning_rate: float, text_learning_rate: float, weight_decay: float
) -> list[dict[str, object]]:
    """Split the trained parameters: text encoder or not, decayed (matrices) or not."""
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


def _labels_of(rules: Sequence[SlateRule], catalogue: Catalogue) -> pa.ListArray:
    first = rules[0]
    return labels_of_items(rules, catalogue) if first.item_id else labels_of_rule(first, catalogue)


def slate_policy(config: Config, dataset: Dataset) -> SlatePolicy:
    """Return how the config makes slates of scores, with its rules in terms of the data set."""
    rules = [
        Rule(
            rules[0].kind,
            as_labels(_labels_of(rules, dataset.catalogue)).to(dataset.text_VH.device),
            len({rule.item_id for rule in rules}) if rules[0].item_id else rules[0].count,
            rules[0].window,
        )
        for rules in group_rules(config.rerank.rules)
    ]
    return SlatePolicy(
        k=config.eval.k,
        filter_seen=config.eval.filter_seen,
        method=config.rerank.method,
        diversity=config.rerank.diversity,
        num_candidates=rerank_candidates(config),
        logit_adjustment=config.rerank.logit_adjustment * config.model.temperature,
        options=Options(
            window=config.rerank.window,
            alpha=config.rerank.alpha,
            beam_width=config.rerank.beam_width,
            attributes={str(name): share for name, share in config.rerank.attributes.items()},
            rules=tuple(rules),
        ),
    )


def tokens_of(dataset: Dataset) -> Tokens:
    """Open the token ids of the catalogue, for an encoder that is fine-tuned."""
    return load_tokens(dataset.prepared)
