"""Masked language modelling: guess hidden tokens of a text from the others.

Devlin et al., 2019, BERT. It needs no clicks, so an encoder learns the words of a shop from its
catalogue alone. The head that guesses is that of the checkpoint. A sentence encoder has none: it
gets a new one, whose output weights are the embeddings of the tokens. N texts, L tokens, M masked
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recdiv_core.errors import UserError
from recdiv_core.models.text_encoder import load_tokenizer

MASK: Final = 0.8
"""Share of the hidden tokens that become the mask token."""
RANDOM: Final = 0.1
"""Share of the hidden tokens that become any token; the others stay as they are."""


@dataclass(frozen=True)
class Masking:
    """How tokens are hidden.

    Attributes:
        mask_id: mask token.
        special_S: int64, tokens that are never hidden.
        num_tokens: size of the vocabulary.
        share: share of the other tokens that is hidden, in (0, 1].
    """

    mask_id: int
    special_S: Tensor
    num_tokens: int
    share: float

    def hide(self, input_ids: Tensor, mask: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the tokens with some hidden, and which are to be guessed.

        Args:
            input_ids: [N, L] int64.
            mask: [N, L] int64, 1 = a real token.
            rng: generator of the CPU.

        Returns:
            [N, L] int64 and [N, L] bool.
        """
        chance, kind = (torch.rand(input_ids.shape, generator=rng) for _ in range(2))
        any_token = torch.randint(self.num_tokens, input_ids.shape, generator=rng)
        is_plain = mask.bool() & ~torch.isin(input_ids, self.special_S)
        is_hidden = is_plain & (chance < self.share)
        shown = torch.where(kind < MASK + RANDOM, any_token, input_ids)
        shown = torch.where(kind < MASK, self.mask_id, shown)
        return torch.where(is_hidden, shown, input_ids), is_hidden


def masking_of(source: str, encoder: nn.Module, share: float) -> Masking:
    """Return how the tokens of a resolved encoder are hidden.

    Raises:
        UserError: its tokeniser has no mask token.
    """
    tokenizer = load_tokenizer(source)
    if tokenizer.mask_token_id is None:
        raise UserError(
            f"adapt.mask_share={share}: the tokeniser of {source} has no mask token; use "
            "adapt.mask_share=0"
        )
    return Masking(
        mask_id=cast("int", tokenizer.mask_token_id),
        special_S=torch.tensor(sorted(tokenizer.all_special_ids)),
        num_tokens=int(cast("Any", encoder).config.vocab_size),
        share=share,
    )


class MaskedTokens(nn.Module):
    """An encoder with a head that guesses hidden tokens.

    Args:
        source: resolved encoder.
        encoder: the same encoder, loaded; it is shared, not copied.
        seed: of the weights of a new head.

    Attributes:
        has_new_head: whether the checkpoint has no head of its own.

    Raises:
        UserError: encoders of this kind have no masked language modelling.
    """

    def __init__(self, source: str, encoder: nn.Module, seed: int) -> None:
        super().__init__()
        from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModelForMaskedLM
        from transformers.utils import logging

        if type(cast("Any", encoder).config) not in MODEL_FOR_MASKED_LM_MAPPING:
            raise UserError(
                f"adapt.mask_share: {type(encoder).__name__} has no masked language modelling; use "
                "adapt.mask_share=0"
            )
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # it calls a checkpoint without a head corrupted
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # noqa: TID251
            found = AutoModelForMaskedLM.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True
            )
        logging.set_verbosity(verbosity)
        model, info = cast("tuple[Any, dict[str, Any]]", found)
        prefix = model.base_model_prefix
        self.has_new_head = any(not name.startswith(f"{prefix}.") for name in info["missing_keys"])
        setattr(model, prefix, encoder)
        model.tie_weights()
        self.model = model.eval()

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the weights of the head, without the embeddings that it shares."""
        shared = set(self.model.base_model.parameters())
        return [each for each in self.model.parameters() if each not in shared]

    def surprise(
        self, input_ids: Tensor, mask: Tensor, shown: Tensor, is_hidden: Tensor, *, head_only: bool
    ) -> Tensor:
        """Return the summed `-log p` of the hidden tokens, in nats.

        Args:
            input_ids: [N, L] int64, the true tokens.
            mask: [N, L] int64, 1 = a real token.
            shown: [N, L] int64, the tokens with some hidden.
            is_hidden: [N, L] bool, at least one.
            head_only: whether no gradient reaches the encoder.
        """

        def keep_hidden(_: nn.Module, __: object, output: Any) -> Any:
            # the head computes a number for each token of the vocabulary, so the others skip it
            states = output.last_hidden_state[is_hidden][None]
            output.last_hidden_state = states.detach() if head_only else states
            return output

        hook = self.model.base_model.register_forward_hook(keep_hidden)
        try:
            logits = self.model(input_ids=shown, attention_mask=mask).logits
        finally:
            hook.remove()
        return F.cross_entropy(logits[0].float(), input_ids[is_hidden], reduction="sum")
