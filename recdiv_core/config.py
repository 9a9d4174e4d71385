# pyright: strict
"""The frozen tree of settings, and the functions that override it.

A dotted key such as `loss.diversity_weight` is at once the YAML path, the command-line override,
the Tune key, the MLflow parameter and the dashboard column. Precedence: defaults < preset < config
file < command line < trial sample. settings.py reads files and command lines. This module imports
neither torch nor ray, so a wrong key fails at once. Builders unpack the Config; the pure modules
take plain arguments. The docstring of each attribute becomes its entry in docs/settings.md.
"""

from __future__ import annotations

import copy
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, cast, get_args

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from recdiv_core.errors import UserError
from recdiv_core.slate_rules import check_rules
from recdiv_core.storage.credentials import without_secrets

Unit = Annotated[float, Field(ge=0.0, le=1.0)]
ModelKind = Literal[
    "neural",
    "popular",
    "recent_popular",
    "random",
    "item_knn",
    "ease",
    "graph",
    "text",
    "rp3beta",
    "buy_again",
    "bm25",
    "text_cosine",
    "hybrid",
    "query_words",
]
Pooling = Literal["mean", "cls", "last", "eos"]
PairKind = Literal["auto", "queries", "next_item", "none"]
RelevanceLoss = Literal["auto", "softmax", "sampled_softmax"]
Regulariser = Literal[
    "ild",
    "category_entropy",
    "exposure",
    "coverage",
    "category_coverage",
    "dpp",
    "calibration",
    "user_adaptive",
    "mutual_information",
    "popularity_power",
    "brand_entropy",
    "colour_entropy",
    "price_entropy",
    "distil",
]
Negatives = Literal["uniform", "in_batch", "mixed"]
RerankMethod = Literal[
    "none", "mmr", "msd", "dpp", "ssd", "xquad", "calibrated", "alpha", "beam", "exposure"
]
BlendTerm = Literal[
    "graph",
    "text",
    "item_knn",
    "ease",
    "rp3beta",
    "buy_again",
    "recent_popular",
    "popular",
    "text_cosine",
    "bm25",
    "hybrid",
    "query_words",
]
TeacherMethod = Literal["mmr", "msd", "dpp", "ssd", "xquad", "calibrated", "alpha", "beam"]
RerankAttribute = Literal["category", "brand", "colour", "price"]
Precision = Literal["fp32", "bf16", "fp16"]
Event = Literal["impression", "click", "cart", "purchase"]

LEAST_WEIGHT: Final = 1e-6
"""Smallest weight of a kind of event; the largest is its inverse."""
MOST_DERIVED: Final = 1_000
"""Largest number of derived categories."""

_RERANKERS: Final = [name for name in get_args(RerankMethod) if name != "none"]
_NUMBER: Final = r"((?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)"
_DIAL: Final = re.compile(
    rf"none|(?:({'|'.join(_RERANKERS)}) {_NUMBER})?(?:(?:^| )logit {_NUMBER})?"
    rf"(?:(?:^| )lift {_NUMBER})?"
)
_LIGHT: Final = ("mmr 0.3", "msd 0.15", "msd 0.2", "msd 0.3", "msd 0.4", "beam 0.1", "beam 0.2")
DIALS: Final = tuple(
    " ".join(filter(None, (dial, factor)))
    for factor in ("", "lift 0.4", "lift 0.6")
    for dial in ("", *_LIGHT)
    if dial or factor
)
"""Default of `eval.dials`: light settings that gain on ILD, the diversity index or coverage."""

DIALS_FILE: Final = "dials.json"
"""Name of the metrics under each entry of `eval.dials`: in a run's last report, and as a file in
MLflow."""

GONE: Final = (
    "loss.focal_gamma",
    "loss.logit_adjustment",
    "loss.class_balance_beta",
    "loss.mask_history",
    "train.augment",
    "train.token_mask",
    "train.field_dropout",
)
"""Removed keys that checkpoints of older versions may hold; they are dropped on reading."""


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
    )


def _event_weight(value: float) -> float:
    """Refuse a weight whose sums overflow or vanish in float32."""
    if not LEAST_WEIGHT <= value <= 1 / LEAST_WEIGHT:
        raise ValueError(f"allowed are {LEAST_WEIGHT:g} to {1 / LEAST_WEIGHT:g}")
    return value


def _categories(value: int) -> int:
    """Refuse a single category, which says nothing."""
    if value and not 2 <= value <= MOST_DERIVED:
        raise ValueError(f"allowed are auto, 0, and 2 to {MOST_DERIVED:,}")
    return value


def _check_key_place(value: str) -> None:
    """Refuse a value that may be a key; the message does not show it."""
    if value and not re.fullmatch(r"env:[A-Za-z_]\w*|file:.+", value):
        raise UserError(
            "data.pseudonymise: allowed are env:VARIABLE and file:PATH, which hold the key; the "
            "value that was given is not shown, as it may be a key"
        )


