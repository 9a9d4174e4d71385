"""What train, tune and evaluate refuse before Ray starts: one clear line that names the key."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray import tune

from recdiv_core.config import Config, override, to_yaml
from recdiv_core.data.text_vectors import vectors_path
from recdiv_core.errors import UserError
from recdiv_core.evaluation.evaluate import evaluate
from recdiv_core.models.text_encoder import encoder_sha256
from recdiv_core.schema import EVAL_EXAMPLE, SCHEMA_VERSION, TRAIN_EXAMPLE, read_manifest
from recdiv_core.search_space import Constraint, Objective, SearchSpace
from recdiv_core.slates.checkpoint import Progress, save_checkpoint
from recdiv_core.slates.inputs import checkpoint_config
from recdiv_core.sweep import run as sweep
from recdiv_core.training.checks import check_config, cpus_per_worker


@pytest.fixture
def prepared(tmp_path: Path, manifest) -> Path:
    """Write a prepared data set as far as it is looked at before Ray starts: its footers."""
    root = tmp_path / "prepared"
    root.mkdir()
    pq.write_table(pa.table({"item_id": ["a"]}), root / "catalogue.parquet")
    for name in ("tokens.arrow", "queries.arrow"):
        (root / name).touch()
    for split, schema in (("train", TRAIN_EXAMPLE), ("val", EVAL_EXAMPLE), ("test", EVAL_EXAMPLE)):
        (root / split).mkdir()
        count = manifest.num_examples[split]
        columns = [
            pa.array([[] if pa.types.is_list(field.type) else None] * count, field.type)
            for field in schema
        ]
        pq.write_table(pa.table(columns, schema.names), root / split / "part-0.parquet")
    (root / "manifest.json").write_text(manifest.model_dump_json())
    (root / "vectors").mkdir()
    for name in ("tokens", "queries"):
        vectors_path(root, manifest, name).touch()
    return root


@pytest.fixture
def config(prepared: Path, tmp_path: Path) -> Config:
    values = {"data.prepared": str(prepared), "run.storage": str(tmp_path / "runs")}
    return override(Config(), {**values, "model.text.encoder": "tiny"})


@pytest.fixture
def checkpoint(config: Config, manifest, tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    path.mkdir()
    made = {"config": config, "manifest": manifest, "progress": Progress(is_finished=True)}
    save_checkpoint(path, **made, weights={}, training={})
    return path


def refusal(config: Config, **changes: object) -> str:
    changed = override(config, {key.replace("__", "."): value for key, value in changes.items()})
    with pytest.raises(ValueError, match=r"\w") as refused:
        check_config(changed)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_a_whole_data_set_is_taken(config: Config, checkpoint: Path):
    checked, _ = check_config(override(config, {"train.init_from": str(checkpoint)}))
    assert checked.run.name.startswith("train-")


def test_a_training_may_start_from_the_directory_of_a_run(config: Config, checkpoint: Path):
    place = checkpoint.parent / "run"
    last = shutil.move(checkpoint, place / "checkpoint_1")
    checked, _ = check_config(override(config, {"train.init_from": str(place)}))
    assert checked.train.init_from == str(last)


def test_an_attribute_that_the_catalogue_lacks(config: Config, prepared: Path):
    pq.write_table(pa.table({"item_id": ["a"], "brand": ["b"]}), prepared / "catalogue.parquet")
    wanted = {"loss__diversity_weight": 0.1, "loss__diversity": {"colour_entropy": 1.0}}
    assert "has no column 'colour'; it has item_id, brand" in refusal(config, **wanted)
    check_config(
        override(config, {"loss.diversity_weight": 0.1, "loss.diversity": {"brand_entropy": 1.0}})
    )


def test_a_dial_for_a_model_without_one(config: Config):
    assert "needs a model with loss.conditioned=true" in refusal(config, model__diversity=0.5)


def test_the_settings_of_a_run_are_those_that_its_data_were_prepared_with(
    config: Config, prepared: Path
):
    tree = json.loads((prepared / "manifest.json").read_text())
    tree["settings"] = {"data.demo_events": 12_000, "split.val_share": 0.2, "data.of_old": 1}
    (prepared / "manifest.json").write_text(json.dumps(tree))
    checked, _ = check_config(config)
    assert (checked.data.demo_events, checked.split.val_share) == (12_000, 0.2)
    assert checked.data.name == "shop"


def test_settings_of_an_earlier_version_stop_nothing(config: Config, prepared: Path, caplog):
    tree = json.loads((prepared / "manifest.json").read_text())
    tree["settings"] = {"split.val_share": "most of it"}
    (prepared / "manifest.json").write_text(json.dumps(tree))
    assert check_config(config)[0].split.val_share == Config().split.val_share
    assert "split.val_share: got 'most of it'" in caplog.text


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize(
    ("protocol", "change"),
    [("leave_last_out", "three events or more"), ("temporal", "split.val_from")],
)
def test_a_split_that_holds_nobody(config, prepared, split, protocol, change):
    tree = json.loads((prepared / "manifest.json").read_text())
    tree["num_examples"][split], tree["split"] = 0, {"protocol": protocol}
    (prepared / "manifest.json").write_text(json.dumps(tree))
    (prepared / split / "part-0.parquet").unlink()
    message = refusal(config)
    assert f"holds no {split} example, so there is nothing to measure" in message
    assert change in message


def test_half_a_manifest(config: Config, prepared: Path):
    text = (prepared / "manifest.json").read_text()
    for content in (text[:100].encode(), b"", b"\xff\xfe{", b"[1]"):
        (prepared / "manifest.json").write_bytes(content)
        assert "prepare" in refusal(config)


def test_a_run_name_that_leaves_its_storage(config: Config, tmp_path: Path):
    assert "run.name='..' must be one name" in refusal(config, run__name="..")
    assert not (tmp_path / "runs").exists()


def test_a_storage_below_a_file(config: Config, prepared: Path):
    place = prepared / "manifest.json" / "runs"
    assert "which is no directory" in refusal(config, run__storage=str(place))


def test_no_data_set(config: Config):
    assert "data.prepared is not set" in refusal(config, data__prepared="")
    assert "is not a directory" in refusal(config, data__prepared="/nowhere")


def test_a_directory_that_is_no_data_set(config: Config, tmp_path: Path):
    assert "has no manifest.json" in refusal(config, data__prepared=str(tmp_path))


def test_another_schema_version(config: Config, prepared: Path):
    tree = json.loads((prepared / "manifest.json").read_text())
    (prepared / "manifest.json").write_text(json.dumps(tree | {"schema_version": 99}))
    assert f"has schema version 99, this code reads {SCHEMA_VERSION}" in refusal(config)


def test_missing_shards(config: Config, prepared: Path):
    (prepared / "val" / "part-0.parquet").unlink()
    assert "val/ has 0 rows, its manifest says 150" in refusal(config)


def test_a_damaged_shard(config: Config, prepared: Path):
    (prepared / "test" / "part-0.parquet").write_bytes(b"PAR1, and then nothing")
    assert "test/part-0.parquet is damaged" in refusal(config)


def test_a_sound_file_of_somebody_else(config: Config, prepared: Path):
    pq.write_table(pa.table({"price": [1.0]}), prepared / "train" / "part-0.parquet")
    assert "part-0.parquet has the columns price, not user_id, items" in refusal(config)


def test_a_missing_catalogue(config: Config, prepared: Path):
    (prepared / "catalogue.parquet").unlink()
    assert "lacks catalogue.parquet" in refusal(config)


def test_another_text_encoder(config: Config):
    message = refusal(config, model__text__encoder="all-MiniLM-L6-v2")
    assert "was prepared with model.text.encoder=tiny" in message


def test_more_layers_to_train_than_the_encoder_has(config: Config, prepared: Path, tmp_path: Path):
    chosen = encoder_of(prepared, tmp_path)
    message = refusal(config, **chosen, model__text__trainable_layers=3)
    assert message.endswith(
        "trainable_layers=3: the encoder {} has 2 layers".format(*chosen.values())
    )
    layers = {"model.text.encoder": str(tmp_path / "encoder"), "model.text.trainable_layers": 2}
    check_config(override(config, layers))


def encoder_of(prepared: Path, place: Path, name: str = "") -> dict[str, object]:
    """Write settings of an encoder, and the manifest of a data set that was prepared with it."""
    encoder = place / (name or "encoder")
    encoder.mkdir()
    (encoder / "config.json").write_text('{"model_type": "bert", "num_hidden_layers": 2}')
    manifest = read_manifest(prepared)
    source = {"name": name or str(encoder), "sha256": encoder_sha256(str(encoder))}
    changed = manifest.encoder.model_copy(update=source)
    manifest = manifest.model_copy(update={"encoder": changed})
    (prepared / "manifest.json").write_text(manifest.model_dump_json())
    for vectors in ("tokens", "queries"):
        vectors_path(prepared, manifest, vectors).touch()
    return {"model__text__encoder": source["name"]}


def test_layers_of_an_encoder_that_has_changed_are_not_trained(config, prepared, tmp_path):
    chosen = encoder_of(prepared, tmp_path)
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"other weights")
    message = refusal(config, **chosen, model__text__trainable_layers=1)
    assert "weights, tokeniser or settings have changed; run `recdiv prepare` again" in message


def test_vectors_are_not_made_with_an_encoder_that_has_changed(config, prepared, tmp_path):
    chosen = encoder_of(prepared, tmp_path)
    shutil.rmtree(prepared / "vectors")
    (tmp_path / "encoder" / "tokenizer.json").write_text("{}")
    assert "the data set was prepared with" in refusal(config, **chosen)


def test_vectors_that_cannot_be_made_are_named_before_ray_starts(config, prepared, checkpoint):
    shutil.rmtree(prepared / "vectors")
    assert "model.text.encoder=tiny: the model hub cannot be reached" in refusal(config)
    with pytest.raises(UserError, match="model hub cannot be reached or has no such encoder"):
        evaluate(checkpoint_config(checkpoint, {}), checkpoint)
    assert not ray.is_initialized()


def test_weights_of_another_shape(config: Config, checkpoint: Path):
    message = refusal(config, train__init_from=str(checkpoint), model__dim=32)
    assert "was trained with model.dim=64, this run has model.dim=32" in message


def test_a_frozen_encoder_may_be_trained_further_and_a_trained_one_may_not_be_frozen(
    config, prepared, checkpoint, tmp_path
):
    chosen = {"model.text.encoder": encoder_of(prepared, tmp_path)["model__text__encoder"]}
    trained = {"model.text.trainable_layers": 2, "model.text.lora_rank": 4}
    start = {"train.init_from": str(checkpoint)}
    check_config(override(config, chosen, trained, start))

    (checkpoint / "config.yaml").write_text(to_yaml(override(config, chosen, trained)))
    check_config(override(config, chosen, trained, start))
    frozen = override(config, chosen)
    message = refusal(frozen, train__init_from=str(checkpoint))
    assert "was trained with model.text.trainable_layers=2, this run has" in message
    message = refusal(frozen, train__init_from=str(checkpoint), model__text__trainable_layers=2)
    assert "was trained with model.text.lora_rank=4, this run has model.text.lora_rank=0" in message


def test_weights_of_another_data_set(config: Config, checkpoint: Path, prepared: Path):
    tree = json.loads((prepared / "manifest.json").read_text())
    (prepared / "manifest.json").write_text(json.dumps(tree | {"fingerprint": "a" * 64}))
    message = refusal(config, train__init_from=str(checkpoint))
    assert "was trained on data with fingerprint ffffffffffff" in message


def test_a_damaged_checkpoint(config: Config, checkpoint: Path):
    (checkpoint / "model.pt").write_bytes(b"PK, and then nothing")
    assert "model.pt is damaged" in refusal(config, train__init_from=str(checkpoint))
    with pytest.raises(ValueError, match=r"model\.pt is damaged"):
        evaluate(config, checkpoint)


def test_a_directory_that_is_no_checkpoint(config: Config, checkpoint: Path):
    shutil.rmtree(checkpoint)
    assert "is not a directory" in refusal(config, train__init_from=str(checkpoint))
    checkpoint.mkdir()
    assert "neither a checkpoint nor" in refusal(config, train__init_from=str(checkpoint))


def test_k_alone_is_enough(config: Config):
    checked, _ = check_config(override(config, {"eval.k": 20}))
    assert checked.eval.objective_at_k == "ndcg_at_20"


def test_an_objective_that_is_not_measured(config: Config):
    assert "eval.objective=gini is not measured; allowed: ndcg, recall" in refusal(
        config, eval__objective="gini"
    )


def test_more_cpus_than_there_are(config: Config):
    asked = override(config, {"scaling.num_workers": 4, "scaling.cpus_per_worker": 2.0})
    with pytest.raises(ValueError, match=r"2\.0 times 4 workers is more than Ray's 2 CPUs"):
        cpus_per_worker(asked, {"CPU": 2.0})
    enough = override(config, {"scaling.num_workers": 2, "scaling.cpus_per_worker": 1.0})
    assert cpus_per_worker(enough, {"CPU": 2.0}) == 1.0
    on_gpus = override(config, {"scaling.num_workers": 4, "scaling.use_gpu": True})
    with pytest.raises(ValueError, match="needs 4 GPUs, Ray has 1"):
        cpus_per_worker(on_gpus, {"CPU": 2.0, "GPU": 1.0})


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
@pytest.mark.parametrize("concurrent", [1, 2, 5])
def test_workers_that_ask_for_nothing_fit_side_by_side(config: Config, num_workers, concurrent):
    asked = override(config, {"scaling.num_workers": num_workers})
    each = cpus_per_worker(asked, {"CPU": 2.0}, concurrent)
    assert 0 < each <= 1
    assert each * num_workers * concurrent <= 1.6  # a fifth is left to other jobs
    assert each == 1 or (each + 0.01) * num_workers * concurrent > 1.6


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train", [], "error: data.prepared is not set"),
        ("train", ["tracking.uri=file:///runs"], "error: tracking.uri=file:///runs is not a store"),
        ("tune", ["--space", "tradeof"], "error: --space tradeof is unknown; allowed: "),
        ("tune", ["--space", "smoke"], "error: data.prepared is not set"),
        (
            "tune",
            ["--space", "smoke", "eval.k=5", "eval.objective=ndcg_at_10"],
            "error: eval.objective=ndcg_at_10 names a cut-off",
        ),
        (
            "evaluate",
            ["--checkpoint", "/nowhere"],
            "error: --checkpoint=/nowhere is not a directory",
        ),
    ],
)
def test_the_command_line_answers_with_status_2(
    run, prepared, tmp_path, script, arguments, message
):
    if "not set" not in message and script != "evaluate":
        places = [f"data.prepared={prepared}", f"run.storage={tmp_path}"]
        arguments = [*arguments, *places, "model.text.encoder=tiny"]
    done = run(script, *arguments)
    assert done.status == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_of_a_baseline_are_no_start_of_a_training(config, checkpoint):
    fitted = override(config, {"model.kind": "popular"})
    (checkpoint / "config.yaml").write_text(to_yaml(fitted))
    message = refusal(config, train__init_from=str(checkpoint))
    assert "model.kind='popular'" in message
    assert "model.kind='neural'" in message


def test_evaluation_does_not_change_the_kind_of_model(checkpoint):
    with pytest.raises(ValueError, match=r"model\.kind=ease.*model\.kind=neural"):
        checkpoint_config(checkpoint, {"model.kind": "ease"})


def test_slates_that_hold_the_whole_catalogue_are_named(config, manifest, caplog):
    for k in (manifest.num_items, manifest.num_items - 1):
        check_config(override(config, {"eval.k": k, "rerank.num_candidates": k}))
    small = [said for said in caplog.messages if "the catalogue has" in said]
    assert len(small) == 1
    assert small[0].startswith(f"eval.k={manifest.num_items}: the catalogue has")


def test_an_unknown_kind_of_model_names_those_there_are():
    with pytest.raises(ValueError, match=r"model\.kind.*'popular'.*'ease'"):
        override(Config(), {"model.kind": "slim"})


@pytest.mark.parametrize(
    ("changes", "idle"),
    [
        ({"model.kind": "popular"}, []),
        ({"model.kind": "ease", "model.baseline.ridge": 9.0, "train.max_failures": 0}, []),
        ({"model.kind": "ease", "eval.batch_size": 5, "rerank.method": "mmr", "seed": 3}, []),
        (
            {"model.kind": "ease", "loss.diversity_weight": 0.3, "train.epochs": 3, "model.dim": 8},
            ["model.dim", "loss.diversity_weight", "train.epochs"],
        ),
        (
            {"model.kind": "ease", "model.baseline.shrinkage": 1.0, "model.text.enabled": False},
            ["model.baseline.shrinkage", "model.text.enabled"],
        ),
        (
            {"model.text.enabled": False, "model.baseline.alpha": 0.5, "train.epochs": 3},
            ["model.baseline.alpha"],
        ),
    ],
)
def test_keys_of_another_kind_of_model_are_named_once(config, caplog, changes, idle):
    check_config(override(config, {"model.text.encoder": "all-MiniLM-L6-v2", **changes}))
    said = [record.getMessage() for record in caplog.records if "model.kind=" in record.message]
    kind = changes.get("model.kind", "neural")
    assert said == ([f"{', '.join(idle)}: no effect with model.kind={kind}"] if idle else [])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train.precision": "bf16"}, "train.precision=bf16 on the CPU"),
        ({"train.compile": True}, "train.compile=true on the CPU"),
        (
            {"loss.relevance": "sampled_softmax", "loss.softmax_max_items": 5},
            "no effect with loss.relevance=sampled_softmax",
        ),
        ({"loss.diversity_warmup": 0.5}, "loss.diversity_warmup: no effect with loss.div"),
        (
            {"scaling.shard_encoder": True, "model.text.trainable_layers": 1},
            "scaling.shard_encoder: no effect with scaling.num_workers=1",
        ),
    ],
)
def test_settings_that_buy_nothing_are_named(
    config, prepared, tmp_path, monkeypatch, caplog, changes, named
):
    encoder_of(prepared, tmp_path, "tiny")
    monkeypatch.chdir(tmp_path)
    plain = {"scaling.num_workers": 1, "loss.diversity_weight": 0.0}
    check_config(override(config, plain))
    assert named not in caplog.text
    check_config(override(config, {**plain, **changes}))
    assert named in caplog.text


def refused_space(config: Config, **changes: object) -> str:
    """Return what a sweep says of a space; Ray would take seconds to start."""
    space = SearchSpace(
        description="bad",
        parameters={"loss.diversity_weight": tune.uniform(0.0, 0.5)},
        objectives=(
            Objective("val/ndcg_at_10", "max", 0.0),
            Objective("val/ild_at_10", "max", 0.0),
        ),
        search="tpe",
    )
    with pytest.raises(ValueError, match="--space bad") as refused:
        sweep.run(config, replace(space, **changes), "bad")
    assert not ray.is_initialized()
    return str(refused.value)


def test_a_grid_for_a_search(config: Config):
    grid = {"loss.diversity_weight": tune.grid_search([0.1, 0.2])}
    assert "cannot be searched by tpe" in refused_space(config, parameters=grid)


def test_a_constraint_at_another_cut_off(config: Config):
    constraints = (Constraint("val/ndcg_at_5", at_least=0.9),)
    assert "write val/ndcg, which follows eval.k" in refused_space(config, constraints=constraints)


@pytest.mark.parametrize("metric", ["val/gini_at_10", "ndcg_at_10"])
def test_a_constraint_on_what_is_not_measured_or_better_when_lower(config: Config, metric: str):
    message = refused_space(config, constraints=(Constraint(metric, at_least=0.9),))
    assert f"constrains {metric}" in message
    assert "val/ndcg_at_10" in message


def test_a_constraint_without_a_baseline(config: Config):
    dialled = override(
        config, {"loss.conditioned": True, "loss.diversity_weight": 0.3, "train.epochs": 0}
    )
    kept = (Constraint("val/ndcg_at_10", at_least=0.9),)
    assert "no baseline" in refused_space(dialled, constraints=kept)
