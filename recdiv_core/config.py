# pyright: strict
"""The frozen tree of settings, and what changes it.

A dotted key such as `loss.diversity_weight` is at once the YAML path, the command-line override,
the Tune key, the MLflow parameter and the dashboard column. Precedence: defaults < preset < config
file < command line < trial sample. How they are read: settings.py. Nothing here imports torch or
ray, so that a wrong key is answered at once. Config stops at the doorway: builders unpack it, the
pure layer takes plain arguments.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, cast

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from recdiv_core.errors import UserError
from recdiv_core.slate_rules import check_rules
from recdiv_core.storage.credentials import without_secrets

Unit = Annotated[float, Field(ge=0.0, le=1.0)]
ModelKind = Literal["neural", "popular", "recent_popular", "random", "item_knn", "ease"]
RelevanceLoss = Literal["auto", "softmax", "sampled_softmax", "gbce", "bpr"]
Regulariser = Literal[
    "ild",
    "category_entropy",
    "exposure",
    "coverage",
    "category_coverage",
    "dpp",
    "uniformity",
    "calibration",
    "user_adaptive",
    "mutual_information",
    "popularity_power",
    "brand_entropy",
    "colour_entropy",
    "price_entropy",
    "distil",
]
SoftSlate = Literal["threshold", "iterated_softmax", "softsort"]
Negatives = Literal["uniform", "in_batch", "mixed"]
Adversarial = Literal["none", "fgm", "fgsm", "pgd", "freelb", "awp"]
Balance = Literal["weighted_sum", "tchebycheff", "epsilon_constraint", "mgda", "pcgrad"]
Augmentation = Literal["crop", "mask", "reorder"]
RerankMethod = Literal[
    "none", "mmr", "msd", "dpp", "ssd", "xquad", "calibrated", "alpha", "beam", "exposure"
]
TeacherMethod = Literal["mmr", "msd", "dpp", "ssd", "xquad", "calibrated", "alpha", "beam"]
RerankAttribute = Literal["category", "brand", "colour", "price"]
Precision = Literal["fp32", "bf16", "fp16"]
Event = Literal["impression", "click", "cart", "purchase"]

LEAST_WEIGHT: Final = 1e-6
"""Of a kind of event; the largest is its inverse."""

GONE: Final = ("tracking.parent_run_id", "data.columns.slate_id")
"""Keys that did nothing and stand in checkpoints of older versions: dropped when those are read."""


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
    """Refuse what float32 has no sum of."""
    if not LEAST_WEIGHT <= value <= 1 / LEAST_WEIGHT:
        raise ValueError(f"allowed are {LEAST_WEIGHT:g} to {1 / LEAST_WEIGHT:g}")
    return value


class ColumnsConfig(_Section):
    """Names of the columns in the user's files, where they differ from ours."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    event: str = "event"
    query: str = "query"
    session_id: str = "session_id"
    position: str = "position"
    rating: str = "rating"
    title: str = "title"
    category: str = "category"
    brand: str = "brand"
    colour: str = "colour"
    price: str = "price"
    image: str = "image"
    available_from: str = "available_from"