class ColumnsConfig(_Section):
    """Names of the columns in the user's files."""

    user_id: str = "user_id"
    """Column of the user key, any text or number."""
    item_id: str = "item_id"
    """Column of the item key, any text or number."""
    timestamp: str = "timestamp"
    """Column of the time: ISO 8601, epoch seconds or milliseconds, or a plain order number."""
    event: str = "event"
    """Column of the kind of event (optional)."""
    query: str = "query"
    """Column of the search query (optional)."""
    session_id: str = "session_id"
    """Column of the session key (optional)."""
    position: str = "position"
    """Column of the position in the shown list (optional)."""
    rating: str = "rating"
    """Column of the rating (optional)."""
    title: str = "title"
    """Catalogue column of the title; values may be empty."""
    category: str = "category"
    """Catalogue column of the category: a path `A > B`, or labels `a|b` (optional)."""
    brand: str = "brand"
    """Catalogue column of the brand (optional)."""
    colour: str = "colour"
    """Catalogue column of the colour (optional)."""
    price: str = "price"
    """Catalogue column of the price (optional)."""
    image: str = "image"
    """Catalogue column of the image (optional)."""
    available_from: str = "available_from"
    """Catalogue column of the first time on sale, a time as in the log (optional)."""
    available_until: str = "available_until"
    """Catalogue column of the last time on sale; a date without a clock includes its day
    (optional)."""


class DataConfig(_Section):
    """The raw data, and how `prepare` makes a data set of it."""

    source: Literal["files", "demo"] = "files"
    """Source of the raw data: `files` reads `data.clicks` and `data.items`, `demo` generates the
    built-in shop."""
    clicks: str = ""
    """Click log: path, directory, glob or URI of CSV, JSON Lines or Parquet."""
    items: str = ""
    """Catalogue: path, directory, glob or URI of CSV, JSON Lines or Parquet. If empty, `prepare`
    builds it from the items of the click log."""
    base: str = ""
    """Prepared data set that `prepare` appends `data.clicks` and `data.items` to; empty = a
    preparation from scratch."""
    out: str = ""
    """Directory that `prepare` writes; empty = `runs/prepared/<name>`, or `data.base`."""
    prepared: str = ""
    """Prepared data set (the output of `prepare`) to read."""
    name: str = ""
    """Name of the data set and of its MLflow experiment; empty = derived from the path of the click
    log."""
    layout: str = ""
    """Published data set (`movielens-1m`, `retailrocket`, ...) whose settings fill all `data.*`
    keys that are not given; empty = none."""
    columns: ColumnsConfig = ColumnsConfig()
    """Column names of the click log and the catalogue."""
    item_columns: dict[str, str] = {}
    """Column names of the catalogue where they differ from `data.columns`."""
    separator: str = ""
    """Field separator of the click log; empty = tab for .tsv and .inter, else a comma."""
    header: tuple[str, ...] = ()
    """Column names of a click log without a header line; empty = the first line is the header."""
    encoding: str = "utf-8"
    """Text encoding of the click log."""
    item_separator: str = ""
    """Field separator of the catalogue; empty = chosen by the file's extension."""
    item_header: tuple[str, ...] = ()
    """Column names of a catalogue without a header line; empty = the first line is the header."""
    item_encoding: str = "utf-8"
    """Text encoding of the catalogue."""
    null_words: tuple[str, ...] = ("null", "\\N", "nan", "none", "n/a", "<na>", "nil")
    """Words for a missing value, compared without case; blank values are always missing."""
    timestamp_format: str = ""
    """Time format in strptime notation (`%d/%m/%Y %H:%M`); empty = detected from a sample."""
    event_names: dict[str, Event | Literal["drop"]] = {}
    """Kind of event for each word of the log (`view: click`); `drop` skips the rows."""
    events: tuple[Event, ...] = ("click", "cart", "purchase")
    """Kinds of event that count as positive; ignored for a log without an event column."""
    min_rating: float = 0.0
    """Lowest rating that counts as an event; 0 = no limit."""
    event_weights: dict[Event, Annotated[float, AfterValidator(_event_weight)]] = {}
    """Weight of each kind of event in the relevance loss, 1e-6 to 1e6; 1 if not given."""
    pseudonymise: str = ""
    """Place of the secret key that turns user ids into pseudonyms (HMAC-SHA256): `env:VARIABLE` or
    `file:PATH`; empty = user ids as in the log."""
    retention_days: int = Field(default=0, ge=0)
    """Latest days in UTC of the log whose events are kept, for a log with times; 0 = all."""
    max_quarantined: Unit = 0.05
    """Largest share of rows that may be rejected before `prepare` stops."""
    min_user_events: int = Field(default=1, ge=1)
    """Fewest train events of a user (k-core)."""
    min_item_events: int = Field(default=1, ge=1)
    """Fewest train events of an item (k-core)."""
    category_level: int = Field(default=0, ge=0)
    """Levels of the category path that make the category of an item; 0 = the whole path."""
    derived_categories: Literal["auto"] | Annotated[int, AfterValidator(_categories)] = "auto"
    """Number of categories that `prepare` derives from the texts of the items, in place of the
    shop's; 0 = none; `auto` = a chosen number if less than a tenth of the items have a category."""
    session_gap_s: float = Field(default=1800.0, gt=0.0)
    """Idle time in seconds that ends a session; unused for logs without times."""
    demo_events: int = Field(default=60_000, ge=1_000, le=100_000_000)
    """Size of the built-in shop in impressions."""
    demo_queries: Literal["titles", "colloquial"] = "titles"
    """Words of the built-in shop's queries: those of its titles, or `colloquial` synonyms, slang,
    German and Spanish, which no title has."""
    fragment_rows: int = Field(default=1_024, ge=1, le=65_536)
    """Users in one Parquet row group, the unit of reading; small groups read slowly."""
    num_shards: int = Field(default=8, ge=1, le=10_000)
    """Parquet files of each split, and hash partitions of the shuffle by user."""


