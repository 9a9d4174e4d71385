import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from recdiv_core.config import Config, override
from recdiv_core.data.text_vectors import vectors_path
from recdiv_core.errors import UserError
from recdiv_core.schema import read_manifest
from recdiv_core.slates.checkpoint import (
    Progress,
    check_weights,
    chosen_checkpoint,
    load_weights,
    newest_whole,
    read_config,
    read_progress,
    read_tensors,
    read_trained_on,
    save_checkpoint,
)
from recdiv_core.slates.checkpoint_copies import given_checkpoint
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.lineage import check_data
from recdiv_core.slates.loading import OWN_AT_START, build_model
from tests.encoder_worlds import WIDTH, save_encoder, write_shop

CONFIG = override(Config(), {"loss.diversity_weight": 0.25, "run.name": "first"})
PROGRESS = Progress(
    step=12,
    best_epoch=2,
    best_metrics={"ndcg_at_10": 0.5},
    epochs_without_better=1,
    is_finished=True,
    metrics={"val/ndcg_at_10": 0.4},
)
FILES = ["config.yaml", "checkpoint.json", "model.pt", "training.pt"]
READERS = {
    "config.yaml": lambda path, manifest: read_config(path),
    "checkpoint.json": lambda path, manifest: (read_progress(path), check_data(path, manifest)),
    "model.pt": lambda path, manifest: load_weights(path, nn.Linear(3, 2)),
    "training.pt": lambda path, manifest: read_tensors(path, "training.pt"),
}


@pytest.fixture
def checkpoint(tmp_path, manifest):
    save_checkpoint(
        tmp_path,
        config=CONFIG,
        manifest=manifest,
        progress=PROGRESS,
        weights={"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)},
        training={"places_V": torch.ones(3), "best_weights": None, "optimizer": {"state": {}}},
    )
    return tmp_path


def test_config_and_progress_come_back_as_they_were(checkpoint):
    assert read_config(checkpoint) == CONFIG
    assert read_progress(checkpoint) == PROGRESS


def test_weights_and_training_come_back_as_they_were(checkpoint):
    model = nn.Linear(3, 2)
    load_weights(checkpoint, model)
    assert model.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    training = read_tensors(checkpoint, "training.pt")
    assert training["best_weights"] is None
    assert training["places_V"].tolist() == [1, 1, 1]


def test_an_optimiser_and_a_loss_scaler_go_on_from_a_checkpoint(tmp_path, manifest):
    def adam_after(num_steps, state=None):
        model = nn.Linear(2, 1, bias=False)
        model.weight.data.fill_(1.0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        if state is not None:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        for _ in range(num_steps):
            optimizer.zero_grad()
            model(torch.tensor([[1.0, -2.0]])).square().sum().backward()
            optimizer.step()
        return model, optimizer

    model, optimizer = adam_after(3)
    save_checkpoint(
        tmp_path,
        config=CONFIG,
        manifest=manifest,
        progress=PROGRESS,
        weights=model.state_dict(),
        training={"optimizer": optimizer.state_dict(), "model": model.state_dict()},
    )
    resumed, _ = adam_after(2, read_tensors(tmp_path, "training.pt"))
    assert torch.equal(resumed.weight, adam_after(5)[0].weight)


def test_data_with_the_same_fingerprint_fit(checkpoint, manifest):
    check_data(checkpoint, manifest)


def test_data_with_another_fingerprint_are_refused(checkpoint, manifest):
    other = manifest.model_copy(update={"fingerprint": "0" * 64, "name": "beauty"})
    with pytest.raises(ValueError, match=r"ffffffffffff.*000000000000 \(beauty\): they do not fit"):
        check_data(checkpoint, other)


@pytest.mark.parametrize(
    "model", [nn.Linear(4, 2), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))]
)
def test_weights_of_another_shape_are_refused(checkpoint, model):
    with pytest.raises(ValueError, match=r"does not fit the model\.\* keys: .*(weight|bias)"):
        load_weights(checkpoint, model)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(checkpoint, manifest, name):
    (checkpoint / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}.*not a (whole )?checkpoint"):
        READERS[name](checkpoint, manifest)