class DataConfig(_Section):
    """Where the click log comes from and how it becomes a prepared data set."""

    source: Literal["files", "demo"] = "files"
    """`files`: read `data.clicks` and `data.items`; `demo`: generate the built-in shop."""
    clicks: str = ""
    """Click log: path, directory, glob or URI; CSV, JSON Lines or Parquet."""
    items: str = ""
    """Catalogue: path, directory, glob or URI; CSV, JSON Lines or Parquet.
    Empty = made of the click log's own items."""
    out: str = ""
    """Directory to write; empty = `runs/prepared/<name>`."""
    prepared: str = ""
    """Prepared data set (what `prepare` wrote) that train, tune and evaluate read."""
    name: str = ""
    """Name of the data set and of its MLflow experiment; empty = from the click log's path."""
    layout: str = ""
    """Name of a published layout (`movielens-1m`, `retailrocket`, ...) whose settings are taken for
    all `data.*` keys that are not given; empty = none."""
    columns: ColumnsConfig = ColumnsConfig()
    item_columns: dict[str, str] = {}
    """Names of the catalogue's columns where they differ from those in `data.columns`."""
    separator: str = ""
    """Text between the fields of the click log; empty = tab for .tsv and .inter, else a comma."""
    header: tuple[str, ...] = ()
    """Column names of a click log whose first line is a row already; empty = the first line."""
    encoding: str = "utf-8"
    """Text encoding of the click log."""
    item_separator: str = ""
    """Text between the fields of the catalogue; empty = by the file's extension."""
    item_header: tuple[str, ...] = ()
    """Column names of a catalogue whose first line is a row already; empty = the first line."""
    item_encoding: str = "utf-8"
    """Text encoding of the catalogue."""
    null_words: tuple[str, ...] = ("null", "\\N", "nan", "none", "n/a", "<na>", "nil")
    """Words that stand for a missing value, in any case; blanks always do."""
    timestamp_format: str = ""
    """How times are written, as in strptime (`%d/%m/%Y %H:%M`); empty = found out."""
    event_names: dict[str, Event | Literal["drop"]] = {}
    """The log's word for a kind of event -> ours (`view: click`); `drop` leaves the rows out."""
    events: tuple[Event, ...] = ("click", "cart", "purchase")
    """Kinds of event that count as positive; ignored when the log has no event column."""
    min_rating: float = 0.0
    """Lowest rating of an event that counts; rows below are left out, 0 = none are."""
    event_weights: dict[Event, Annotated[float, AfterValidator(_event_weight)]] = {}
    """Weight of a kind of event in the relevance loss, from 1e-6 to 1e6; 1 where not given."""
    max_quarantined: Unit = 0.05
    """Share of rows that may be rejected before the job stops."""
    min_user_events: int = Field(default=1, ge=1)
    """k-core on users, counted in the train window."""
    min_item_events: int = Field(default=1, ge=1)
    """k-core on items, counted in the train window."""
    category_level: int = Field(default=0, ge=0)
    """Levels of a category path that make an item's category; 0 = the whole path."""
    session_gap_s: float = Field(default=1800.0, gt=0.0)
    """Idle time after which a new session begins, in seconds; unused for order-only logs."""
    demo_events: int = Field(default=60_000, ge=1_000, le=100_000_000)
    """Size of the built-in shop, in interactions shown to users (impressions)."""
    fragment_rows: int = Field(default=16, ge=1, le=65_536)
    """Users in one Parquet row group: the unit that epochs shuffle and workers share out."""
    num_shards: int = Field(default=8, ge=1, le=10_000)
    """Parquet files a split; also the number of hash partitions of the shuffle by user."""


class SplitConfig(_Section):
    """How events are divided into train, validation and test."""

    protocol: Literal["auto", "temporal", "leave_last_out"] = "auto"
    """`auto`: temporal when there are real timestamps, else leave_last_out."""
    val_share: float = Field(default=0.1, gt=0.0, lt=0.5)
    """Share of events in the validation window (temporal)."""
    test_share: float = Field(default=0.1, gt=0.0, lt=0.5)
    """Share of events in the test window (temporal)."""
    val_from: str = ""
    """Start of the validation window as a timestamp; overrides `val_share`."""
    test_from: str = ""
    """Start of the test window as a timestamp; overrides `test_share`."""


class TextConfig(_Section):
    """The pretrained text encoder of the item tower."""

    enabled: bool = True
    """False = item ids alone (an ablation: cold items then have no vector of their own)."""
    encoder: str = "all-MiniLM-L6-v2"
    """Local directory, hub name, or `all-MiniLM-L6-v2` from the `offline` extra."""
    trainable_layers: int = Field(default=0, ge=0)
    """0 = frozen, vectors computed once and cached; n = the top n layers are fine-tuned."""
    lora_rank: int = Field(default=0, ge=0)
    """Rank of LoRA adapters on the attention of the trained layers; 0 = none."""
    gradient_checkpointing: bool = False
    """True = the encoder's layers are computed a second time on the way back instead of keeping
    what they computed: less memory, about a third more time."""
    max_tokens: int = Field(default=64, ge=4, le=512)
    """Tokens kept of an item's text."""
    fields: tuple[str, ...] = ("title", "category", "brand")
    """Catalogue columns that make the text, joined by ` | `."""