class SplitConfig(_Section):
    """How `prepare` splits events into train, validation and test."""

    protocol: Literal["auto", "temporal", "leave_last_out"] = "auto"
    """Split protocol; `auto` = `temporal` for a log with times, else `leave_last_out`."""
    val_share: float = Field(default=0.1, gt=0.0, lt=0.5)
    """Share of events in the validation window (temporal)."""
    test_share: float = Field(default=0.1, gt=0.0, lt=0.5)
    """Share of events in the test window (temporal)."""
    val_days: int = Field(default=0, ge=0)
    """Days in UTC of the validation window, before the test window (temporal); replaces
    `split.val_share`; 0 = by share."""
    test_days: int = Field(default=0, ge=0)
    """Latest days in UTC of the log that are the test window (temporal); replaces
    `split.test_share`; 0 = by share."""
    val_from: str = ""
    """Start of the validation window as a timestamp; replaces `split.val_share` if set."""
    test_from: str = ""
    """Start of the test window as a timestamp; replaces `split.test_share` if set."""
    unseen_queries: float = Field(default=0.0, ge=0.0, le=0.5)
    """Share of the distinct queries that train events lose, so that evaluation has queries that no
    model has seen; the events stay."""


class TextConfig(_Section):
    """The pretrained text encoder of the item tower."""

    enabled: bool = True
    """Use of item texts. If false, the model knows item ids alone, so cold items have no vector."""
    encoder: str = "all-MiniLM-L6-v2"
    """Text encoder: local directory, Hugging Face name, or `all-MiniLM-L6-v2` from the `offline`
    extra."""
    trainable_layers: int = Field(default=0, ge=0)
    """Top layers of the text encoder that are fine-tuned; 0 = frozen, its vectors are cached."""
    lora_rank: int = Field(default=0, ge=0)
    """Rank of the LoRA adapters on the attention of the trained layers; 0 = none."""
    gradient_checkpointing: bool = False
    """Recomputation of the encoder's layers in the backward pass: less memory, about a third more
    time."""
    max_tokens: int = Field(default=64, ge=4, le=512)
    """Tokens kept of each item text or query, prefix included; the encoder may take fewer."""
    pooling: Literal["auto", "mean", "cls", "last", "eos"] = "auto"
    """Token states that make the vector of a text: their mean, the first, the last, or the
    end-of-text token, which is added where it is missing; auto = as the files of the encoder say,
    else `last` for a decoder and `mean` for others."""
    query_prefix: str = "auto"
    """Text before each query; auto = as the files of the encoder say, else `query: ` for E5 and
    nothing for others."""
    passage_prefix: str = "auto"
    """Text before each item text; auto = as the files of the encoder say, else `passage: ` for E5
    and nothing for others."""
    fields: tuple[str, ...] = ("title", "category", "brand")
    """Catalogue columns that make the item text, joined by ` | `."""


class BaselineConfig(_Section):
    """Hyperparameters of the baselines; each key names the kinds of model that use it."""

    recent_days: float = Field(default=7.0, gt=0.0)
    """Days before the latest train event that count, for a log with times (recent_popular)."""
    recent_share: float = Field(default=0.1, gt=0.0, le=1.0)
    """Share of each user's latest train events that counts, for a log without times
    (recent_popular)."""
    num_neighbours: int = Field(default=200, ge=1)
    """Neighbours kept per item (item_knn, graph, rp3beta)."""
    shrinkage: float = Field(default=30.0, ge=0.0)
    """Constant added to the denominator of the cosine; larger = less trust in few common users
    (item_knn)."""
    half_life: float = Field(default=90.0, ge=0.0)
    """Age at which an event counts half, in days before the user's latest event, or in later events
    for a log without times; 0 = all events count alike (item_knn, ease,
    rp3beta, buy_again)."""
    ridge: float = Field(default=100.0, gt=0.0)
    """L2 penalty lambda on the diagonal; larger = weights closer to 0 (ease)."""
    max_items: int = Field(default=0, ge=0)
    """Most popular items that get a score, 0 = all; the memory grows with the square (ease)."""
    kept_weights: int = Field(default=0, ge=0)
    """Weights of the largest size that each item keeps, 0 = all; fewer = a smaller checkpoint
    (ease)."""
    recency: float = Field(default=1.0, ge=0.0)
    """Exponent r of the weight age ** -r of an event, where the user's latest event, or all events
    of its time, have age 1; 0 = all events count alike (graph, text)."""
    lags: int = Field(default=3, ge=1)
    """Largest distance of a transition in events (graph)."""
    lag_decay: float = Field(default=0.5, gt=0.0, le=1.0)
    """Factor of the weight of a transition for each further event of distance (graph)."""
    second_hop: float = Field(default=1.0, ge=0.0)
    """Weight of two transitions in sequence; 0 = single transitions only (graph)."""
    text_weight: float = Field(default=0.3, ge=0.0)
    """Weight of the cosine of item text and history, beside the walks; both are divided by their
    largest value for the user; 0 = no text (graph)."""
    text_vectors: Literal["words", "encoder"] = "words"
    """Vectors of the texts: TF-IDF of words, or those of `model.text.encoder` (text)."""
    alpha: float = Field(default=1.0, gt=0.0)
    """Exponent of the probabilities of a walk (rp3beta)."""
    beta: float = Field(default=0.3, ge=0.0)
    """Exponent of the popularity that divides a walk's weight; larger = less popular items
    (rp3beta)."""
    bm25_k1: float = Field(default=0.0, ge=0.0)
    """Saturation of a word's count in an item text; 0 = a word counts once, as titles repeat words
    without meaning; 1.2 is usual for long texts (bm25, hybrid)."""
    bm25_b: Unit = 0.75
    """Share of the text's length in a word's weight; 0 = length does not matter; unused if
    `model.baseline.bm25_k1` is 0 (bm25, hybrid)."""
    lexical_weight: Unit = 0.5
    """Share of BM25 in its sum with the cosine, both standardised per request; 0 = the cosine
    alone (hybrid)."""


