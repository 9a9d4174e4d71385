"""A run is nobody else's, and its data stay what they were when it began."""

import json
import shutil
import threading

import pytest

from recdiv_core.schema import read_manifest
from recdiv_core.slates.checkpoint import chosen_checkpoint, read_trained_on
from tests.cluster.conftest import LONG, PATIENCE_S, run, wait_until
from tests.cluster.test_resume import assert_same_figures, has_passed

pytestmark = [pytest.mark.ray, pytest.mark.faults]


def prepare(out, **settings):
    values = {"data.source": "demo", "data.demo_events": 4000, "data.num_shards": 2, **settings}
    return run("prepare", f"data.out={out}", *(f"{key}={value}" for key, value in values.items()))


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as refused:
        run("train", *arguments)
    assert refused.value.code == 2
    return capsys.readouterr().err


@pytest.mark.slow
def test_a_second_training_of_one_name_is_refused(shop, trained, start, capsys):
    arguments = shop.arguments("run.name=contended", *LONG)
    first = start("train", *arguments)
    wait_until(lambda: has_passed(shop.storage / "contended", 0))
    assert f"is being written by another process: {first.pid} on" in refusal(capsys, *arguments)
    assert first.wait(timeout=PATIENCE_S) == 0
    result = json.loads((shop.storage / "contended" / "result.json").read_text())
    assert_same_figures(result, trained)
    (logged,) = shop.runs("tags.`recdiv.run_name` = 'contended'")
    epochs = [epoch for epoch, _ in shop.curve(logged.info.run_id, "train/loss")]
    assert epochs == [1, 2, 3, 4]


@pytest.mark.slow  # in make nightly
def test_a_training_keeps_the_data_that_it_began_with(shop, trained, start, tmp_path, capsys):
    data = tmp_path / "shop"
    before = prepare(data)["fingerprint"]
    assert before == read_manifest(shop.prepared).fingerprint
    arguments = shop.arguments("run.name=overtaken", *LONG, f"data.prepared={data}")
    training = start("train", *arguments)
    place = shop.storage / "overtaken"
    wait_until(lambda: has_passed(place, 0))
    after = prepare(data, seed=7)["fingerprint"]
    assert read_manifest(data).fingerprint == after != before
    assert training.wait(timeout=PATIENCE_S) == 0
    assert_same_figures(json.loads((place / "result.json").read_text()), trained)
    checkpoint = chosen_checkpoint(place)
    assert read_trained_on(checkpoint).fingerprint == before
    judged = run("evaluate", "--checkpoint", str(checkpoint))
    assert judged["metrics"]["ndcg_at_10"] == pytest.approx(
        trained["metrics"]["test/ndcg_at_10"], abs=1e-6
    )
    assert "data.prepared was" in refusal(capsys, *arguments)


def test_a_training_whose_data_are_replaced_ends_with_one_line(shop, tmp_path, capsys):
    data = tmp_path / "copied"
    shutil.copytree(shop.prepared, data)
    endless = ("train.epochs=4000", "train.patience=4000", "train.checkpoint_every_steps=2")
    arguments = ("run.name=replaced", *endless, "model.blend=[]", f"data.prepared={data}")
    place = shop.storage / "replaced"

    def replace_in_mid_training() -> None:
        wait_until(lambda: has_passed(place, 0))
        tree = json.loads((data / "manifest.json").read_text())
        (data / "manifest.json").write_text(json.dumps(tree | {"fingerprint": "a" * 64}))

    replacer = threading.Thread(target=replace_in_mid_training)
    replacer.start()
    said = refusal(capsys, *shop.arguments(*arguments))
    replacer.join()
    assert "changed while it was read" in [x for x in said.splitlines() if "error:" in x][-1]
    assert not (place / "result.json").exists()
    assert not (place / "owner.json").exists()