class BaselineConfig(_Section):
    """What the reference baselines are fitted with; each key is of one `model.kind`."""

    recent_share: float = Field(default=0.1, gt=0.0, le=1.0)
    """Of recent_popular: the last share of each user's train events that counts."""
    num_neighbours: int = Field(default=200, ge=1)
    """Of item_knn: most alike items that are kept of each item."""
    shrinkage: float = Field(default=30.0, ge=0.0)
    """Of item_knn: added to a cosine's denominator, so that few common users count for less."""
    ridge: float = Field(default=100.0, gt=0.0)
    """Of ease: its lambda, added to the diagonal; more = weights nearer to 0."""
    max_items: int = Field(default=20_000, ge=1)
    """Of ease: larger catalogues are refused; it inverts an items x items matrix in memory."""


class ModelConfig(_Section):
    """Item tower, session tower and their score; or a reference baseline."""

    kind: ModelKind = "neural"
    """`neural` is trained; the others are baselines, fitted in one pass over the train events."""
    baseline: BaselineConfig = BaselineConfig()
    text: TextConfig = TextConfig()
    dim: int = Field(default=64, ge=4, le=4096)
    """Width of item and session vectors."""
    num_layers: int = Field(default=2, ge=1, le=48)
    num_heads: int = Field(default=2, ge=1, le=64)
    max_history: int = Field(default=50, ge=1, le=4096)
    """Last events of a user that the session tower sees."""
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    id_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of items whose id embedding a training step withholds, so text learns to stand in."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Scores are dot products divided by this."""
    diversity: Unit = 0.0
    """Dial of a conditioned model: 0 = pure relevance, 1 = `loss.diversity_weight` to the full."""


class LossConfig(_Section):
    """What training minimises: (1 - w) * relevance + w * diversity penalty."""

    relevance: RelevanceLoss = "auto"
    """`auto`: exact softmax up to `softmax_max_items`, else sampled softmax."""
    softmax_max_items: int = Field(default=50_000, ge=1)
    num_negatives: int = Field(default=4096, ge=1)
    """Shared negatives a step of the sampled softmax, uniform over the catalogue."""
    logq_alpha: Unit = 1.0
    """Strength of the logQ correction of the sampled softmax: 0 none, 1 full; less = more popular
    items in the slates, less coverage."""
    negatives: Negatives = "uniform"
    """Of the sampled losses: uniform draws, the batch's own targets, or both together."""
    mask_history: bool = False
    """Leave items of the user's own history out of the negatives."""
    gbce_calibration: Unit = 0.75
    """t of gBCE: 0 = plain BCE, 1 = calibrated probabilities."""
    focal_gamma: float = Field(default=0.0, ge=0.0)
    """Of the exact softmax: positions that are predicted well already count less."""
    logit_adjustment: float = Field(default=0.0, ge=0.0)
    """Times log popularity, added to the logits of the exact softmax in training: the scores that
    are ranked then lean less on popularity. 1 = fully."""
    class_balance_beta: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Targets weigh more in small categories (effective number): 0 = alike, near 1 = by 1 / n."""
    diversity_weight: Unit = 0.0
    """The dial w: 0 = pure relevance, 1 = pure diversity."""
    diversity_warmup: Unit = 0.0
    """Share of the training over which w rises from 0 to `diversity_weight`; training from nothing
    then learns what is relevant first."""
    conditioned: bool = False
    """One model for all weights from 0 to `diversity_weight`; `model.diversity` picks one later."""
    diversity: dict[Regulariser, Annotated[float, Field(ge=0.0)]] = {
        "ild": 1.0,
        "coverage": 3.0,
    }
    """Mix of regularisers by name; weights are normalised to sum to 1."""
    distil_method: TeacherMethod = "mmr"
    """Of the regulariser `distil`: the re-ranker whose slates the scores are to learn."""
    distil_diversity: Unit = 0.3
    """Its dial."""
    slate_form: SoftSlate = "threshold"
    """How the soft slate is formed of the scores."""
    slate_size: int = Field(default=10, ge=2)
    """k of the soft slate."""
    slate_candidates: int = Field(default=200, ge=2)
    """Top-scored items that the soft slate is formed over."""
    slate_temperature: float = Field(default=0.1, gt=0.0)
    """Softness of the soft slate, in standard deviations of the candidates' scores."""
    balance: Balance = "weighted_sum"
    """How relevance and penalty become one direction."""
    min_diversity: Unit = 0.5
    """Of `epsilon_constraint`: the 1 - penalty to reach; `diversity_weight` is not used then."""
    constraint_rate: float = Field(default=0.01, gt=0.0)
    """Of `epsilon_constraint`: how fast its multiplier follows, a step."""
    adversarial: Adversarial = "none"
    """Noise that is trained against, on embeddings (or, awp, on weights)."""
    adversarial_on: Literal["items", "tokens"] = "items"
    """Whose embeddings: of the history's items, or of the items' tokens (a trained encoder's)."""
    adversarial_ascends: Literal["loss", "relevance", "penalty"] = "loss"
    """What the noise makes worse: `penalty` looks for what narrows the slate."""
    adversarial_epsilon: float = Field(default=0.1, gt=0.0)
    """Length of the noise of an example (fgsm: of a coordinate; awp: relative, of a matrix)."""
    adversarial_steps: int = Field(default=2, ge=1, le=20)
    """Of pgd and freelb."""
    adversarial_step_size: float = Field(default=0.05, gt=0.0)
    """Of pgd and freelb."""