class ModelConfig(_Section):
    """The model: item tower and session tower, or a baseline."""

    kind: ModelKind = "neural"
    """Model family: `neural` is trained by gradient descent, the others are baselines fitted in one
    pass."""
    baseline: BaselineConfig = BaselineConfig()
    """Hyperparameters of the baselines."""
    text: TextConfig = TextConfig()
    """Pretrained text encoder."""
    dim: int = Field(default=64, ge=4, le=4096)
    """Dimensions of item and session vectors."""
    num_layers: int = Field(default=2, ge=1, le=48)
    """Transformer layers of the session tower."""
    num_heads: int = Field(default=2, ge=1, le=64)
    """Attention heads of the session tower; divides `model.dim`."""
    max_history: int = Field(default=50, ge=1, le=4096)
    """Latest events of a user in the input of the session tower."""
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Dropout probability of the session tower."""
    id_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of items whose id embedding is dropped in a training step, so that the text learns to
    replace it."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Divisor of the dot products that give the scores."""
    blend: tuple[BlendTerm, ...] = (
        "graph",
        "text",
        "ease",
        "recent_popular",
        "buy_again",
        "text_cosine",
        "bm25",
        "query_words",
    )
    """Baselines whose scores are added to the learned score, with weights fitted on validation;
    empty = the learned score alone. `recent_popular` needs times, `buy_again`
    `eval.filter_seen=false`, `query_words` clicks after queries; they are left out otherwise.
    `text_cosine`, `bm25`, `hybrid` and `query_words` count for requests with a query, which have
    weights of their own."""
    diversity: Unit = 0.0
    """Diversity dial of a conditioned model: 0 = pure relevance, 1 = the full
    `loss.diversity_weight`."""


class LossConfig(_Section):
    """The training objective: (1 - w) * relevance + w * diversity penalty."""

    relevance: RelevanceLoss = "auto"
    """Relevance loss; `auto` = exact softmax up to `loss.softmax_max_items` items, else sampled
    softmax."""
    softmax_max_items: int = Field(default=50_000, ge=1)
    """Largest catalogue in items for which `loss.relevance=auto` takes the exact softmax."""
    num_negatives: int = Field(default=4096, ge=1)
    """Negatives drawn per step, uniform over the catalogue and shared by all users of the step
    (sampled losses)."""
    logq_alpha: Unit = 1.0
    """Strength of the logQ correction: 0 = none, 1 = full; lower = more popular items and less
    coverage (sampled_softmax)."""
    negatives: Negatives = "uniform"
    """Source of negatives: uniform draws, the targets of the batch, or both (sampled losses)."""
    diversity_weight: Unit = 0.0
    """Diversity weight w: 0 = pure relevance, 1 = pure diversity."""
    diversity_warmup: Unit = 0.0
    """Share of the training steps over which w rises from 0 to `loss.diversity_weight`."""
    conditioned: bool = False
    """One model for all weights from 0 to `loss.diversity_weight`; `model.diversity` chooses the
    weight later."""
    diversity: dict[Regulariser, Annotated[float, Field(ge=0.0)]] = {
        "ild": 2.0,
        "category_entropy": 1.0,
        "coverage": 6.0,
    }
    """Mix of regularisers, name to weight; the weights are normalised to sum to 1."""
    distil_method: TeacherMethod = "mmr"
    """Re-ranker whose slates the scores learn to reproduce (regulariser `distil`)."""
    distil_diversity: Unit = 0.3
    """Dial of that re-ranker: 0 = pure relevance, 1 = pure diversity (regulariser `distil`)."""
    slate_size: int = Field(default=10, ge=2)
    """Length k of the soft slate in items."""
    slate_candidates: int = Field(default=200, ge=2)
    """Top-scored items that the soft slate is formed from."""
    slate_temperature: float = Field(default=0.1, gt=0.0)
    """Softness of the soft slate, in standard deviations of the candidates' scores."""


class RerankConfig(_Section):
    """The re-ranker after the model."""

    method: RerankMethod = "none"
    """Re-ranker after the model; `none` = the model's order."""
    diversity: Unit = 0.0
    """Diversity dial: 0 = the model's order exactly, 1 = pure diversity."""
    num_candidates: int = Field(default=0, ge=0)
    """Top-scored items that the re-ranker chooses from; 0 = ten times `eval.k`, at least 100."""
    window: int = Field(default=0, ge=0)
    """Preceding places that a place is compared with; 0 = all (dpp, ssd)."""
    alpha: Unit = 0.5
    """Share of the interest in a category that one item of it satisfies (xquad, alpha)."""
    beam_width: int = Field(default=1, ge=1)
    """Places that are filled together before their categories lower the score of later ones
    (beam)."""
    attributes: dict[RerankAttribute, Annotated[float, Field(ge=0.0)]] = {}
    """Attributes to diversify over, name to weight; empty = all that the catalogue has (alpha)."""
    rules: tuple[str, ...] = ()
    """Rules that every slate keeps at any dial: `at most M of ATTRIBUTE[=VALUE] [in W]` (W
    consecutive places), `at least M of ATTRIBUTE=VALUE`, `at least N distinct ATTRIBUTE`, `draw M
    of ATTRIBUTE=VALUE [for P % of slates]`, `include ITEM_ID`, `exclude ITEM_ID`. ATTRIBUTE is
    `category`, a catalogue column, or `is_new`; values of `price` are `band 1` (cheapest) to
    `band 5`. See docs/slates.md."""
    logit_adjustment: float = Field(default=0.0, ge=0.0)
    """Factor of log popularity subtracted from the scores before ranking; 0 = off."""
    lift: Unit = 0.0
    """How much an item is lifted, at most, that is shown too rarely: its score is raised by as much
    as brings it into the slates of the users who like it most. An item that needs more stays as it
    is. 1 = the distance from the first to the 100th best item of a typical user; 0 = off."""