@pytest.mark.parametrize("name", ["checkpoint.json", "model.pt", "training.pt"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_that_breaks_off_is_named(checkpoint, manifest, name, share):
    whole = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"{name} (is damaged|cannot be read)"):
        READERS[name](checkpoint, manifest)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"not it", b"\xff\xfe\x00\x80", b"[1, 2]", b"\x00" * 4096])
def test_a_file_of_something_else_is_named(checkpoint, manifest, name, content):
    (checkpoint / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        READERS[name](checkpoint, manifest)


def test_tensors_that_are_no_mapping_are_refused(checkpoint, manifest):
    torch.save([1, 2], checkpoint / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt is damaged: it holds a list"):
        READERS["model.pt"](checkpoint, manifest)


def test_code_in_a_weights_file_is_not_run(checkpoint, manifest):
    torch.save({"weight": print}, checkpoint / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt is damaged"):
        READERS["model.pt"](checkpoint, manifest)


def test_progress_without_a_fingerprint_is_refused(checkpoint):
    (checkpoint / "checkpoint.json").write_text("{}")
    with pytest.raises(ValueError, match="is not of this version"):
        read_progress(checkpoint)


def test_progress_of_another_version_is_refused(checkpoint):
    tree = json.loads((checkpoint / "checkpoint.json").read_text())
    (checkpoint / "checkpoint.json").write_text(json.dumps({**tree, "moons": 2}))
    with pytest.raises(ValueError, match="is not of this version"):
        read_progress(checkpoint)


@pytest.mark.parametrize("older", [{}, {"version": 1}])
def test_a_checkpoint_of_an_earlier_version_is_refused_in_one_line(checkpoint, older):
    tree = json.loads((checkpoint / "checkpoint.json").read_text())
    del tree["version"]
    (checkpoint / "checkpoint.json").write_text(json.dumps({**tree, **older}))
    with pytest.raises(ValueError, match=r"it has (None|1), 2 can be read; train the model again"):
        read_progress(checkpoint)


@pytest.mark.parametrize("name", FILES)
def test_a_path_that_is_no_directory_is_refused(checkpoint, manifest, name):
    with pytest.raises(ValueError, match=r"config\.yaml"):
        READERS[name](checkpoint / "config.yaml", manifest)


def test_the_fingerprint_is_that_of_the_data(checkpoint, manifest):
    assert read_trained_on(checkpoint).fingerprint == manifest.fingerprint


def test_the_last_checkpoint_of_a_run_is_chosen_once_it_is_finished(tmp_path, manifest):
    made = {"config": CONFIG, "manifest": manifest, "weights": {}, "training": {}}
    for name, is_finished in (("checkpoint_1", False), ("checkpoint_2", True)):
        (tmp_path / name).mkdir()
        progress = replace(PROGRESS, is_finished=is_finished)
        save_checkpoint(tmp_path / name, progress=progress, **made)
    assert chosen_checkpoint(tmp_path) == tmp_path / "checkpoint_2"


def test_an_unfinished_run_has_no_chosen_checkpoint(tmp_path, manifest):
    write_run(tmp_path, manifest, is_finished=False)
    with pytest.raises(UserError, match="is not finished: the same command resumes it"):
        chosen_checkpoint(tmp_path)


def test_a_clock_that_was_set_back_loses_no_finished_run(tmp_path, manifest):
    early, late = write_run(tmp_path, manifest, 2)
    late.rename(tmp_path / "checkpoint_1999")
    early.rename(tmp_path / "checkpoint_2025")
    assert chosen_checkpoint(tmp_path) == tmp_path / "checkpoint_1999"
    assert newest_whole(tmp_path / "checkpoint_1999") == tmp_path / "checkpoint_1999"
    flip_bit(tmp_path / "checkpoint_1999" / "model.pt")
    assert newest_whole(tmp_path / "checkpoint_1999") == tmp_path / "checkpoint_2025"


def test_a_checkpoint_that_does_not_say_where_it_stood_is_passed_over(tmp_path, manifest, caplog):
    places = write_run(tmp_path, manifest)
    path = places[2] / "checkpoint.json"
    path.write_text(path.read_text()[:40])
    assert chosen_checkpoint(tmp_path) == places[1]
    assert newest_whole(places[2]) == places[1]
    assert f"{path} cannot be read" in caplog.text


def test_a_directory_without_checkpoints_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoint"):
        chosen_checkpoint(tmp_path)


def test_a_training_run_stands_for_its_last_checkpoint(tmp_path, monkeypatch, manifest):
    *_, last = write_run(tmp_path, manifest)
    assert given_checkpoint(str(tmp_path), "--checkpoint") == str(last)
    assert given_checkpoint(str(last), "--checkpoint") == str(last)
    assert given_checkpoint(f"file://{tmp_path}", "--checkpoint") == f"file://{last}"
    monkeypatch.chdir(tmp_path.parent)
    assert given_checkpoint(tmp_path.name, "--checkpoint") == str(last)
    with pytest.raises(UserError, match=r"--checkpoint=runs/nope is not a directory \(working dir"):
        given_checkpoint("runs/nope", "--checkpoint")


def test_a_sweep_is_no_training_run(tmp_path):
    (tmp_path / "trials" / "trial-00000").mkdir(parents=True)
    with pytest.raises(UserError, match=r"it is a sweep, give one of its trials, such as .*-00000"):
        given_checkpoint(str(tmp_path), "--checkpoint")


def flip_bit(path):
    """Change one bit in the middle of a file, where torch would not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write_run(run, manifest, count=3, *, is_finished=True):
    """Write checkpoints one after another; return their directories."""
    places = [run / f"checkpoint_{number}" for number in range(count)]
    for number, place in enumerate(places):
        place.mkdir()
        save_checkpoint(
            place,
            config=CONFIG,
            manifest=manifest,
            progress=replace(PROGRESS, step=number, is_finished=is_finished),
            weights={"weight": torch.full((99, 99), float(number))},
            training={"sums": [], "best_weights": torch.ones(9)},
        )
    return places


def test_a_flipped_bit_is_found(tmp_path, manifest):
    (place,) = write_run(tmp_path, manifest, 1)
    check_weights(place)
    flip_bit(place / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt is damaged: its sha256 is not the one"):
        check_weights(place)


@pytest.mark.parametrize("name", ["model.pt", "training.pt"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, manifest, caplog, name):
    places = write_run(tmp_path, manifest)
    assert newest_whole(places[2]) == places[2]
    flip_bit(places[2] / name)
    assert newest_whole(places[2]) == places[1]
    assert f"{places[2] / name} is damaged" in caplog.text
    (places[1] / name).write_bytes(b"")
    assert newest_whole(places[2]) == places[0]
    assert newest_whole(places[0]) == places[0]  # later ones are none of its business
    (places[0] / name).unlink()
    with pytest.raises(ValueError, match="none before it is whole"):
        newest_whole(places[2])


# peft asks transformers by a name that is on its way out
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("rank", [0, 2])
def test_a_fine_tuning_starts_from_the_model_of_a_frozen_encoder(manifest, tmp_path, rank):
    own = save_encoder(tmp_path / "encoder")
    shop = write_shop(tmp_path / "shop", manifest, own, num_items=4, train=[([0, 1], [])])
    (shop / "vectors").mkdir()
    for name, count in (("tokens", 4), ("queries", 0)):
        vectors = np.random.default_rng(0).normal(size=(count, WIDTH)).astype(np.float32)
        np.save(vectors_path(shop, read_manifest(shop), name), vectors)
    dataset = load_dataset(shop)
    config = override(Config(), {"data.prepared": str(shop), "model.text.encoder": own})
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        frozen = build_model(config, dataset)
        tuned = build_model(
            override(config, {"model.text.trainable_layers": 2, "model.text.lora_rank": rank}),
            dataset,
        )
    assert not torch.equal(tuned.item_vectors(), frozen.item_vectors())
    place = tmp_path / "checkpoint"
    place.mkdir()
    save_checkpoint(
        place,
        config=config,
        manifest=dataset.manifest,
        progress=Progress(is_finished=True),
        weights=frozen.state_dict(),
        training={},
    )
    load_weights(place, tuned, own=OWN_AT_START)
    assert torch.equal(tuned.item_vectors(), frozen.item_vectors())