class RerankConfig(_Section):
    """The re-ranker after the model."""

    method: RerankMethod = "none"
    diversity: Unit = 0.0
    """The dial: 0 = the model's order exactly, 1 = pure diversity."""
    num_candidates: int = Field(default=0, ge=0)
    """Top-scored items that the re-ranker chooses from; 0 = ten times `eval.k`, at least 100."""
    window: int = Field(default=0, ge=0)
    """Places before a place that it has to differ from; 0 = all (`dpp`, `ssd`)."""
    alpha: Unit = 0.5
    """Share of the wish for a category or a value that one item of it meets (`xquad`, `alpha`)."""
    beam_width: int = Field(default=1, ge=1)
    """Places decoded together, before their categories cost later ones anything (`beam`)."""
    attributes: dict[RerankAttribute, Annotated[float, Field(ge=0.0)]] = {}
    """Weights of what slates are spread over (`alpha`); empty = all that the catalogue has."""
    rules: tuple[str, ...] = ()
    """What every slate keeps, whatever the dial: `at most M of ATTRIBUTE[=VALUE] [in W]` (W
    consecutive places), `at least M of ATTRIBUTE=VALUE`, `at least N distinct ATTRIBUTE`,
    `include ITEM_ID`, `exclude ITEM_ID` (any number of them). An attribute is `category` or a
    column of the catalogue; a value of `price` is `band 1` (cheapest) to `band 5`; see
    docs/slates.md."""
    logit_adjustment: float = Field(default=0.0, ge=0.0)
    """Times log popularity, taken off the scores before anything is ranked (post hoc)."""


class TrainConfig(_Section):
    """The optimisation."""

    epochs: int = Field(default=20, ge=0)
    """0 judges the weights of `init_from` as they are."""
    batch_size: int = Field(default=256, ge=1)
    """Users a step, over all workers and accumulation parts together."""
    accumulation: int = Field(default=1, ge=1)
    """Parts a worker's share of a batch is computed in, to save memory."""
    learning_rate: float = Field(default=2e-3, gt=0.0)
    text_learning_rate: float = Field(default=2e-5, gt=0.0)
    """Learning rate of the trained layers of the text encoder."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    clip_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to at most this norm."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps over which the learning rate rises from 0; then it falls along a cosine."""
    final_lr_share: Unit = 0.1
    """Learning rate at the last step, as a share of `learning_rate`."""
    precision: Precision = "fp32"
    compile: bool = False
    """True = the towers are compiled (torch.compile) when training starts; for GPUs."""
    augment: dict[Augmentation, Unit] = {}
    """Share of histories that a step crops, masks or reorders; one operation a history."""
    token_mask: Unit = 0.0
    """Share of an item's tokens that a step masks, when the encoder is trained."""
    field_dropout: Unit = 0.0
    """Share of an item's text fields that a step drops, when the encoder is trained."""
    select: Literal["best", "last"] = "best"
    """Epoch whose weights stand for the run: `best` by `eval.objective`, or the `last`, which gives
    all trials of a comparison the same number of epochs."""
    patience: int = Field(default=5, ge=1)
    """Epochs without a better validation objective before training stops (`train.select=best`)."""
    checkpoint_every_steps: int = Field(default=0, ge=0)
    """Also checkpoint inside an epoch, every so many steps; 0 = at epoch ends only."""
    keep_checkpoints: int = Field(default=2, ge=1)
    max_failures: int = Field(default=2, ge=0)
    """Restarts from the last checkpoint after a worker is lost."""
    init_from: str = ""
    """Checkpoint whose weights training starts from."""


