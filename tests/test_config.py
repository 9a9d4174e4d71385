from pathlib import Path
from typing import Any, get_args

import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.config import (
    Config,
    Event,
    Precision,
    Regulariser,
    flatten,
    from_tree,
    known_keys,
    override,
    rerank_candidates,
    to_tree,
    to_yaml,
)
from recdiv_core.errors import UserError
from recdiv_core.settings import load

TEXT = st.text(max_size=20)
POSITIVE = st.floats(min_value=1e-9, max_value=1e9)

# one strategy for each kind of setting: text, choice, number, flag, list, table
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "data.clicks": TEXT,
        "data.columns.timestamp": TEXT,
        "data.events": st.lists(st.sampled_from(get_args(Event)), min_size=1).map(tuple),
        "data.event_weights": st.dictionaries(
            st.sampled_from(get_args(Event)), st.floats(1e-6, 1e6)
        ),
        "split.val_from": TEXT,
        "model.text.enabled": st.booleans(),
        "model.text.fields": st.lists(TEXT, min_size=1).map(tuple),
        "loss.diversity_weight": st.floats(min_value=0, max_value=1),
        "loss.diversity": st.dictionaries(
            st.sampled_from(get_args(Regulariser)), POSITIVE, min_size=1
        ),
        "train.learning_rate": POSITIVE,
        "train.precision": st.sampled_from(get_args(Precision)),
        "run.name": TEXT,
        "rerank.rules": st.just(("at most 2 of brand=A: b, c in 3", "include 007")),
        "seed": st.integers(min_value=0),
    },
)


def write(path: Path, text: str) -> Path:
    preset = path / "preset.yaml"
    preset.write_text(text, encoding="utf-8")
    return preset


@given(SETTINGS)
def test_flattened_settings_and_their_yaml_make_the_same_config(values: dict[str, object]):
    config = override(Config(), values)
    assert override(Config(), flatten(config)) == config
    assert flatten(config).items() >= values.items()
    assert from_tree(to_tree(config)) == config
    assert from_tree(yaml.load(to_yaml(config), yaml.CSafeLoader)) == config


def test_a_preset_may_be_the_yaml_of_a_config(tmp_path: Path):
    config = load(None, ["split.val_from=2024-01-01", "loss.diversity={ild: 2}", "seed=7"])
    assert load(write(tmp_path, to_yaml(config))) == config


def test_flatten_gives_every_field_of_the_tree():
    def count(model: type[pydantic.BaseModel]) -> int:
        return sum(
            count(field.annotation)
            if isinstance(field.annotation, type)
            and issubclass(field.annotation, pydantic.BaseModel)
            else 1
            for field in model.model_fields.values()
        )

    assert len(known_keys()) == count(Config)


def test_changing_a_flattened_table_leaves_the_config_alone():
    config = Config()
    flat: dict[str, Any] = flatten(config)
    flat["loss.diversity"]["ild"] = 5.0
    assert config == Config()


def test_the_command_line_wins_over_the_preset_and_the_preset_over_the_default(tmp_path: Path):
    preset = write(tmp_path, "seed: 1\ntrain: {epochs: 3}\n")
    config = load(preset, ["seed=2"])
    assert (config.seed, config.train.epochs, config.eval.k) == (2, 3, 10)


def test_a_trial_sample_wins_over_the_command_line():
    assert override(load(None, ["seed=2"]), {"seed": 3}).seed == 3


@pytest.mark.parametrize(
    "text",
    [
        "loss: {diversity_weight: 0.3}",
        "loss.diversity_weight: 0.3",
        "model:\nloss: {diversity_weight: 0.3}",
    ],
    ids=["nested", "dotted", "beside an empty section"],
)
def test_keys_of_a_preset_may_be_nested_or_dotted(tmp_path: Path, text: str):
    assert load(write(tmp_path, text)) == override(Config(), {"loss.diversity_weight": 0.3})


def test_an_empty_preset_is_the_default(tmp_path: Path):
    assert load(write(tmp_path, "# nothing\n")) == Config()