class TrainConfig(_Section):
    """The optimisation."""

    epochs: int = Field(default=20, ge=0)
    """Passes over the train split; 0 = evaluate the weights of `train.init_from` without
    training."""
    batch_size: int = Field(default=0, ge=0)
    """Users per step, summed over all workers and accumulation parts; 0 = a number from 16 to 256
    that gives an epoch at least 80 steps."""
    accumulation: int = Field(default=1, ge=1)
    """Parts that a worker splits its share of a batch into; more = less memory."""
    learning_rate: float = Field(default=2e-3, gt=0.0)
    """Peak learning rate of the towers (AdamW)."""
    text_learning_rate: float = Field(default=2e-5, gt=0.0)
    """Peak learning rate of the trained layers of the text encoder."""
    text_refresh_steps: int = Field(default=0, ge=0)
    """Steps after which the trained encoder encodes all items again, also those outside the batch;
    0 = only at the end of each epoch."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decoupled weight decay (AdamW)."""
    clip_norm: float = Field(default=1.0, gt=0.0)
    """Largest gradient norm; larger gradients are scaled down to it."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps over which the learning rate rises from 0; a cosine decay follows."""
    final_lr_share: Unit = 0.1
    """Learning rate of the last step as a share of the peak."""
    precision: Precision = "fp32"
    """Number format of the forward and backward pass; bf16 and fp16 are for GPUs."""
    compile: bool = False
    """Compilation of the towers with torch.compile at the start; for GPUs."""
    select: Literal["best", "last"] = "best"
    """Epoch whose weights are kept: `best` by `eval.objective`, or `last`, which compares all
    trials at equal epochs."""
    tie: Unit = 0.01
    """Share of the highest `eval.objective` by which an epoch may be lower and still counts as
    equal; of such epochs the one with the highest coverage is selected (`train.select=best`)."""
    patience: int = Field(default=10, ge=1)
    """Epochs without improvement of `eval.objective` before early stopping
    (`train.select=best`)."""
    log_every_s: float = Field(default=10.0, gt=0.0)
    """Seconds between logs of loss, gradient norm, learning rate and users/s within an epoch."""
    checkpoint_every_steps: int = Field(default=0, ge=0)
    """Steps between checkpoints inside an epoch; 0 = only at the end of each epoch."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints that stay on disk."""
    max_failures: int = Field(default=2, ge=0)
    """Restarts from the last checkpoint after a worker is lost."""
    init_from: str = ""
    """Checkpoint, or directory of a training run, with the initial weights; empty = random
    initialisation. Its text encoder may have been frozen where this run trains one."""


class AdaptConfig(_Section):
    """Further training of a text encoder on the texts of the shop (`recdiv adapt`)."""

    steps: int = Field(default=300, ge=1)
    """Training steps; a student needs about ten passes over the texts."""
    batch_size: int = Field(default=64, ge=2)
    """Pairs or texts of a step."""
    learning_rate: float = Field(default=0.0, ge=0.0)
    """Peak learning rate; 0 = 1e-4, or 5e-4 for a student."""
    pairs: PairKind = "auto"
    """Texts that are pulled together: `queries` a query and the item that was clicked after it,
    `next_item` an item and the same user's next item, `none` no texts; `auto` = `queries` in a log
    with queries, else `next_item`."""
    mask_share: Unit = 0.0
    """Share of the tokens of item texts that masked language modelling hides, usually 0.15; 0 = no
    masked language modelling."""
    temperature: float = Field(default=0.05, gt=0.0)
    """Divisor of cosines in the loss of pairs and of students; smaller = the nearest texts count
    more."""
    layers: int = Field(default=0, ge=0)
    """Layers of a student that learns the vectors of the encoder; 0 = no student."""