class EvalConfig(_Section):
    """How slates are judged."""

    k: int = Field(default=10, ge=1)
    """Slate length."""
    filter_seen: bool = True
    """True = items in a user's history are not recommended again."""
    batch_size: int = Field(default=512, ge=1)
    """Users scored at once a worker."""
    cutoffs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Further cut-offs that `evaluate` judges the same slates at; those above `k` are left out."""
    slices: tuple[str, ...] = ("user", "query", "popularity", "category")
    """Parts of the shop that `evaluate` reports apart and compares: `user` (cold, warm), `query`
    (with, without), items by `popularity` (head, mid, tail), by `category` or by any other column
    of the catalogue, whose coverage in the slates is then measured too."""
    objective: str = Field(default="ndcg", pattern=r"^[a-z_]+(_at_[0-9]+)?$")
    """Validation metric at `eval.k` that early stopping and the best checkpoint go by, such as
    `ndcg`; higher is better."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _without_cut_off(cls, values: object) -> object:
        """Take `ndcg_at_10`, as older checkpoints have it, for `ndcg` where `eval.k` is 10."""
        if not isinstance(values, dict):
            return values
        given = cast("dict[str, object]", values)
        name, _, cut_off = str(given.get("objective", "")).rpartition("_at_")
        k = given.get("k", cls.model_fields["k"].default)
        return {**given, "objective": name} if name and cut_off == str(k) else given

    @property
    def objective_at_k(self) -> str:
        """Name of the objective's figure, such as `ndcg_at_10`."""
        return f"{self.objective}_at_{self.k}"


class ScalingConfig(_Section):
    """How many workers, on what."""

    num_workers: int = Field(default=2, ge=1)
    use_gpu: bool = False
    cpus_per_worker: float = Field(default=0.0, ge=0.0)
    """CPUs Ray reserves a worker; 0 = what fits and leaves a fifth to other jobs, at most one."""
    threads_per_worker: int = Field(default=1, ge=1)
    """Torch threads of a worker on the CPU."""
    shard_encoder: bool = False
    """True = each worker keeps a share of the layers of a trained encoder, of their gradients and
    moments, and no more (FSDP): for one that does not fit a card."""
    max_concurrent_trials: int = Field(default=0, ge=0)
    """Trials at once in a sweep; 0 = as many as fit."""
    preemptible: bool = False
    """Workers may be taken away, as spot machines are: once the cluster says that one will be, a
    checkpoint is written at once, and such losses do not count as `train.max_failures`."""
    address: str = "local"
    """Ray cluster: `local` starts one here, `auto` joins the running one."""


class RunConfig(_Section):
    """The run's name and place."""

    name: str = ""
    """Resumes when it exists already; empty = made from the time."""
    storage: str = "runs"
    """Directory or URI that all workers see."""


class TrackingConfig(_Section):
    """Where MLflow keeps its runs."""

    uri: str = ""
    """Any MLflow tracking URI; empty = `sqlite:///<working directory>/mlflow.db`."""


