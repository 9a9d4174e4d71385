"""Adapt a text encoder to a shop, or distil it into a smaller one: `recdiv adapt`.

    prepared data set -> texts, pairs of train events -> steps -> a directory with an encoder

`model.text.encoder` takes the directory like any other encoder. It appears in one step, after a
check that the written encoder gives the vectors of the trained one.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from recdiv_core.adaptation.directory import write_encoder
from recdiv_core.adaptation.objectives import both, masked_loss, pair_loss, student_loss
from recdiv_core.adaptation.steps import StepLoss, Texts, take_steps
from recdiv_core.adaptation.texts import Pairs, ShopTexts, read_pairs, read_texts
from recdiv_core.config import AdaptConfig, Config, flatten
from recdiv_core.data.text_vectors import checked_encoder, vectors_path
from recdiv_core.data.versions import open_version
from recdiv_core.errors import UserError
from recdiv_core.models.encoder_description import describe_encoder
from recdiv_core.models.fewer_layers import check_layers, keep_layers
from recdiv_core.models.masked_tokens import MaskedTokens, masking_of
from recdiv_core.models.text_encoder import (
    check_encoder,
    encoder_sha256,
    load_encoder,
    resolve_encoder,
)
from recdiv_core.schema import EncoderSource, Manifest, check_files, read_manifest
from recdiv_core.storage.given_paths import new_directory

logger = logging.getLogger(__name__)

RATE: Final = 1e-4
"""Learning rate of an encoder that is adapted, for adapt.learning_rate=0."""
STUDENT_RATE: Final = 5e-4
"""Learning rate of a student."""
HEAD_RATE: Final = 1e-3
"""Learning rate of a new head of masked language modelling."""
CHECKED: Final = 16
"""Texts on which the written encoder is compared with the trained one."""
OF_PAIRS: Final = ("adapt.pairs", "adapt.mask_share")
"""Settings without effect on a student."""


def adapt(config: Config, out: Path, encoder_name: str = "") -> dict[str, Any]:
    """Train an encoder on the texts of a prepared data set and write it.

    `out` must not exist, or be empty. An empty `encoder_name` is the encoder of the data set.

    Returns:
        `{"out", "encoder", "num_texts", "pairs", "num_pairs", "losses", "took_s"}`; a loss has its
        mean in the first and in the last tenth of the steps.

    Raises:
        UserError: a setting, the data set or the encoder does not fit.
    """
    started = time.monotonic()
    out = new_directory(out, "--out")
    if not config.data.prepared:
        raise UserError("data.prepared is not set: give the directory of a prepared data set")
    prepared = open_version(config.data.prepared)
    manifest = read_manifest(prepared)
    check_files(prepared, manifest)
    device = device_of(config)
    torch.set_num_threads(config.scaling.threads_per_worker)
    source, own, encoder = load_base(manifest, encoder_name)
    encoder.to(device)
    shop = read_texts(prepared, own, source)
    texts = Texts(shop.tokens, own.pooling, device)
    rng = np.random.default_rng(np.random.SeedSequence(config.seed))
    given = Given(source, encoder, shop, texts, rng)
    if config.adapt.layers:
        warn_idle(config)
        check_layers(encoder, config.adapt.layers)
        found = distil(given, config.adapt, teacher_vectors(given, own, prepared, manifest))
    else:
        pairs = read_pairs(prepared, shop, config.adapt.pairs)
        found = learn(given, pairs, config.adapt, config.seed)
    facts = {
        "encoder": {"name": own.name, "sha256": own.sha256},
        "data": {"name": manifest.name, "fingerprint": manifest.fingerprint},
        "settings": {k: v for k, v in flatten(config).items() if k.startswith(("adapt.", "seed"))},
        **found,
    }
    write_encoder(out, encoder.cpu(), source, own, facts, shop.tokens[:CHECKED])
    shown = {"out": str(out), "encoder": own.name, **found}
    return {**shown, "took_s": round(time.monotonic() - started, 1)}


@dataclass(frozen=True, eq=False)
class Given:
    """What both ways of training need.

    `encoder` is `source`, loaded, and is trained in place.
    """

    source: str
    encoder: nn.Module
    shop: ShopTexts
    texts: Texts
    rng: np.random.Generator

    def trained(self) -> list[nn.Parameter]:
        """Return the weights of the encoder that are trained."""
        return [weight for weight in self.encoder.parameters() if weight.requires_grad]


def device_of(config: Config) -> torch.device:
    """Return the device of the call.

    Raises:
        UserError: no GPU where `scaling.use_gpu` asks for one.
    """
    if config.scaling.use_gpu and not torch.cuda.is_available():
        raise UserError("scaling.use_gpu=true: torch sees no GPU on this machine")
    return torch.device("cuda" if config.scaling.use_gpu else "cpu")


def load_base(manifest: Manifest, name: str) -> tuple[str, EncoderSource, nn.Module]:
    """Return the encoder to start from, resolved, how it is used, and its weights.

    Raises:
        UserError: see `base_encoder` and `load_trainable`; it names `--encoder` where that was
            given.
    """
    try:
        source, own = base_encoder(manifest, name)
        return source, own, load_trainable(source)
    except UserError as error:
        if not name:
            raise
        # what finds and loads encoders names the key of the config
        message = str(error).replace("model.text.encoder=", "--encoder ")
        raise UserError(message) from None


def base_encoder(manifest: Manifest, name: str) -> tuple[str, EncoderSource]:
    """Return the encoder to start from, resolved, and how it is used.

    An empty name means the encoder of the data set.

    Raises:
        UserError: the encoder is missing, or is not the one of the data set.
    """
    own = manifest.encoder
    if not name:
        source = checked_encoder(manifest)
    else:
        source = resolve_encoder(name)
        found = describe_encoder(source, name)
        own = EncoderSource(
            name=name,
            sha256=encoder_sha256(source),
            max_tokens=min(own.max_tokens, found.max_tokens),
            fields=own.fields,
            pooling=found.pooling,
            query_prefix=found.query_prefix,
            passage_prefix=found.passage_prefix,
        )
    check_encoder(source)
    return source, own


def load_trainable(source: str) -> nn.Module:
    """Load an encoder of which all but the embeddings of tokens is trained.

    A shop uses few of the tokens, and the optimiser would move all others too.

    Raises:
        UserError: it is the encoder of an encoder-decoder, which cannot be written alone.
    """
    from transformers import AutoConfig

    if AutoConfig.from_pretrained(source).is_encoder_decoder:
        raise UserError(
            f"recdiv adapt: {source} is an encoder-decoder, such as T5; allowed are encoders, such "
            "as BERT, and decoders, such as GPT-2"
        )
    encoder = cast("Any", load_encoder(source))
    encoder.get_input_embeddings().requires_grad_(False)
    return encoder


def learn(given: Given, pairs: Pairs, settings: AdaptConfig, seed: int) -> dict[str, Any]:
    """Train the encoder by contrast of pairs and by masked language modelling.

    Raises:
        UserError: neither is asked for, or the encoder has no masked language modelling.
    """
    if not len(pairs) and not settings.mask_share:
        raise UserError("adapt.pairs=none with adapt.mask_share=0.0: nothing is learned")
    rate = settings.learning_rate or RATE
    groups: list[dict[str, Any]] = [{"params": given.trained(), "lr": rate}]
    parts: list[StepLoss] = []
    if len(pairs):
        parts.append(
            pair_loss(
                given.encoder,
                given.texts,
                pairs,
                batch_size=settings.batch_size,
                temperature=settings.temperature,
                rng=given.rng,
            )
        )
    if settings.mask_share:
        model = MaskedTokens(given.source, given.encoder, seed).to(given.texts.device)
        head_rate = HEAD_RATE if model.has_new_head else rate
        groups.append({"params": model.head_parameters(), "lr": head_rate})
        parts.append(
            masked_loss(
                model,
                masking_of(given.source, given.encoder, settings.mask_share),
                given.texts,
                given.shop.items_T,
                batch_size=settings.batch_size,
                num_steps=settings.steps,
                rng=given.rng,
            )
        )
    num_texts = len(given.shop.items_T)
    logger.info("%d texts of items, %d pairs (%s)", num_texts, len(pairs), pairs.kind)
    losses = take_steps(groups, both(parts), settings.steps)
    return {
        "num_texts": num_texts,
        "pairs": pairs.kind,
        "num_pairs": len(pairs),
        "losses": losses,
    }


def teacher_vectors(given: Given, own: EncoderSource, prepared: Path, manifest: Manifest) -> Tensor:
    """Return the encoder's vectors of the texts that a student learns, [N, H].

    A training of the data set has stored those of the data set's own encoder.
    """
    rows = given.shop.taught_T
    paths = [vectors_path(prepared, manifest, name) for name in ("tokens", "queries")]
    if own == manifest.encoder and all(path.is_file() for path in paths):
        stored = np.concatenate([np.load(path, mmap_mode="r") for path in paths])
        return torch.as_tensor(stored[rows], device=given.texts.device)
    return given.texts.encode_all(given.encoder, rows)


def distil(given: Given, settings: AdaptConfig, taught: Tensor) -> dict[str, Any]:
    """Take layers from the encoder and teach the rest to give its vectors."""
    rows = given.shop.taught_T
    keep_layers(given.encoder, settings.layers)
    loss = student_loss(
        given.encoder,
        given.texts,
        rows,
        taught,
        batch_size=settings.batch_size,
        temperature=settings.temperature,
        rng=given.rng,
    )
    groups = [{"params": given.trained(), "lr": settings.learning_rate or STUDENT_RATE}]
    losses = take_steps(groups, loss, settings.steps)
    return {"num_texts": len(rows), "pairs": "none", "num_pairs": 0, "losses": losses}


def warn_idle(config: Config) -> None:
    """Warn of settings that a student does not use."""
    given, default = flatten(config), flatten(Config())
    for key in OF_PAIRS:
        if given[key] != default[key]:
            logger.warning("%s: no effect with adapt.layers=%d", key, config.adapt.layers)