class EvalConfig(_Section):
    """How slates are evaluated."""

    k: int = Field(default=10, ge=1)
    """Slate length in items, and cut-off of all metrics."""
    filter_seen: bool = True
    """Exclusion of items in the user's history from the slates."""
    batch_size: int = Field(default=512, ge=1)
    """Users that a worker scores at once."""
    max_users: int = Field(default=50_000, ge=0)
    """Most users of a split that are evaluated, the same sample for all runs; 0 = all. Coverage
    grows with the number of users."""
    cutoffs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Further metric cut-offs for `evaluate`, up to `eval.k`."""
    slices: tuple[str, ...] = (
        "user",
        "query",
        "query_seen",
        "query_history",
        "query_popularity",
        "query_script",
        "item",
        "popularity",
        "category",
    )
    """Parts of the shop with metrics of their own: `user` (cold, warm), `query` (with, without),
    requests with a query by `query_seen` (in train events or not), `query_history` (with, without),
    `query_popularity` (head, tail) and `query_script`, `item` (cold, warm), items by `popularity`
    (head, mid, tail), by `category`, or by any other catalogue column."""
    dials: tuple[str, ...] = DIALS
    """Re-ranking settings that each trained model is also evaluated with: `METHOD DIAL` (`msd
    0.2`), `logit FACTOR` (`logit 0.25`), `lift MOST` (`lift 0.4`), several of them in this order
    (`msd 0.2 lift 0.4`), or `none`. METHOD and DIAL replace `rerank.method` and `rerank.diversity`,
    FACTOR `rerank.logit_adjustment`, MOST `rerank.lift`; what is left out is `none` or 0. Empty =
    off."""
    objective: str = Field(default="ndcg", pattern=r"^[a-z_]+(_at_[0-9]+)?$")
    """Validation metric of early stopping and of the best checkpoint, at cut-off `eval.k`; higher
    is better."""

    @property
    def objective_at_k(self) -> str:
        """Name of the objective's figure, such as `ndcg_at_10`."""
        return f"{self.objective}_at_{self.k}"


def _as_values(value: object) -> object:
    """Return a list of values for a single one; YAML reads `yes` and `no` as truth values."""
    values = cast("list[object]", value) if isinstance(value, list | tuple) else [value]
    return [str(each).lower() if isinstance(each, bool) else each for each in values]


class EligibleConfig(_Section):
    """Which items slates may hold; see docs/eligibility.md."""

    dates: bool = True
    """Use of the dates `available_from` and `available_until` of the catalogue, if it has them."""
    block: str = ""
    """Items that no slate holds: path, directory, glob or URI of Parquet, CSV or JSON Lines with
    `item_id`, or of text with one id a line; empty = none."""
    only: str = ""
    """Only items that slates hold, such as the items in stock; files as in `eligible.block`;
    empty = all items."""
    where: dict[str, Annotated[tuple[str, ...], BeforeValidator(_as_values)]] = {}
    """Catalogue column (or `category`), to the values of items that slates hold. An item without a
    value is left out, unless the empty text is a value."""
    at: str = ""
    """Time of the requests of `recommend` and of a registered model; empty = the end of the latest
    day of the log. Evaluation uses the time of each held-out event."""


class ScalingConfig(_Section):
    """Workers and the machines that they run on."""

    num_workers: int = Field(default=2, ge=1)
    """Training workers, each with one GPU if `scaling.use_gpu`."""
    min_workers: int = Field(default=0, ge=0)
    """Workers that suffice to train while machines are missing, at most `scaling.num_workers`; 0 =
    all of them."""
    use_gpu: bool = False
    """Training and scoring on GPUs."""
    cpus_per_worker: float = Field(default=0.0, ge=0.0)
    """CPUs that Ray reserves per worker; 0 = an equal share of four fifths of the CPUs, at most
    one."""
    threads_per_worker: int = Field(default=1, ge=1)
    """Torch threads per worker on the CPU."""
    shard_encoder: bool = False
    """Sharding of a trained encoder over the workers (FSDP), for an encoder that does not fit on
    one GPU."""
    layer_cache_gib: float = Field(default=16.0, ge=0.0)
    """Largest file, in GiB, with the output of the frozen layers below trained ones; it is made
    once beside the prepared data. 0 = none: every step computes these layers."""
    max_concurrent_trials: int = Field(default=0, ge=0)
    """Trials of a sweep that run at once; 0 = as many as fit."""
    trial_workers: int = Field(default=0, ge=0)
    """Training workers of each trial of a sweep, and of the baseline that trials are compared with;
    0 = `scaling.num_workers`. The base model has `scaling.num_workers`."""
    preemptible: bool = False
    """Spot machines: a checkpoint follows the notice of a preemption, and the loss does not count
    towards `train.max_failures`."""
    address: str = "local"
    """Ray cluster: `local` starts one on this machine, `auto` joins the running one; or
    HOST:PORT."""


class RunConfig(_Section):
    """Name and storage of the run."""

    name: str = ""
    """Name of the run; an existing name resumes that run. Empty = derived from the time."""
    storage: str = "runs"
    """Directory or URI of all runs, visible to all workers."""


class TrackingConfig(_Section):
    """Where MLflow stores its runs."""

    uri: str = ""
    """MLflow tracking URI; empty = `sqlite:///<working directory>/mlflow.db`."""


