"""What a user writes: a preset, a config file and a command line become one Config."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given as inputs
from hypothesis import settings
from hypothesis import strategies as st

from recdiv_core.config import Config, known_keys
from recdiv_core.errors import UserError
from recdiv_core.settings import Given, parse_overrides, read_given


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shop.yaml"


def given(file: Path, text: str, *overrides: str) -> Given:
    file.write_text(text, encoding="utf-8")
    return read_given(None, file, overrides)


def test_a_config_file_stands_above_the_preset_and_below_the_command_line(tmp_path, file):
    preset = tmp_path / "preset.yaml"
    preset.write_text("seed: 1\ntrain: {epochs: 3, batch_size: 8}\n")
    file.write_text("train.epochs: 4\neval:\n  k: 5\n")
    config = read_given(preset, file, ["eval.k=6"]).config
    assert (config.seed, config.train.epochs, config.train.batch_size) == (1, 4, 8)
    assert config.eval.k == 6


def test_what_only_fits_together_is_judged_together(file):
    config = given(file, "model.text.lora_rank: 4\n", "model.text.trainable_layers=2").config
    assert config.model.text.lora_rank == 4


def test_an_empty_config_file_changes_nothing(file):
    assert given(file, "# nothing yet\n") == Given()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eval: [1, 2\n", "shop.yaml is not valid YAML: while parsing"),
        ("- a\n- b\n", "must be a mapping of keys to values, such as `eval.k: 20`"),
        ("evla:\n  k: 5\n", "unknown key 'evla.k'; did you mean 'eval.k'"),
        ("eval:\n  kk: 5\n", "unknown key 'eval.kk'"),
        ("eval: 5\n", "'eval' is a section, not a setting; its settings are"),
        ("eval.k: 5\neval.k: 6\n", "the key 'eval.k' is given twice"),
        ("eval.k: 5\neval:\n  k: 6\n", "eval.k is given twice, nested and dotted"),
        ("eval: {filter_seen: true, filter_seen: false}\n", "'filter_seen' is given twice"),
        ("loss.diversity: {ild:1}\n", "write a space after the colon: {ild: 1}"),
    ],
)
def test_a_wrong_config_file_is_named_in_one_line(file, text, message):
    with pytest.raises(UserError) as raised:
        given(file, text)
    assert str(raised.value).startswith(f"--config {file}")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_config_file_that_is_not_text_is_named(file):
    file.write_bytes(b"\xff\xfe\x00k")
    with pytest.raises(UserError, match=r"shop.yaml cannot be read as UTF-8 text"):
        read_given(None, file, [])


def test_a_missing_config_file_is_named(file):
    with pytest.raises(UserError, match=r"--config .*shop.yaml is not a file"):
        read_given(None, file, [])


def test_a_byte_order_mark_is_no_part_of_a_key(file):
    assert given(file, "\ufeffseed: 3\n").config.seed == 3


def test_dates_stay_text_wherever_they_stand(file):
    settings = given(file, "split:\n  val_from: 2024-01-01\n", "split.test_from=2024-02-01")
    assert settings.config.split.val_from == "2024-01-01"
    assert settings.config.split.test_from == "2024-02-01"


def test_the_last_of_two_equal_keys_of_a_command_line_counts():
    assert parse_overrides(["seed=1", "eval.k=2", "seed=3"]) == {"eval.k": 2, "seed": 3}


def test_what_stands_above_a_checkpoint_is_the_file_then_the_command_line(file):
    settings = given(file, "loss.diversity: {ild: 1}\n", "loss.diversity.coverage=2")
    assert list(settings.own) == ["loss.diversity", "loss.diversity.coverage"]


@pytest.mark.parametrize("override", ["loss.diversity={ild:1}", "loss.diversity={ild: 1, dpp:2}"])
def test_a_colon_without_a_space_is_explained(override):
    with pytest.raises(UserError, match=r"write a space after the colon: \{(ild|dpp): [12]\}"):
        read_given(None, None, [override]).config  # noqa: B018


WORDS = st.sampled_from(["{ild:1}", "[1, 2]", "{a: 1}", "~", "1e999", ".nan", "&a [*a]", "!!x 1"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def ended(file: Path | None, *overrides: str) -> Config | str:
    """Return the config, or what is said of a mistake; any other error is a bug."""
    try:
        return read_given(None, file, overrides).config
    except UserError as error:
        return str(error)


@settings(max_examples=150, deadline=None, derandomize=True)
@inputs(st.sampled_from(known_keys()) | st.text(max_size=12), st.text(max_size=12) | WORDS)
def test_whatever_is_typed_ends_in_a_config_or_in_one_line(key: str, value: str):
    assert ended(None, f"{key}={value}")


@inputs(st.dictionaries(st.sampled_from(known_keys()) | st.text(max_size=9), VALUES, max_size=3))
def test_whatever_a_config_file_holds_ends_in_a_config_or_in_one_line(tmp_path_factory, tree):
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    assert ended(file)