class Config(_Section):
    """All settings of a pipeline."""

    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    rerank: RerankConfig = RerankConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    scaling: ScalingConfig = ScalingConfig()
    run: RunConfig = RunConfig()
    tracking: TrackingConfig = TrackingConfig()
    seed: int = Field(default=0, ge=0)

    @pydantic.model_validator(mode="after")
    def _check_across_sections(self) -> Config:
        if self.model.dim % self.model.num_heads:
            raise UserError(
                f"model.dim={self.model.dim} must be a multiple of "
                f"model.num_heads={self.model.num_heads}"
            )
        self._check_loss()
        self._check_text_training()
        if sum(self.train.augment.values()) > 1:
            raise UserError(f"train.augment={dict(self.train.augment)}: the shares exceed 1")
        if 0 < self.rerank.num_candidates < self.eval.k:
            raise UserError(
                f"rerank.num_candidates={self.rerank.num_candidates} must be at least "
                f"eval.k={self.eval.k}, or 0, which follows it"
            )
        if "_at_" in self.eval.objective:
            name = self.eval.objective.rpartition("_at_")[0]
            raise UserError(
                f"eval.objective={self.eval.objective} is not measured with eval.k={self.eval.k}; "
                f"write eval.objective={name}, which follows eval.k"
            )
        if self.rerank.attributes and not sum(self.rerank.attributes.values()):
            raise UserError("rerank.attributes: the weights must sum to more than 0")
        check_rules(self.rerank.rules, self.eval.k)
        kept = [text for text in self.rerank.rules if not text.lstrip().startswith("exclude ")]
        if kept and self.rerank.method == "exposure":
            raise UserError(
                f"rerank.rules: {kept[0]!r} does not go with rerank.method=exposure, which serves "
                "all users together; allowed are `exclude ITEM_ID`, or any other method"
            )
        if not self.data.events:
            raise UserError("data.events must name at least one kind of event")
        if self.model.text.enabled and not self.model.text.fields:
            raise UserError("model.text.fields must name at least one column")
        if self.model.text.lora_rank and not self.model.text.trainable_layers:
            raise UserError("model.text.lora_rank needs model.text.trainable_layers >= 1")
        return self

    def _check_loss(self) -> None:
        if self.loss.slate_candidates < self.loss.slate_size:
            raise UserError(
                f"loss.slate_candidates={self.loss.slate_candidates} must be at least "
                f"loss.slate_size={self.loss.slate_size}"
            )
        if self.loss.diversity_weight > 0 and not sum(self.loss.diversity.values()):
            raise UserError("loss.diversity must name a regulariser with a weight above 0")
        if self.loss.balance in ("mgda", "pcgrad") and self.loss.adversarial != "none":
            raise UserError(
                f"loss.balance={self.loss.balance} joins gradients apart, loss.adversarial="
                f"{self.loss.adversarial} needs one loss: use one of the two"
            )
        if self.loss.conditioned and self.loss.balance != "weighted_sum":
            raise UserError(
                f"loss.conditioned=true weighs each user; loss.balance={self.loss.balance} weighs "
                "all alike: allowed is weighted_sum"
            )
        if self.loss.conditioned and not self.loss.diversity_weight:
            raise UserError(
                "loss.conditioned=true needs loss.diversity_weight > 0: the weight at dial 1"
            )

    def _check_text_training(self) -> None:
        num_layers, loss, train = self.model.text.trainable_layers, self.loss, self.train
        if loss.adversarial_on == "tokens" and (not num_layers or loss.adversarial == "awp"):
            raise UserError(
                "loss.adversarial_on=tokens needs model.text.trainable_layers >= 1 and noise on "
                f"embeddings; got {num_layers} and loss.adversarial={loss.adversarial}"
            )
        text = self.model.text
        if text.gradient_checkpointing and not (text.enabled and num_layers):
            raise UserError(
                "model.text.gradient_checkpointing needs model.text.enabled=true and "
                "model.text.trainable_layers >= 1: of a frozen encoder nothing is kept for the way "
                "back"
            )
        if self.scaling.shard_encoder:
            self._check_shards()
        if (train.token_mask or train.field_dropout) and not num_layers:
            raise UserError(
                "train.token_mask and train.field_dropout need model.text.trainable_layers >= 1: "
                "a frozen encoder reads each text once"
            )

    def _check_shards(self) -> None:
        if not (self.model.text.enabled and self.model.text.trainable_layers):
            raise UserError(
                "scaling.shard_encoder needs model.text.enabled=true and "
                "model.text.trainable_layers >= 1: a frozen encoder is in no worker's memory"
            )
        whole = {
            "loss.balance": (self.loss.balance, ("mgda", "pcgrad")),
            "loss.adversarial": (self.loss.adversarial, ("awp",)),
            "train.precision": (self.train.precision, ("fp16",)),
        }
        for key, (value, refused) in whole.items():
            if value in refused:
                raise UserError(
                    f"scaling.shard_encoder does not go with {key}={value}, which needs whole "
                    "gradients on every worker"
                )