class Config(_Section):
    """All settings of a pipeline."""

    data: DataConfig = DataConfig()
    """Raw data and the prepared data set."""
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    rerank: RerankConfig = RerankConfig()
    train: TrainConfig = TrainConfig()
    adapt: AdaptConfig = AdaptConfig()
    eval: EvalConfig = EvalConfig()
    eligible: EligibleConfig = EligibleConfig()
    scaling: ScalingConfig = ScalingConfig()
    run: RunConfig = RunConfig()
    tracking: TrackingConfig = TrackingConfig()
    seed: int = Field(default=0, ge=0)
    """Random seed of data, training and sweeps."""

    @pydantic.model_validator(mode="after")
    def _check_across_sections(self) -> Config:
        _check_key_place(self.data.pseudonymise)
        if self.model.dim % self.model.num_heads:
            raise UserError(
                f"model.dim={self.model.dim} must be a multiple of "
                f"model.num_heads={self.model.num_heads}"
            )
        self._check_workers()
        self._check_loss()
        self._check_text_training()
        if 0 < self.rerank.num_candidates < self.eval.k:
            raise UserError(
                f"rerank.num_candidates={self.rerank.num_candidates} must be at least "
                f"eval.k={self.eval.k}, or 0, which follows it"
            )
        if "_at_" in self.eval.objective:
            name = self.eval.objective.rpartition("_at_")[0]
            raise UserError(
                f"eval.objective={self.eval.objective} names a cut-off; "
                f"write eval.objective={name}, which is measured at eval.k"
            )
        if self.rerank.attributes and not sum(self.rerank.attributes.values()):
            raise UserError("rerank.attributes: the weights must sum to more than 0")
        check_rules(self.rerank.rules, self.eval.k)
        kept = [text for text in self.rerank.rules if not text.lstrip().startswith("exclude ")]
        if kept and self.rerank.method == "exposure":
            raise UserError(
                f"rerank.rules: {kept[0]!r} cannot be used with rerank.method=exposure, which "
                "re-ranks all users together; use only `exclude ITEM_ID`, or another method"
            )
        self._check_dials(binding=kept)
        if not self.data.events:
            raise UserError("data.events must name at least one kind of event")
        if self.model.text.enabled and not self.model.text.fields:
            raise UserError("model.text.fields must name at least one column")
        if self.model.text.lora_rank and not self.model.text.trainable_layers:
            raise UserError("model.text.lora_rank needs model.text.trainable_layers >= 1")
        return self

    def _check_dials(self, binding: Sequence[str]) -> None:
        found: list[dict[str, object]] = []
        for text in self.eval.dials:
            settings = parse_dial(text)
            if binding and settings["rerank.method"] == "exposure":
                raise UserError(
                    f"eval.dials: {text!r} cannot be used with rerank.rules, because exposure "
                    "re-ranks all users together"
                )
            if settings in found:
                raise UserError(f"eval.dials: {text!r} is given twice")
            found.append(settings)

    def _check_workers(self) -> None:
        if self.scaling.min_workers > self.scaling.num_workers:
            raise UserError(
                f"scaling.min_workers={self.scaling.min_workers} must be at most "
                f"scaling.num_workers={self.scaling.num_workers}"
            )

    def _check_loss(self) -> None:
        if self.loss.slate_candidates < self.loss.slate_size:
            raise UserError(
                f"loss.slate_candidates={self.loss.slate_candidates} must be at least "
                f"loss.slate_size={self.loss.slate_size}"
            )
        if self.loss.diversity_weight > 0 and not sum(self.loss.diversity.values()):
            raise UserError("loss.diversity must name a regulariser with a weight above 0")
        if self.loss.conditioned and not self.loss.diversity_weight:
            raise UserError(
                "loss.conditioned=true needs loss.diversity_weight > 0; it is the weight at "
                "model.diversity=1"
            )

    def _check_text_training(self) -> None:
        text = self.model.text
        if text.gradient_checkpointing and not (text.enabled and text.trainable_layers):
            raise UserError(
                "model.text.gradient_checkpointing needs model.text.enabled=true and "
                "model.text.trainable_layers >= 1; a frozen encoder has no backward pass"
            )
        if self.scaling.shard_encoder:
            self._check_shards()

    def _check_shards(self) -> None:
        if not (self.model.text.enabled and self.model.text.trainable_layers):
            raise UserError(
                "scaling.shard_encoder needs model.text.enabled=true and "
                "model.text.trainable_layers >= 1; workers do not load a frozen encoder"
            )
        if self.train.precision == "fp16":
            raise UserError(
                "scaling.shard_encoder cannot be used with train.precision=fp16, which needs whole "
                "gradients on every worker"
            )


def parse_dial(text: str) -> dict[str, object]:
    """Return an entry of `eval.dials` as settings of `rerank`, by their dotted keys.

    Raises:
        UserError: names the entry and what is allowed.

    >>> parse_dial("msd 0.2")["rerank.diversity"]
    0.2
    """
    found = _DIAL.fullmatch(" ".join(text.split()))
    method, dial, factor, lift = found.groups() if found else (None,) * 4
    settings: dict[str, object] = {
        "rerank.method": method or "none",
        "rerank.diversity": float(dial or 0),
        "rerank.logit_adjustment": float(factor or 0),
        "rerank.lift": float(lift or 0),
    }
    has_effect = all(0 < float(unit) <= 1 for unit in (dial, lift) if unit)
    has_effect &= not (factor and not float(factor))
    if not found or not text.strip() or not has_effect:
        raise UserError(
            f"eval.dials: {text!r}; allowed: METHOD DIAL, logit FACTOR, lift MOST, several in this "
            f"order, or none, where METHOD is one of {', '.join(_RERANKERS)}, DIAL and MOST lie in "
            "(0, 1] and FACTOR is above 0"
        )
    return settings


def dial_text(settings: Mapping[str, object]) -> str:
    """Return settings of `rerank` as an entry of `eval.dials`, the inverse of `parse_dial`.

    >>> dial_text(parse_dial("msd 0.2 logit 0.25"))
    'msd 0.2 logit 0.25'
    """
    method, factor = settings["rerank.method"], settings["rerank.logit_adjustment"]
    words = [] if method == "none" else [f"{method} {settings['rerank.diversity']}"]
    words += [f"logit {factor}"] if factor else []
    words += [f"lift {settings['rerank.lift']}"] if settings.get("rerank.lift") else []
    return " ".join(words) or "none"


def rerank_candidates(config: Config) -> int:
    """Return how many of the best-scored items a re-ranker chooses from.

    >>> rerank_candidates(Config())
    100
    """
    return config.rerank.num_candidates or max(100, 10 * config.eval.k)