@pytest.mark.parametrize("text", ["2024-01-01", "*.csv", "no", "007", "[a", "x #y", "", "a: b"])
def test_a_text_setting_takes_its_value_as_it_stands(text: str):
    assert load(None, [f"data.clicks={text}"]).data.clicks == text


def test_a_date_in_a_preset_stays_text(tmp_path: Path):
    assert load(write(tmp_path, "split: {val_from: 2024-01-01}")).split.val_from == "2024-01-01"


def test_a_list_and_a_table_are_given_in_yaml():
    config = load(None, ["data.events=[click, cart]", "loss.diversity={ild: 2}"])
    assert config.data.events == ("click", "cart")
    assert config.loss.diversity == {"ild": 2.0}


def test_one_entry_of_a_table_is_changed_alone():
    assert load(None, ["loss.diversity.ild=0"]).loss.diversity == {
        "ild": 0.0,
        "category_entropy": 1.0,
        "coverage": 6.0,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "loss.diversity_wieght=1",
            r"^unknown key 'loss.diversity_wieght'; did you mean 'loss.diversity_weight'\?$",
        ),
        ("columns.timestamp=order", "did you mean 'data.columns.timestamp'"),
        ("training.batch_size=8", "did you mean 'train.batch_size'"),
        ("nosuch=1", "^unknown key 'nosuch'$"),
        ("loss=1", "'loss' is a section, not a setting; its settings are loss.relevance,"),
        ("seed", r"'seed' is not an override: write key=value"),
        ("seed=", "seed: got None; Input should be a valid integer"),
        ("seed=-1", "seed: got -1; Input should be greater than or equal to 0"),
        ("eval.k=0", "eval.k: got 0; Input should be greater than or equal to 1"),
        ("loss.conditioned=true", "loss.conditioned=true needs loss.diversity_weight > 0"),
        ("train.augment={crop: 0.7}", "^unknown key 'train.augment'"),
        ("loss.focal_gamma=2", "^unknown key 'loss.focal_gamma'"),
        ("loss.diversity={uniformity: 1}", "uniformity: got 'uniformity'; .*'calibration'"),
        ("loss.diversity.ilds=1", "ilds"),
        ("loss.diversity_weight=1.1", "loss.diversity_weight: got 1.1; .* less than or equal to 1"),
        ("rerank.diversity=-0.1", "rerank.diversity: got -0.1; .* greater than or equal to 0"),
        ("train.learning_rate=.nan", "train.learning_rate: got nan; .* finite"),
        ("train.precision=fp8", "train.precision: got 'fp8'; .* 'fp32', 'bf16' or 'fp16'"),
        ("rerank.method=nmr", "rerank.method: got 'nmr'; Input should be 'none'"),
        ("eval.objective=ndcg@10", "eval.objective: got 'ndcg@10'"),
        ("data.events=click", r"data.events: got 'click'; expected a list, such as \[a, b\]$"),
        ("rerank.rules=at", r"rerank.rules: got 'at'; expected a list, such as \[a, b\]$"),
        ("loss.diversity=ild", "loss.diversity: got 'ild'; expected a table, such as {a: b}$"),
        ("data.events=[]", "data.events must name at least one kind of event"),
        ("data.events=[", r"the value is not valid YAML: .* at line 1, column 2"),
        ("loss.diversity.idl=1", "loss.diversity.idl: got 'idl'; Input should be 'ild'"),
        ("model.dim=63", "model.dim=63 must be a multiple of model.num_heads=2"),
        ("rerank.num_candidates=5", "rerank.num_candidates=5 must be at least eval.k=10"),
        ("rerank.attributes.size=1", "rerank.attributes.size: got 'size'; Input should be 'cat"),
        ("rerank.attributes.brand=0", "rerank.attributes: the weights must sum to more than 0"),
        (
            "rerank.rules=[at mots 2 of brand]",
            "rerank.rules: 'at mots 2 of brand' is not a rule; did",
        ),
        ("rerank.rules=at most 2 of brand", r"rerank.rules: got 'at most .* such as \[a, b\]"),
        ("rerank.rules=[include: A]", r"rerank.rules.0: got \{'include': 'A'\}; .* valid string"),
        ("rerank.rules=[at least 11 of brand=A]", "needs more than eval.k=10 places"),
        ("eval.objective=ndcg_at_20", "write eval.objective=ndcg, which is measured at eval.k"),
        ("eval.cutoffs=[0]", "eval.cutoffs.0: got 0; .* greater than or equal to 1"),
        ("loss.slate_candidates=5", "loss.slate_candidates=5 must be at least loss.slate_size=10"),
        ("model.text.fields=[]", "model.text.fields must name at least one column"),
        (
            "model.text.gradient_checkpointing=true",
            "model.text.trainable_layers >= 1; a frozen encoder has",
        ),
        ("scaling.shard_encoder=true", "model.text.trainable_layers >= 1; workers do not"),
        ("model.text.lora_rank=4", "lora_rank needs model.text.trainable_layers >= 1"),
    ],
)
def test_a_wrong_override_says_what_is_right(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        load(None, [text])


def test_rules_do_not_go_with_exposure():
    with pytest.raises(UserError, match=r"'include A' cannot be used with rerank.method=exposure"):
        load(None, ["rerank.method=exposure", "rerank.rules=[include A]"])
    assert load(None, ["rerank.method=exposure", "rerank.rules=[exclude A]"])


@pytest.mark.parametrize("weight", ["1e40", "1e-46", "0", "-1"])
def test_a_weight_of_an_event_is_refused_with_the_allowed_range(weight: str):
    with pytest.raises(
        UserError, match=r"data.event_weights.cart: got .*; allowed are 1e-06 to 1e\+06"
    ):
        load(None, [f"data.event_weights={{cart: {weight}}}"])


def test_shards_do_not_go_with_what_needs_whole_gradients():
    sharded = ["model.text.trainable_layers=1", "scaling.shard_encoder=true"]
    load(None, sharded)
    with pytest.raises(ValueError, match=r"cannot be used with train\.precision=fp16"):
        load(None, [*sharded, "train.precision=fp16"])


def test_a_trained_dial_needs_a_regulariser():
    with pytest.raises(ValueError, match=r"loss.diversity must name a regulariser"):
        load(None, ["loss.diversity_weight=0.1", "loss.diversity={ild: 0}"])


def test_every_mistake_is_named_at_once():
    with pytest.raises(ValueError, match=r"eval.k: got 0.*; seed: got -1"):
        load(None, ["seed=-1", "eval.k=0"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("losss: {diversity_weight: 1}", "'losss.diversity_weight'; did you mean 'loss.div"),
        ("data: {clicks: }", "data.clicks: got None"),
        ("loss: 3", "'loss' is a section"),
        ("- 1", "must be a mapping"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_wrong_preset_says_what_is_right(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, text))


def test_a_missing_preset_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"nowhere.yaml is not a file"):
        load(tmp_path / "nowhere.yaml")


def test_a_checkpoints_config_with_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match=r"unknown key 'loss.weight'; did you mean 'loss"):
        from_tree({"loss": {"weight": 1}})


def test_a_config_is_frozen():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Config().loss.diversity_weight = 1.0  # pyright: ignore


def test_a_dial_of_zero_is_the_default():
    assert (Config().loss.diversity_weight, Config().rerank.diversity) == (0.0, 0.0)


def test_what_goes_with_k_follows_it():
    config = load(None, ["eval.k=200", "eval.cutoffs=[5, 300]"])
    assert config.eval.objective_at_k == "ndcg_at_200"
    assert rerank_candidates(config) == 2000
    assert rerank_candidates(load(None, ["eval.k=3"])) == 100


def test_keys_that_are_gone_are_dropped_from_what_was_saved():
    assert from_tree({"loss": {"focal_gamma": 2.0}, "train": {"augment": {}}}) == Config()
    with pytest.raises(UserError, match=r"unknown key 'tracking.parent_run_id'"):
        override(Config(), {"tracking.parent_run_id": "0123"})