def rerank_candidates(config: Config) -> int:
    """Return how many of the best-scored items a re-ranker chooses from.

    >>> rerank_candidates(Config())
    100
    """
    return config.rerank.num_candidates or max(100, 10 * config.eval.k)


def check_dial(config: Config) -> None:
    """Refuse a dial for a model that has none.

    Not part of every Config: `evaluate` learns from the checkpoint whether the model has one.
    """
    if config.model.diversity and not config.loss.conditioned:
        raise UserError(
            f"model.diversity={config.model.diversity} needs a model with loss.conditioned=true; "
            "this one has no dial"
        )


def override(config: Config, *layers: Mapping[str, object]) -> Config:
    """Return the config with dotted keys replaced; everything is validated again.

    A mapping given for a whole table (`loss.diversity`) replaces it; a dotted key below it
    (`loss.diversity.ild`) changes that entry alone. Later layers win; all are validated together.

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
    """Refuse keys that are none.

    Raises:
        UserError: an unknown key; names the nearest right one.
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
    """Return every setting under its dotted key: what `override` takes to make the same config.

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
                flat[prefix + name] = copy.copy(value)  # a table stays the config's own

    walk(config, "")
    return flat


def to_yaml(config: Config) -> str:
    """Return the config as nested YAML, for `load` and `from_tree`; URIs without secrets."""
    texts = {key: value for key, value in flatten(config).items() if isinstance(value, str)}
    stored = {key: without_secrets(text) for key, text in texts.items() if "://" in text}
    return yaml.safe_dump(override(config, stored).model_dump(mode="json"), sort_keys=False)


def known_keys() -> list[str]:
    """Return all dotted keys, in the order of the tree."""
    return list(flatten(Config()))


def _set_dotted(tree: dict[str, Any], key: str, value: object, known: Sequence[str]) -> None:
    *parents, name = key.split(".")
    node: Any = tree
    for parent in parents:
        node = cast("dict[str, Any]", node).get(parent) if isinstance(node, dict) else None
    is_table_entry = ".".join(parents) in known and isinstance(node, dict)
    if inner := _settings_under(key, known):
        raise UserError(f"{key!r} is a section, not a setting; in it are {', '.join(inner)}")
    if not is_table_entry and key not in known:
        raise UserError(f"unknown key {key!r}{_nearest(key, known)}")
    _check_colons(key, value)
    cast("dict[str, Any]", node)[name] = value


def _check_colons(key: str, value: object) -> None:
    """Explain `{ild:1}`, which YAML reads as the key `ild:1` without a value."""
    if not isinstance(value, dict):
        return
    for name, entry in cast("dict[object, object]", value).items():
        left, colon, right = str(name).partition(":")
        if entry is None and colon:
            raise UserError(
                f"{key}: {{{name}}}: write a space after the colon: {{{left}: {right}}}"
            )


def _settings_under(section: str, known: Sequence[str]) -> list[str]:
    return [key for key in known if key.startswith(f"{section}.")]


def _nearest(key: str, known: Sequence[str]) -> str:
    leaf = key.rpartition(".")[2]
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    matches = difflib.get_close_matches(key, same_leaf, n=1, cutoff=0.0)
    matches += difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _explain(error: pydantic.ValidationError) -> str:
    """Say of each mistake what was given and what is allowed, under its dotted key."""
    lines: list[str] = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}{_nearest(key, known_keys())}")
        elif not key:
            lines.append(str(problem["msg"]).removeprefix("Value error, "))
        else:
            hint = ", such as [a, b]" if problem["type"] == "tuple_type" else ""
            said = str(problem["msg"]).removeprefix("Value error, ")
            lines.append(f"{key}: got {problem['input']!r}; {said}{hint}")
    return "; ".join(lines)
