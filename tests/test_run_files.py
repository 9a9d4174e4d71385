import json

import pytest

from recdiv_core.config import Config, override, to_yaml
from recdiv_core.data.versions import building, publish
from recdiv_core.errors import UserError
from recdiv_core.training.run_files import (
    SNAPSHOT,
    drop_damaged_snapshot,
    existing_result,
    on_own_version,
    place_run,
    read_result,
    write_result,
    write_run_file,
)

RESULT = {"run": "first", "metrics": {"ndcg_at_10": 0.5}}


@pytest.fixture
def config(tmp_path):
    return place_run(
        override(Config(), {"run.name": "first", "run.storage": str(tmp_path / "runs")}), "train"
    )


@pytest.fixture
def run(config, tmp_path):
    write_run_file(config, "config.yaml", to_yaml(config))
    write_result(config, RESULT)
    return tmp_path / "runs" / "first"


def test_a_finished_run_answers_with_its_result(config, run):
    assert existing_result(config) == RESULT


def test_a_name_with_other_settings_is_refused(config, run):
    with pytest.raises(UserError, match="with other settings: seed was 0, is 1"):
        existing_result(override(config, {"seed": 1}))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_half_a_config_counts_as_absent(config, run, share, caplog):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text[: int(share * len(text))])
    assert existing_result(config) is None
    assert ("config.yaml is damaged" in caplog.text) == (share > 0)


@pytest.mark.parametrize(
    "text", ['{"run": "fir', "", "[]", '{"metrics": {"train/grad_norm": NaN}}', "\x00\x00"]
)
def test_half_a_result_counts_as_absent(config, run, text, caplog):
    (run / "result.json").write_text(text)
    assert existing_result(config) is None
    assert ("result.json is damaged" in caplog.text) == bool(text)


def test_a_config_of_another_version_is_named(config, run):
    (run / "config.yaml").write_text("lost: {key: 1}\n" + (run / "config.yaml").read_text())
    with pytest.raises(UserError, match=r"written by another version of recdiv .unknown key"):
        existing_result(config)


def test_a_figure_that_is_no_number_never_reaches_the_result(config):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(config, {"metrics": {"train/grad_norm": float("nan")}})
    assert read_result(config) is None


def test_no_other_file_is_left_beside_the_small_ones(config, run):
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "result.json"]


@pytest.fixture
def versions(tmp_path, config):
    """Return what makes the next version of a data set current, and the config that reads it."""
    view = tmp_path / "shop"

    def prepare(letter):
        with building(view) as work:
            (work / "manifest.json").write_text(json.dumps({"fingerprint": letter * 64}))
            return publish(view, work, letter * 64)

    return prepare, override(config, {"data.prepared": str(view)})


def test_a_run_that_is_resumed_goes_on_with_its_own_version(versions, caplog):
    prepare, config = versions
    first = prepare("a")
    begun = override(config, {"data.prepared": str(first)})
    write_run_file(config, "config.yaml", to_yaml(begun))
    prepare("b")
    assert on_own_version(config).data.prepared == str(first)
    assert "continues on the data it began with" in caplog.text
    assert existing_result(on_own_version(config)) is None


def test_a_finished_run_does_not_answer_for_data_that_were_prepared_again(versions):
    prepare, config = versions
    begun = override(config, {"data.prepared": str(prepare("a"))})
    write_run_file(config, "config.yaml", to_yaml(begun))
    write_result(config, RESULT)
    current = prepare("b")
    assert on_own_version(config) == config
    with pytest.raises(UserError, match=r"data\.prepared was .*aaaa'.*, is .*bbbb'"):
        existing_result(override(config, {"data.prepared": str(current)}))


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ('{"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_1"}]}', True),
        ('{"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_gone"}]}', False),
        ('{"checkpoint_results": [{"check', False),
        ("", False),
    ],
)
def test_half_a_list_of_checkpoints_is_dropped(config, run, text, stays):
    (run / "checkpoint_1").mkdir()
    (run / SNAPSHOT).write_text(text)
    drop_damaged_snapshot(config)
    assert (run / SNAPSHOT).exists() == stays
