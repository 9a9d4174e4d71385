"""Tiny encoders with random weights and a tokeniser of a few words, and a shop that they read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recdiv_core.models.text_encoder import PROBES, encoder_sha256
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, TRAIN_EXAMPLE, EncoderSource, Manifest
from tests.worlds import write_dataset

WIDTH, DEPTH = 32, 3
SPECIAL = ("<pad>", "<unk>", "<mask>", "<cls>", "</s>")
WORDS = (*SPECIAL, "item", "query", *map(str, range(30)), *" ".join(PROBES).split())
SMALL = {"vocab_size": len(WORDS), "pad_token_id": 0, "max_position_embeddings": 64}
BERT = {"hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": DEPTH}
BERT |= {"intermediate_size": 64}
MASKED = {
    "Bert": BERT,
    "XLMRoberta": BERT,
    "MPNet": BERT,
    "DebertaV2": BERT,
    "ModernBert": BERT,
    "DistilBert": {"dim": WIDTH, "n_heads": 2, "n_layers": DEPTH, "hidden_dim": 64},
}
"""Families with masked language modelling."""
DECODERS = {
    "GPT2": {"n_embd": WIDTH, "n_head": 2, "n_layer": DEPTH},
    "Qwen3": BERT | {"num_key_value_heads": 1, "head_dim": 16},
}
ENCODER_DECODERS = {"T5": {"d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 2}}
FAMILIES = MASKED | DECODERS | ENCODER_DECODERS


def save_encoder(path: Path, family: str = "Bert", kind: str = "Model") -> str:
    """Write an encoder of a family with its tokeniser; return its directory."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    config = getattr(transformers, f"{family}Config")(**SMALL | FAMILIES[family])
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        model = getattr(transformers, f"{family}{kind}")(config)
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.2)  # so that texts differ
    model.save_pretrained(path)
    numbers = {word: at for at, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<cls>", numbers["<cls>"]), ("</s>", numbers["</s>"])]
    words.post_processor = processors.TemplateProcessing(
        single="<cls> $A </s>", special_tokens=ends
    )
    names = dict(zip(("pad", "unk", "mask", "cls", "eos"), SPECIAL, strict=True))
    tokens = {f"{name}_token": token for name, token in names.items()}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **tokens).save_pretrained(path)
    return str(path)


def write_shop(
    prepared: Path,
    manifest: Manifest,
    source: str,
    *,
    num_items: int,
    train: Sequence[tuple[list[int], list[int]]],
    val: Sequence[tuple[list[int], int, int]] = (),
    num_queries: int = 0,
    **encoder: object,
) -> Path:
    """Write a prepared data set of `item 3` and `query 3`; return its directory.

    Args:
        prepared: directory to make.
        manifest: of any data set.
        source: directory of its encoder.
        num_items: items of the catalogue.
        train: items and queries of each user.
        val: history, query and target of each user.
        num_queries: queries of the log.
        encoder: further fields of EncoderSource.
    """
    prepared.mkdir()
    own = EncoderSource(
        **{"name": source, "sha256": encoder_sha256(source), "max_tokens": 8, "fields": ("title",)}
        | encoder
    )
    counts = {"train": len(train), "val": len(val), "test": 0}
    own_manifest = manifest.model_copy(update={"encoder": own, "num_examples": counts})
    write_dataset(prepared, own_manifest, num_items=num_items, num_queries=num_queries)
    shutil.rmtree(prepared / "vectors")  # they are random
    (prepared / "tokens.arrow").touch()
    for split in counts:
        (prepared / split).mkdir()
    rows = [
        {
            "user_id": f"u{user}",
            "items": items,
            "queries": queries or [NO_QUERY] * len(items),
            "weights": [1.0] * len(items),
        }
        for user, (items, queries) in enumerate(train)
    ]
    pq.write_table(pa.Table.from_pylist(rows, TRAIN_EXAMPLE), prepared / "train/part-0.parquet")
    held_out = [
        {
            "user_id": f"u{user}",
            "history": history,
            "targets": [target],
            "query": query,
            "is_cold_user": False,
        }
        for user, (history, query, target) in enumerate(val)
    ]
    pq.write_table(pa.Table.from_pylist(held_out, EVAL_EXAMPLE), prepared / "val/part-0.parquet")
    return prepared