def check_dial(config: Config) -> None:
    """Refuse `model.diversity` for a model without a dial.

    This is no check of Config itself: only the checkpoint tells `evaluate` whether the model has a
    dial.
    """
    if config.model.diversity and not config.loss.conditioned:
        raise UserError(
            f"model.diversity={config.model.diversity} needs a model with loss.conditioned=true; "
            "this model has no dial"
        )


def override(config: Config, *layers: Mapping[str, object]) -> Config:
    """Return the config with dotted keys replaced, and validate the result.

    A mapping for a table (`loss.diversity`) replaces the table. A key below the table
    (`loss.diversity.ild`) changes that entry alone. Later layers win.

    >>> override(Config(), {"loss.diversity_weight": 0.3}).loss.diversity_weight
    0.3
    """
    tree = config.model_dump(mode="python")
    known = known_keys()
    for values in layers:
        for key, value in values.items():
            _set_dotted(tree, key, value, known)
    return from_tree(tree)


def check_keys(values: Mapping[str, object]) -> None:
    """Refuse unknown keys.

    Raises:
        UserError: an unknown key; the message names the nearest known key.
    """
    tree = Config().model_dump(mode="python")
    known = known_keys()
    for key, value in values.items():
        _set_dotted(tree, key, value, known)


def from_tree(tree: Mapping[str, object]) -> Config:
    """Validate a nested mapping, such as a checkpoint's `config.yaml`, as a Config."""
    try:
        return Config.model_validate(_without(GONE, tree))
    except pydantic.ValidationError as error:
        raise UserError(_explain(error)) from None


def _without(keys: Sequence[str], tree: Mapping[str, object]) -> Mapping[str, object]:
    for key in keys:
        section, _, rest = key.partition(".")
        node = tree.get(section)
        if not rest:
            tree = {name: value for name, value in tree.items() if name != section}
        elif isinstance(node, dict):
            inner = _without([rest], cast("dict[str, object]", node))
            tree = {**tree, section: inner}
    return tree


def flatten(config: Config) -> dict[str, object]:
    """Return every setting under its dotted key; `override` turns the result back into a Config.

    >>> flatten(Config())["eval.k"]
    10
    """
    flat: dict[str, object] = {}

    def walk(model: BaseModel, prefix: str) -> None:
        for name in type(model).model_fields:
            value = getattr(model, name)
            if isinstance(value, BaseModel):
                walk(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = copy.copy(
                    value
                )  # so that the caller cannot change the config's table

    walk(config, "")
    return flat


def to_tree(config: Config) -> dict[str, Any]:
    """Return the config as a nested mapping, for `from_tree`; passwords are left out."""
    texts = {key: value for key, value in flatten(config).items() if isinstance(value, str)}
    stored = {key: without_secrets(text) for key, text in texts.items() if "://" in text}
    return override(config, stored).model_dump(mode="json")


def to_yaml(config: Config) -> str:
    """Return the tree of the config as YAML, for `load`."""
    # the dumper in C takes a third of the time of yaml.safe_dump and writes the same text
    return yaml.dump(to_tree(config), Dumper=yaml.CSafeDumper, sort_keys=False)


@functools.cache
def known_keys() -> tuple[str, ...]:
    """Return all dotted keys, in the order of the tree."""
    return tuple(flatten(Config()))


def _set_dotted(tree: dict[str, Any], key: str, value: object, known: Sequence[str]) -> None:
    *parents, name = key.split(".")
    node: Any = tree
    for parent in parents:
        node = cast("dict[str, Any]", node).get(parent) if isinstance(node, dict) else None
    is_table_entry = ".".join(parents) in known and isinstance(node, dict)
    if not is_table_entry and key not in known:
        if inner := [one for one in known if one.startswith(f"{key}.")]:
            own = ", ".join(inner)
            raise UserError(f"{key!r} is a section, not a setting; its settings are {own}")
        raise UserError(f"unknown key {key!r}{_nearest(key, known)}")
    _check_colons(key, value)
    cast("dict[str, Any]", node)[name] = value


def _check_colons(key: str, value: object) -> None:
    """Explain the mistake `{ild:1}`, which YAML reads as the key `ild:1` without a value."""
    if not isinstance(value, dict):
        return
    for name, entry in cast("dict[object, object]", value).items():
        left, colon, right = str(name).partition(":")
        if entry is None and colon:
            raise UserError(
                f"{key}: {{{name}}}: write a space after the colon: {{{left}: {right}}}"
            )


def _nearest(key: str, known: Sequence[str]) -> str:
    leaf = key.rpartition(".")[2]
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    matches = difflib.get_close_matches(key, same_leaf, n=1, cutoff=0.0)
    matches += difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


PLAIN_TYPES: Final = {
    "tuple_type": "expected a list, such as [a, b]",
    "dict_type": "expected a table, such as {a: b}",
}
"""Type of a problem -> what is expected, in the words of YAML instead of those of Python."""


def _explain(error: pydantic.ValidationError) -> str:
    """Return a message that names the key, the given value and the allowed values."""
    lines: list[str] = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}{_nearest(key, known_keys())}")
        elif not key:
            lines.append(str(problem["msg"]).removeprefix("Value error, "))
        else:
            said = str(problem["msg"]).removeprefix("Value error, ")
            lines.append(
                f"{key}: got {problem['input']!r}; {PLAIN_TYPES.get(problem['type'], said)}"
            )
    return "; ".join(lines)
