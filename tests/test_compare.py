"""Runs compared from checkpoints on disk: found, refused, judged, and said."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recdiv_core.config import Config, override
from recdiv_core.errors import UserError
from recdiv_core.evaluation import per_user
from recdiv_core.evaluation.compare import check_call, compare
from recdiv_core.evaluation.compare_text import comparison_sentence, front_sentence, table
from recdiv_core.evaluation.evaluate import tally_split
from recdiv_core.evaluation.systems import check_comparable, find_run
from recdiv_core.metrics.tally import USER_METRICS, finish
from recdiv_core.models.baselines.popularity import fit_popular
from recdiv_core.release.gate import pass_gate
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, TRAIN_EXAMPLE, read_manifest
from recdiv_core.slates.checkpoint import Progress, save_checkpoint
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import build_model, load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from recdiv_core.tracking.runs import start_run
from tests.worlds import write_dataset

NUM_ITEMS, NUM_USERS = 60, 40
SMALL = {"model.dim": 8, "model.num_layers": 1, "model.max_history": 5, "eval.k": 4}


def nowhere():
    raise AssertionError("MLflow is asked for ids alone")


@pytest.fixture(scope="module")
def shop(tmp_path_factory, manifest):
    """Return a prepared data set with a test split, and a directory of trained runs."""
    prepared = tmp_path_factory.mktemp("prepared")
    sizes = {"train": 0, "val": 0, "test": NUM_USERS}
    own = manifest.model_copy(update={"num_examples": sizes})
    write_dataset(prepared, own, num_items=NUM_ITEMS, num_queries=2)
    rng = np.random.default_rng(0)
    rows = [
        {
            "user_id": f"u{user}",
            "history": rng.integers(0, NUM_ITEMS, rng.integers(0, 9)).tolist(),
            "targets": rng.permutation(NUM_ITEMS)[: rng.integers(1, 5)].tolist(),
            "query": NO_QUERY,
            "is_cold_user": False,
        }
        for user in range(NUM_USERS)
    ]
    for name in ("tokens.arrow", "queries.arrow"):
        (prepared / name).touch()
    for split, schema in (("train", TRAIN_EXAMPLE), ("val", EVAL_EXAMPLE), ("test", EVAL_EXAMPLE)):
        (prepared / split).mkdir()
        table = pa.Table.from_pylist(rows if split == "test" else [], schema)
        pq.write_table(table, prepared / split / "part-0.parquet", row_group_size=16)
    return prepared, tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run_of(shop):
    """Return what writes a finished run of other weights, and its directory."""
    prepared, runs = shop
    manifest, dataset = read_manifest(prepared), load_dataset(prepared)

    def write(name, seed, **changes):
        config = override(
            Config(),
            {**SMALL, "data.prepared": str(prepared), "run.name": name, "run.storage": str(runs)},
        )
        config = override(config, {k.replace("__", "."): v for k, v in changes.items()})
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # noqa: TID251
            model = build_model(config, dataset)
        checkpoint = runs / name / "checkpoint_1"
        checkpoint.mkdir(parents=True, exist_ok=True)
        save_checkpoint(
            checkpoint,
            config=config,
            manifest=manifest,
            progress=Progress(is_finished=True),
            weights=model.state_dict(),
            training={},
        )
        return str(runs / name)

    return write


@pytest.fixture(scope="module")
def plain(run_of):
    return run_of("plain", 0)


@pytest.fixture(scope="module")
def wide(run_of):
    return run_of("wide", 1)


@pytest.fixture(scope="module")
def popular(shop):
    """Return the directory of a finished baseline."""
    prepared, runs = shop
    manifest, dataset = read_manifest(prepared), load_dataset(prepared)
    config = override(Config(), {**SMALL, "model.kind": "popular", "data.prepared": str(prepared)})
    checkpoint = runs / "popular" / "checkpoint_1"
    checkpoint.mkdir(parents=True)
    save_checkpoint(
        checkpoint,
        config=config,
        manifest=manifest,
        progress=Progress(is_finished=True),
        weights=fit_popular(dataset.catalogue.popularity_V),
        training={},
    )
    return str(runs / "popular")


@pytest.fixture(scope="module")
def compared(plain, wide):
    fronts = [f"one={plain},{wide}", f"other={plain},{plain}+rerank.method=mmr+rerank.diversity=1"]
    return compare(Config(), [plain, wide], fronts, {}, num_resamples=1000)


def test_figures_are_those_of_evaluate(compared, plain, shop):
    found, dataset = find_run(plain, {}, nowhere), load_dataset(shop[0])
    model = build_model(found.config, dataset)
    model.load_state_dict(torch.load(found.checkpoint / "model.pt", weights_only=True))
    share = held_out_of_split(model, dataset, "test", found.config)
    sums = tally_split(share, dataset, slate_policy(found.config, dataset))
    assert compared["figures"][plain] == pytest.approx(finish(sums), abs=1e-9)
    assert (compared["k"], compared["num_users"]) == (4, int(sums.num_users))


def test_the_result_is_one_line_of_json(compared):
    assert json.loads(json.dumps(compared, allow_nan=False)) == compared


def test_claims_alone_carry_p_values_and_all_of_them_are_counted(compared):
    metrics = compared["comparisons"][0]["metrics"]
    assert [name for name, entry in metrics.items() if "p" in entry] == [
        "ndcg_at_4",
        "ild_at_4",
        "coverage_at_4",
    ]
    assert "after Holm over 11 claims" in compared["comparisons"][0]["sentence"]


def test_the_difference_is_of_the_figures_and_lies_in_its_interval(compared, plain, wide):
    for name, entry in compared["comparisons"][0]["metrics"].items():
        before, behind = (compared["figures"][run][name] for run in (plain, wide))
        assert entry["difference"] == pytest.approx(behind - before)
        assert entry["low"] <= entry["difference"] <= entry["high"]


def test_a_setting_of_one_run_alone_moves_its_slates(compared, plain):
    before, behind = (
        compared["figures"][name]
        for name in (plain, f"{plain}+rerank.method=mmr+rerank.diversity=1")
    )
    assert behind["ild_at_4"] > before["ild_at_4"]


def test_a_front_is_matched_at_the_accuracy_of_the_first_run(compared, plain):
    (front,) = compared["fronts"]
    assert front["accuracy_of"] == plain
    assert list(front["axes"]) == ["coverage_at_4", "ild_at_4"]
    assert list(front["axes"]["ild_at_4"]) == ["hypervolume", "99%", "95%", "90%"]


def test_a_run_against_itself_differs_in_nothing(plain):
    again = f"{plain}+rerank.diversity=0"
    result = compare(Config(), [plain, again], [], {}, num_resamples=1000)
    for entry in result["comparisons"][0]["metrics"].values():
        assert entry["difference"] == 0
        assert (entry["low"], entry["high"]) == pytest.approx((0, 0), abs=1e-8)
    assert "cannot be distinguished from 0" in result["comparisons"][0]["sentence"]


def test_a_split_with_one_user_is_refused_because_a_difference_has_no_interval(
    plain, wide, monkeypatch
):
    judge = per_user.judge_users

    def judge_one(*given, **named):
        judged = judge(*given, **named)
        one = {name: values[:1] for name, values in judged.users.items()}
        return replace(judged, users=one, slates_UK=judged.slates_UK[:1])

    monkeypatch.setattr(per_user, "judge_users", judge_one)
    with pytest.raises(UserError, match=r"one user of the test split .* split\.test_days"):
        per_user.judge_systems([find_run(run, {}, nowhere) for run in (plain, wide)], "test")


def test_narrowed_of_nobody_is_left_out_and_nothing_is_claimed_of_it(plain, wide, monkeypatch):
    nobody = {**USER_METRICS, "narrowed": lambda seen: torch.full((seen.num_users,), torch.nan)}
    monkeypatch.setattr("recdiv_core.evaluation.per_user.USER_METRICS", nobody)
    result = compare(Config(), [plain, wide], [], {}, num_resamples=1000, claims=["narrowed"])
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert "narrowed_at_4" not in result["figures"][plain]
    (comparison,) = result["comparisons"]
    assert set(comparison["metrics"]["narrowed_at_4"].values()) == {None}
    assert comparison["sentence"] == "wide: no user has a claimed metric; nothing to claim."
    assert "\nnarrowed_at_4 " in table(result)


def test_the_gate_keeps_a_share_of_the_users_who_are_not_narrowed(plain, wide, compared):
    runs = [find_run(run, {}, nowhere) for run in (plain, wide)]
    rows = [pass_gate(*runs, {"narrowed": floor}, "test")[0] for floor in (0.1, 1.9)]
    kept = [1 - compared["figures"][run]["narrowed_at_4"] for run in (plain, wide)]
    assert [rows[0]["champion"], rows[0]["candidate"]] == pytest.approx(kept)
    assert rows[0]["share_low"] < kept[1] / kept[0]
    assert [row["passes"] for row in rows] == [True, False]


@pytest.fixture(scope="module")
def production(plain, shop, tmp_path_factory):
    """Return the slates of the plain model as another system would hand them over."""
    run, dataset = find_run(plain, {}, nowhere), load_dataset(shop[0])
    ids = dataset.catalogue.item_ids.to_pylist()
    model = load_model(run.config, dataset, run.checkpoint)
    rows = [
        {"user_id": user, "item_ids": [ids[item] for item in slate if item >= 0]}
        for held_out in held_out_of_split(model, dataset, "test", run.config)
        for user, slate in zip(
            held_out.examples.user_ids,
            held_out.slates(dataset, slate_policy(run.config, dataset))[0].tolist(),
            strict=True,
        )
    ]
    place = tmp_path_factory.mktemp("production")
    pq.write_table(pa.Table.from_pylist(rows), place / "part-0.parquet")
    return f"slates:{place}"


def test_slates_of_another_system_compare_like_a_run(compared, plain, wide, production):
    result = compare(Config(), [production, wide], [], {}, num_resamples=1000)
    assert result["figures"][production] == compared["figures"][plain]
    found, expected = (each["comparisons"][0]["metrics"] for each in (result, compared))
    for name, entry in found.items():
        assert entry["difference"] == expected[name]["difference"]
    ild = "ild_at_4"
    assert [found[ild][end] for end in ("low", "high")] == pytest.approx(
        [expected[ild][end] for end in ("low", "high")]
    )


def test_slates_that_cannot_hit_are_no_proof_of_a_difference(plain, shop, tmp_path, caplog):
    ids = load_dataset(shop[0]).catalogue.item_ids.to_pylist()
    rows = [
        {"user_id": row["user_id"], "item_ids": [ids[item] for item in row["history"][:4]]}
        for row in pq.read_table(shop[0] / "test").to_pylist()
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part-0.parquet")
    compare(Config(), [f"slates:{tmp_path}", plain], [], {}, num_resamples=1000)
    assert f"slates:{tmp_path}: no slate has an item that the test split holds out" in caplog.text


def test_slates_alone_compare_on_the_prepared_data_set_that_is_named(production, shop, plain):
    place = production.removeprefix("slates:")
    other = f"slates:{place}/part-0.parquet"
    settings = {"data.prepared": str(shop[0]), "eval.k": 4}
    result = compare(Config(), [production, other], [], settings, num_resamples=1000)
    assert all(e["difference"] == 0 for e in result["comparisons"][0]["metrics"].values())
    with pytest.raises(ValueError, match=r"data\.prepared is not set"):
        compare(Config(), [production, other], [], {})


def test_attributes_that_the_catalogue_lacks_are_refused(plain):
    spread = f"{plain}+rerank.method=alpha+rerank.attributes.colour=1"
    with pytest.raises(ValueError, match="no column 'colour'"):
        compare(Config(), [plain, spread], [], {})


def test_a_baseline_compares_like_any_run(plain, popular):
    result = compare(Config(), [plain, popular], [], {}, num_resamples=1000)
    coverage = result["figures"][popular]["coverage_at_4"]
    assert 0 < coverage < result["figures"][plain]["coverage_at_4"]


def test_seeds_are_paired_and_their_spread_stands_beside(plain, wide, run_of):
    third, fourth = run_of("third", 2), run_of("fourth", 3)
    groups = [f"{plain},{third}", f"{wide},{fourth}"]
    result = compare(Config(), groups, [], {}, num_resamples=1000)
    entry = result["comparisons"][0]["metrics"]["ild_at_4"]
    figures = {run: found["ild_at_4"] for run, found in result["figures"].items()}
    gains = [figures[wide] - figures[plain], figures[fourth] - figures[third]]
    assert entry["by_seed"] == pytest.approx(gains)
    assert entry["difference"] == pytest.approx(np.mean(gains))
    assert entry["sd_of_seeds"] == pytest.approx(np.std(gains, ddof=1))
    assert "wide,fourth has" in result["comparisons"][0]["sentence"]
    assert "in the mean of 2 seeds" in result["comparisons"][0]["sentence"]


def test_the_table_has_a_row_a_metric_and_the_sentence(compared):
    text = table(compared)
    assert "wide against plain" in text
    assert "front other against front one; % = share of the accuracy of plain" in text
    for name in compared["comparisons"][0]["metrics"]:
        assert f"\n{name} " in text
    assert compared["comparisons"][0]["sentence"] in text


def entry(percent, low, high, p_holm, **more):
    return {
        "difference": percent / 100,
        "percent": percent,
        "percent_low": low,
        "percent_high": high,
        "p": p_holm,
        "p_holm": p_holm,
        **more,
    }


def test_the_sentence_says_what_is_bought_for_what():
    metrics = {
        "ndcg": entry(-1.1, -2.0, -0.2, 0.04),
        "ild": {"difference": 1.0},
        "coverage": entry(12.3, 11.0, 13.6, 0.001),
    }
    made = {"other": "runs/b", "metrics": metrics}
    assert comparison_sentence(made, {"runs/b": "b"}, 8) == (
        "b has 12.3 % more [+11.0, +13.6] coverage for 1.1 % less [-2.0, -0.2] NDCG; both hold "
        "after Holm over 8 claims."
    )


def test_the_sentence_names_a_seed_that_points_elsewhere():
    metrics = {
        "ndcg": entry(1.0, 0.5, 1.5, 0.01, by_seed=[0.02, -0.001, 0.01]),
        "ild": entry(-2.0, -3.0, -1.0, 0.3, by_seed=[-0.02, -0.02, -0.02]),
    }
    said = comparison_sentence({"other": "b", "metrics": metrics}, {"b": "b"}, 2)
    assert "in the mean of 3 seeds, with the same sign in 2 for NDCG; " in said
    assert said.endswith(
        "NDCG holds, ILD cannot be distinguished from 0, after Holm over 2 claims."
    )


def test_the_sentence_of_fronts_says_where_one_does_not_reach():
    missing = dict.fromkeys(("difference", "percent", "percent_low", "percent_high", "p"))
    axes = {"ild": {"hypervolume": entry(5, 4, 6, 0.01), "99%": missing}}
    assert front_sentence({"other": "ours", "axes": axes}, 3) == (
        "ours has, in ILD: 5.0 % more [+4.0, +6.0] hypervolume, nothing to compare at 99%, because "
        "a front does not reach it. Of these 1 of 1 hold after Holm over 3 claims."
    )


def test_a_run_is_a_directory_a_checkpoint_or_an_id(plain, mlflow_uri, manifest):
    by_directory = find_run(plain, {"eval.k": 7}, nowhere)
    by_checkpoint = find_run(f"{plain}/checkpoint_1", {}, nowhere)
    assert by_directory.checkpoint == by_checkpoint.checkpoint
    assert by_directory.config.eval.k == 7
    config = override(by_checkpoint.config, {"tracking.uri": mlflow_uri})
    handle = start_run(config, name="plain", kind="train", manifest=manifest)
    by_id = find_run(handle.run_id, {}, lambda: mlflow_uri)
    assert by_id.checkpoint == by_checkpoint.checkpoint


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("-not", "allowed: the directory of a training run"),
        ("+eval.k=3", "eval.k=3 cannot be set for one run alone"),
        ("+rerank.methd=mmr", "unknown key 'rerank.methd'; did you mean 'rerank.method'"),
        ("+model.diversity=0.5", "needs a model with loss.conditioned=true"),
    ],
)
def test_a_run_that_is_not_one_is_refused(plain, suffix, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        find_run(plain + suffix, {}, nowhere)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval__k": 5}, r"it differs in eval\.k: 5, not 4"),
        ({"eval__max_users": 3}, r"users that are evaluated: \{'test': 3\}, not all"),
        ({"eval__filter_seen": False}, r"it differs in eval\.filter_seen: False, not True"),
    ],
)
def test_runs_that_are_measured_otherwise_are_refused(plain, run_of, changes, message):
    other = run_of("otherwise", 4, **changes)
    with pytest.raises(ValueError, match=message):
        check_comparable([find_run(run, {}, nowhere) for run in (plain, other)])
    key, value = next(iter(changes.items()))
    alike = [find_run(run, {key.replace("__", "."): value}, nowhere) for run in (plain, other)]
    check_comparable(alike)


def test_runs_that_both_evaluate_all_users_are_compared_whatever_their_limit(plain, run_of):
    other = run_of("without a limit", 4, eval__max_users=0)
    check_comparable([find_run(run, {}, nowhere) for run in (plain, other)])


def test_runs_of_other_data_are_refused_with_all_that_differs(plain, run_of, shop, tmp_path):
    tree = json.loads((shop[0] / "manifest.json").read_text())
    changed = {"fingerprint": "a" * 64, "num_items": 61, "split": {"protocol": "temporal"}}
    (tmp_path / "manifest.json").write_text(json.dumps(tree | changed))
    other = run_of("elsewhere", 5, data__prepared=str(tmp_path))
    path = find_run(other, {}, nowhere).checkpoint / "checkpoint.json"
    progress = json.loads(path.read_text())
    path.write_text(json.dumps(progress | {"manifest_fingerprint": "a" * 64}))
    with pytest.raises(ValueError, match="elsewhere does not compare with") as refused:
        check_comparable([find_run(run, {}, nowhere) for run in (plain, other)])
    for difference in (
        "manifest fingerprint: aaaaaaaaaaaa (shop), not ffffffffffff (shop)",
        "split.protocol: temporal, not leave_last_out",
        "items that may be recommended: 61, not 60",
    ):
        assert difference in str(refused.value)


@pytest.mark.parametrize(
    ("groups", "sides", "claims", "message"),
    [
        ([("a", "b"), ("c",)], {}, ["ndcg"], "groups of seeds must have the same size, got 2, 1"),
        ([("a", "a"), ("b", "c")], {}, ["ndcg"], "a,a: an empty name, or a run given twice"),
        ([("a",), ("",)], {}, ["ndcg"], "an empty name"),
        ([("a",), ("b",)], {}, ["ild", "ild"], "--claims ild,ild: allowed, once each"),
        ([], {"x": ("a",), "y": ("b",)}, ["ndcg", "gini"], "names no axis for --front beside ndcg"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(groups, sides, claims, message):
    with pytest.raises(ValueError, match=message):
        check_call(groups, sides, len(sides), claims, 1000)


def test_too_few_resamples_are_refused():
    with pytest.raises(ValueError, match="--resamples 100: allowed is 1000 or more"):
        check_call([("a",), ("b",)], {}, 0, ["ndcg"], 100)


@pytest.mark.parametrize("text", ["runs/a", "=runs/a", "x="])
def test_a_front_without_name_or_runs_is_refused(text):
    with pytest.raises(ValueError, match="is not NAME=RUN,RUN"):
        compare(Config(), [], [text, "y=runs/b"], {})


def test_runs_with_other_eligible_items_do_not_compare(plain, wide, tmp_path):
    (tmp_path / "block.txt").write_text("i1\n")
    changes = {"eligible.block": str(tmp_path / "block.txt")}
    limited = find_run(wide, changes, nowhere)
    with pytest.raises(ValueError, match=r"differs in eligible: 59 items .*, not dates=True"):
        check_comparable([find_run(plain, {}, nowhere), limited])
    check_comparable([find_run(plain, changes, nowhere), limited])
