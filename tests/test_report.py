"""The report of sweeps that were written to a real MLflow store through tracking."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args
from urllib.parse import parse_qs

import pytest
from mlflow import MlflowClient

from recdiv_core.config import DIALS_FILE, Config, ModelKind, override, parse_dial
from recdiv_core.report import dashboard
from recdiv_core.report.dashboard import trials_path, trials_url
from recdiv_core.report.front_plots import BASELINES
from recdiv_core.report.report import report
from recdiv_core.schema import Manifest
from recdiv_core.tracking import runs as tracking
from recdiv_core.tracking.find import chosen_run
from recdiv_core.tracking.runs import RunHandle
from recdiv_core.training.callback import log_report

OBJECTIVES = [
    {"metric": "val/ndcg_at_10", "direction": "max", "reference": 0.0},
    {"metric": "val/coverage_at_10", "direction": "max", "reference": 0.0},
]
FIGURES = {0.0: (0.050, 0.40), 0.3: (0.049, 0.55), 0.5: (0.045, 0.50), 0.9: (0.030, 0.60)}
HOSTILE = "\u30c6\u30b9\u30c8 </script><script>alert(1)</script> & <b>"


def write_trial(
    config: Config,
    weight: float,
    name: str,
    sweep: RunHandle,
    manifest: Manifest,
    more: float = 0.0,
):
    config = override(config, {"loss.diversity_weight": weight})
    trial = tracking.start_run(
        config, name=name, kind="trial", manifest=manifest, parent_run_id=sweep.run_id
    )
    ndcg, coverage = FIGURES[weight]
    ndcg += more
    for epoch in range(2):
        share = (epoch + 1) / 2
        tracking.log_metrics(
            trial,
            {
                "train/loss": 5.0 - epoch,
                "val/ndcg_at_10": share * ndcg,
                "val/coverage_at_10": share * coverage,
            },
            step=epoch,
        )
    best = {"best/val/ndcg_at_10": ndcg, "best/val/coverage_at_10": coverage, "best/epoch": 1}
    best |= {"best/val/ild_at_10": 0.5 + coverage / 10}
    best |= {"test/ndcg_at_10": 0.9 * ndcg, "test/coverage_at_10": 0.9 * coverage}
    tracking.log_metrics(trial, best, step=1)
    tracking.finish_run(trial, "FINISHED")


def write_sweep(
    config: Config,
    manifest: Manifest,
    name: str,
    trials: dict[str, float],
    *,
    is_one_lost: bool = False,
    **more: str,
):
    sweep = tracking.start_run(
        config,
        name=name,
        kind="sweep",
        manifest=manifest,
        tags={
            "recdiv.space": "tradeoff",
            "recdiv.objectives": json.dumps(OBJECTIVES),
            "recdiv.parameters": json.dumps(["loss.diversity_weight"]),
            **{f"recdiv.{key}": text for key, text in more.items()},
        },
    )
    for trial_name, weight in trials.items():
        write_trial(config, weight, trial_name, sweep, manifest)
    if is_one_lost:
        failed = tracking.start_run(
            config, name="lost", kind="trial", manifest=manifest, parent_run_id=sweep.run_id
        )
        tracking.finish_run(failed, "FAILED")
    tracking.finish_run(sweep, "FINISHED")
    return sweep


@pytest.fixture(scope="module")
def config(mlflow_uri: str, tmp_path_factory) -> Config:
    storage = str(tmp_path_factory.mktemp("runs"))
    return override(Config(), {"tracking.uri": mlflow_uri, "run.storage": storage})


@pytest.fixture(scope="module")
def sweep(config: Config, manifest: Manifest) -> RunHandle:
    trials = {"plain": 0.0, HOSTILE: 0.3, "between": 0.5, "wide": 0.9}
    return write_sweep(config, manifest, f"first {HOSTILE}", trials, is_one_lost=True)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, for tests of figures alone: a page and a picture take longer than a sweep."""
    monkeypatch.setattr("recdiv_core.report.report.sweep_page", lambda *_: "")
    monkeypatch.setattr("recdiv_core.report.report.draw_png", lambda *given: given[-1].touch())


def report_without_png(*given, **options) -> dict:
    """Make a report without its PNG, which takes as long as the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recdiv_core.report.report.draw_png", lambda *given: given[-1].touch())
        return report(*given, **options)


@pytest.fixture(scope="module")
def made(config: Config, sweep: RunHandle) -> dict:
    return report(config, parent_run_id=sweep.run_id)


@pytest.fixture(scope="module")
def page(made: dict) -> str:
    return Path(made["report"]).read_text(encoding="utf-8")


class Outline(HTMLParser):
    """The text outside scripts, the table rows of trials, and every address that is named."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.addresses, self.row_classes, self.scripts = "", [], [], 0

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.addresses += [values[key] for key in ("src", "href") if key in values]
        self.scripts += tag == "script"
        if tag == "tr" and "class" in values:
            self.row_classes.append(values["class"])

    def handle_data(self, data):
        if self.lasttag != "script":
            self.text += data


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    return parser


def test_the_front_comes_with_params_and_figures(made):
    assert [entry["name"] for entry in made["front"]] == ["plain", HOSTILE, "wide"]
    assert made["front"][1]["params"] == {"loss.diversity_weight": 0.3}
    assert made["front"][1]["val"]["ndcg_at_10"] == 0.049
    assert made["front"][1]["test"]["coverage_at_10"] == pytest.approx(0.9 * 0.55)


def test_hypervolume_and_knee_are_those_of_the_figures(made):
    area = 0.050 * 0.40 + 0.049 * 0.15 + 0.030 * 0.05
    assert made["hypervolume"] == pytest.approx(area)
    assert made["hypervolume_test"] == pytest.approx(0.81 * area)
    assert made["knee"]["name"] == HOSTILE


def test_the_result_is_one_line_of_json(made):
    assert "\n" not in json.dumps(made, allow_nan=False)
    assert made.keys() >= {"experiment", "tracking_uri", "front", "hypervolume", "knee", "report"}


def test_files_are_named_after_the_sweep(made, config):
    directory = Path(made["report"]).parent
    assert directory.parent == Path(config.run.storage) / "reports"
    assert directory.name.startswith("first_")


def test_page_and_picture_are_artefacts_of_the_parent_run(made, sweep, tmp_path):
    client = MlflowClient(tracking_uri=sweep.uri)
    paths = [entry.path for entry in client.list_artifacts(sweep.run_id, "report")]
    assert paths == ["report/front.png", "report/report.html"]
    copy = client.download_artifacts(sweep.run_id, "report/report.html", str(tmp_path))
    assert Path(copy).read_bytes() == Path(made["report"]).read_bytes()


def test_the_parent_run_holds_hypervolume_and_knee(made, sweep):
    data = MlflowClient(tracking_uri=sweep.uri).get_run(sweep.run_id).data
    assert data.metrics["hypervolume"] == made["hypervolume"]
    assert data.tags["recdiv.knee"] == made["knee"]["run_id"]
    assert "\n| w = 0 |" in data.tags["mlflow.note.content"]
    assert "\n| 97 % (recommended) |" in data.tags["mlflow.note.content"]


@pytest.mark.usefixtures("without_pictures")
def test_the_recommended_trial_carries_a_tag_that_moves_with_the_choice(config, manifest, tmp_path):
    own = manifest.model_copy(update={"name": "moving"})
    sweep = write_sweep(config, own, "moving", {"plain": 0.0, "near": 0.3, "far": 0.5})
    client = MlflowClient(tracking_uri=sweep.uri)

    def tagged(made: dict) -> list[str]:
        runs = client.search_runs(
            [sweep.experiment_id], f"tags.`mlflow.parentRunId` = '{sweep.run_id}'"
        )
        assert client.get_run(sweep.run_id).data.tags["recdiv.recommended"] == (
            made["recommended"]["run_id"] if made["recommended"] else ""
        )
        return [run.info.run_name for run in runs if "recdiv.recommended" in run.data.tags]

    again = {"parent_run_id": sweep.run_id, "out": tmp_path, "slates": False}
    made = report(config, **again)
    assert tagged(made) == ["near"]
    assert [point["keeps"] for point in made["operating_points"]] == [
        "w = 0",
        "97 % (recommended)",
        "95 %",
        "90 %",
    ]
    assert made["operating_points"][1]["metrics"]["coverage_at_10"]["percent"] == pytest.approx(
        37.5
    )
    made = report(config, keep=0.99, **again)
    assert (made["recommended"], made["nearest"]["name"]) == (None, "near")
    assert tagged(made) == []


def test_a_re_ranked_model_is_a_point_that_can_be_recommended(config, manifest, tmp_path, request):
    own = manifest.model_copy(update={"name": "re-ranked"})
    sweep = write_sweep(config, own, "re-ranked", {"plain": 0.0, "near": 0.3})
    client = MlflowClient(tracking_uri=sweep.uri)
    plain = client.search_runs([sweep.experiment_id], "attributes.run_name = 'plain'")[0].info
    metrics = {"ndcg_at_10": 0.0495, "coverage_at_10": 0.70, "ild_at_10": 0.6}
    entries = [
        {"settings": parse_dial("msd 0.2 logit 0.25"), "val": metrics, "test": metrics},
        {"settings": parse_dial("beam 0.1"), "val": metrics | {"ndcg_at_10": 0.01}, "test": {}},
    ]
    log_report(replace(sweep, run_id=plain.run_id), {DIALS_FILE: json.dumps(entries)})
    made = report(config, parent_run_id=sweep.run_id, out=tmp_path, slates=False)
    run = f"{plain.run_id}+rerank.method=msd+rerank.diversity=0.2+rerank.logit_adjustment=0.25"
    run += "+rerank.lift=0.0"
    assert (made["recommended"]["run"], made["num_trials"]) == (run, 2)
    assert made["operating_points"][1]["run"] == run
    assert [entry["run"] for entry in made["front"]] == [plain.run_id, run]
    tags = client.get_run(sweep.run_id).data.tags
    assert tags["recdiv.recommended"] == run
    assert "plain (w=0 msd 0.2 logit 0.25)" in tags["mlflow.note.content"]
    said = client.get_run(plain.run_id).data.tags["recdiv.recommended"]
    assert said == "keeps 97 % of val/ndcg_at_10, re-ranked by msd 0.2 logit 0.25"
    page = Path(made["report"]).read_text(encoding="utf-8")
    assert "re-ranked after training; 1\nsuch rows are on no front" in page
    assert chosen_run(sweep.uri, sweep.run_id) == run
    request.getfixturevalue("without_pictures")
    report(config, parent_run_id=sweep.run_id, out=tmp_path, slates=False, keep=0.9999)
    assert "recdiv.recommended" not in client.get_run(plain.run_id).data.tags
    with pytest.raises(ValueError, match="has no recommended trial: run `recdiv report"):
        chosen_run(sweep.uri, sweep.run_id)


def test_a_share_that_cannot_be_kept_is_refused_before_the_store_is_read():
    with pytest.raises(ValueError, match=r"--keep 1\.5: allowed"):
        report(Config(), keep=1.5)


@pytest.mark.usefixtures("without_pictures")
def test_the_parent_run_holds_the_hypervolume_over_the_course_of_the_trials(
    made, sweep, config, tmp_path
):
    client = MlflowClient(tracking_uri=sweep.uri)
    report(config, parent_run_id=sweep.run_id, out=tmp_path)  # logs nothing twice
    course = client.get_metric_history(sweep.run_id, "hypervolume/coverage_at_10")
    assert [point.step for point in course] == [1, 2, 3, 4]
    assert course[0].value == pytest.approx(0.050 * 0.40)
    assert course[-1].value == pytest.approx(made["hypervolume"])
    assert "hypervolume/ild_at_10" in client.get_run(sweep.run_id).data.metrics


def test_the_parent_run_holds_the_hypervolume_of_all_objectives_too(made, sweep):
    client = MlflowClient(tracking_uri=sweep.uri)
    together = client.get_metric_history(sweep.run_id, "front/hypervolume")
    pair = client.get_metric_history(sweep.run_id, "hypervolume/coverage_at_10")
    assert [(p.step, p.value) for p in together] == [(p.step, p.value) for p in pair]


def test_the_page_draws_what_each_trial_added(page, outline):
    assert "What each trial added" in outline.text
    assert "Hypervolume of NDCG@10, coverage@10 together" in " ".join(outline.text.split())
    assert '"text":"trials that ended"' in page


def test_what_breaks_a_constraint_is_listed_and_not_on_the_front(
    config, manifest, tmp_path, monkeypatch
):
    monkeypatch.setattr("recdiv_core.report.report.draw_png", lambda *given: given[-1].touch())
    least = json.dumps({"val/ndcg_at_10": 0.048})
    trials = {"plain": 0.0, "bent": 0.3, "wide": 0.9}
    constrained = write_sweep(config, manifest, "constrained", trials, least=least)
    found = report(config, parent_run_id=constrained.run_id, out=tmp_path)
    assert [entry["name"] for entry in found["front"]] == ["plain", "bent"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("finished, breaks a constraint</td>") == 1
    assert "1 of 3 finished trials break a constraint" in page


def test_the_page_needs_no_network(outline, page):
    inside = [address for address in outline.addresses if address.startswith("#")]
    assert set(outline.addresses) - set(inside) == {"data:,"}
    assert all(f'id="{address[1:]}"' in page for address in inside)


def test_names_cannot_write_html(outline, page):
    assert HOSTILE in outline.text
    assert "<script>alert(1)" not in page
    assert page.count("alert(1)</script>") == 0


def test_the_page_lists_all_trials_and_shades_the_front(outline):
    assert outline.row_classes == ["member", "member", "member", "finished", "failed"]


def test_the_page_opens_with_the_headline_and_the_notes(outline, made):
    assert made["headline"] in outline.text
    assert "+37.5 % coverage@10 for 2.0 % less NDCG@10" in made["headline"]
    assert "1 of 5 trials failed" in outline.text


def test_the_picture_is_a_png(made):
    assert Path(made["picture"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("without_pictures")
def test_the_newest_sweep_of_a_data_set_is_taken(config, manifest, tmp_path):
    other = manifest.model_copy(update={"name": "other"})
    write_sweep(config, other, "older", {})
    newest = write_sweep(config, other, "newest", {})
    made = report(override(config, {"data.name": "other"}), out=tmp_path / "deep" / "out")
    assert made["parent_run_id"] == newest.run_id
    assert made["report"] == str(tmp_path / "deep" / "out" / "report.html")


def test_a_sweep_without_a_finished_trial_still_has_a_page(config, manifest, tmp_path):
    sweep = write_sweep(config, manifest, "all failed", {}, is_one_lost=True)
    made = report(config, parent_run_id=sweep.run_id, out=tmp_path)
    assert (made["front"], made["knee"], made["hypervolume"]) == ([], None, 0.0)
    assert "No trial has finished" in (tmp_path / "report.html").read_text()


def test_no_sweep_says_what_to_run(config):
    with pytest.raises(ValueError, match=r"no sweep of data set 'none'.*recdiv tune"):
        report(override(config, {"data.name": "none"}))


def test_a_run_that_is_no_sweep_is_refused(config, manifest):
    run = tracking.start_run(config, name="alone", kind="train", manifest=manifest)
    with pytest.raises(ValueError, match="not a sweep"):
        report(config, parent_run_id=run.run_id)


def test_an_unknown_run_is_refused(config):
    with pytest.raises(ValueError, match="no run 0123"):
        report(config, parent_run_id="0123")


def test_a_missing_database_is_not_made(config, tmp_path):
    with pytest.raises(ValueError, match=r"no such database; run .*recdiv tune"):
        report(override(config, {"tracking.uri": f"sqlite:///{tmp_path}/none.db"}))
    assert not (tmp_path / "none.db").exists()


@pytest.mark.usefixtures("without_pictures")
def test_the_baseline_has_had_the_epochs_of_the_trials(config: Config, manifest: Manifest):
    sweep = write_sweep(config, manifest, "warm", {"base": 0.0})
    warm = override(config, {"train.init_from": "base/checkpoint"})
    write_trial(warm, 0.3, "trial", sweep, manifest)
    plain = tracking.start_run(
        warm, name="plain", kind="trial", manifest=manifest, parent_run_id=sweep.run_id
    )
    figures = {"ndcg_at_10": 0.04, "coverage_at_10": 0.3}
    tracking.log_metrics(
        plain,
        {f"{split}/{name}": v for split in ("best/val", "test") for name, v in figures.items()},
        step=2,
    )
    tracking.finish_run(plain, "FINISHED")
    assert report(config, parent_run_id=sweep.run_id)["baseline"]["name"] == "plain"


@pytest.mark.usefixtures("without_pictures")
def test_dial_0_of_a_conditioned_model_is_the_baseline(config: Config, manifest: Manifest):
    sweep = write_sweep(config, manifest, "dials", {})
    model = {"loss.conditioned": True, "loss.diversity_weight": 0.3, "train.init_from": "base"}
    for dial in (0.0, 0.5):
        trial = override(config, {**model, "model.diversity": dial})
        run = tracking.start_run(
            trial, name=f"at-{dial}", kind="trial", manifest=manifest, parent_run_id=sweep.run_id
        )
        figures = {"ndcg_at_10": 0.05 - dial / 100, "coverage_at_10": 0.3 + dial}
        tracking.log_metrics(
            run,
            {f"{split}/{name}": v for split in ("best/val", "test") for name, v in figures.items()},
            step=0,
        )
        tracking.finish_run(run, "FINISHED")
    assert report(config, parent_run_id=sweep.run_id)["baseline"]["name"] == "at-0.0"


@pytest.fixture(scope="module")
def seeded(config: Config, manifest: Manifest, tmp_path_factory) -> dict:
    """Return the report of a sweep of two points, each trained with seeds 0 and 1."""
    own = write_sweep(
        config,
        manifest,
        "seeded",
        {},
        is_one_lost=True,
        parameters=json.dumps(["loss.diversity_weight", "seed"]),
        seeds=json.dumps([0, 1]),
        least=json.dumps({"val/ndcg_at_10": 0.048}),
    )
    for weight in (0.0, 0.3):
        for seed in (0, 1):
            apart = override(config, {"seed": seed, "run.name": f"trial-{weight}-{seed}"})
            write_trial(apart, weight, f"w{weight} s{seed}", own, manifest, more=0.002 * seed)
    out = tmp_path_factory.mktemp("seeded")
    made = report_without_png(config, parent_run_id=own.run_id, out=out)
    return made | {"client": MlflowClient(own.uri)}


def test_trials_that_differ_by_seed_alone_are_one_point(seeded):
    assert [entry["params"]["loss.diversity_weight"] for entry in seeded["front"]] == [0.0, 0.3]
    plain, bent = seeded["front"]
    assert bent["val"]["ndcg_at_10"] == pytest.approx(0.049 + 0.001)
    assert bent["val"]["coverage_at_10"] == pytest.approx(0.55)
    assert list(bent["seeds"]) == ["0", "1"]
    assert bent["seeds"]["0"] == bent["run_id"]
    # t of one degree of freedom 12.706, of two values their distance / 2
    assert bent["half_width"]["val"]["ndcg_at_10"] == pytest.approx(12.706 * 0.001, rel=1e-4)
    assert bent["half_width"]["test"]["coverage_at_10"] == pytest.approx(0.0, abs=1e-9)
    assert seeded["baseline"]["name"] == plain["name"] == "trial-0.0-0"
    assert seeded["hypervolume"] == pytest.approx(0.051 * 0.40 + 0.050 * 0.15)


def test_the_page_of_several_seeds_lists_points_with_their_intervals(seeded):
    page = Path(seeded["report"]).read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    assert outline.row_classes == ["member", "member", "failed"]
    assert "0.05 \u00b1 0.013" in outline.text
    assert 'title="seed 0: trial-0.3-0, seed 1: trial-0.3-1">2</td>' in page
    assert '"error_y":{"array":' in page
    assert "means over 2 training seeds per point" in outline.text
    assert "seed=" not in outline.text
    assert "<em>knee</em>" in page
    assert "<em>w = 0</em>" in page


def test_the_curve_of_several_seeds_has_a_step_a_point(seeded):
    course = seeded["client"].get_metric_history(seeded["parent_run_id"], "front/hypervolume")
    assert [point.step for point in course] == [1, 2]
    assert course[-1].value == pytest.approx(seeded["hypervolume"])


def test_the_page_of_single_trials_has_no_error_bars(page):
    assert '"error_y":{"array":' not in page


def write_baseline(config: Config, manifest: Manifest, kind: str, ndcg: float, **changes):
    """Write a finished run of a baseline, its name after its accuracy."""
    own = override(
        config, {"model.kind": kind, **{key.replace("__", "."): v for key, v in changes.items()}}
    )
    run = tracking.start_run(own, name=f"{kind} {ndcg}", kind="train", manifest=manifest)
    figures = {"ndcg_at_10": ndcg, "coverage_at_10": 0.45}
    tracking.log_metrics(
        run,
        {f"{split}/{name}": v for split in ("best/val", "test") for name, v in figures.items()},
        step=0,
    )
    tracking.finish_run(run, "FINISHED")
    return run


@pytest.fixture(scope="module")
def beside(config: Config, manifest: Manifest, tmp_path_factory) -> dict:
    """Return the report of a sweep that has baselines in its experiment."""
    ours = manifest.model_copy(update={"name": "with baselines"})
    other = ours.model_copy(update={"fingerprint": "e" * 64})
    sweep = write_sweep(config, ours, "swept", {"plain": 0.0, "wide": 0.9})
    for ndcg in (0.047, 0.02):
        write_baseline(config, ours, "ease", ndcg)
    write_baseline(config, ours, "popular", 0.004)
    write_baseline(config, ours, "graph", 0.05)
    write_baseline(config, other, "random", 0.9)
    write_baseline(config, ours, "ease", 0.9, eval__filter_seen=False)
    write_baseline(config, ours, "ease", 0.8, rerank__method="mmr", rerank__diversity=0.5)
    write_baseline(config, ours, "ease", 0.7, rerank__logit_adjustment=0.5)
    out = tmp_path_factory.mktemp("beside")
    return report_without_png(config, parent_run_id=sweep.run_id, out=out)


def test_the_best_comparable_run_of_each_baseline_is_a_reference(beside):
    names = {kind: run["name"] for kind, run in beside["references"].items()}
    assert names == {"ease": "ease 0.047", "popular": "popular 0.004", "graph": "graph 0.05"}


def test_every_kind_of_baseline_has_a_marker():
    assert set(BASELINES) == {*get_args(ModelKind)} - {"neural"}
    assert len({symbol for symbol, _ in BASELINES.values()}) == len(BASELINES)


def test_references_are_drawn_and_listed_and_are_no_trials(beside, made):
    page = Path(beside["report"]).read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    assert "ease 0.047" in outline.text
    assert '"text":["popular"]' in page
    assert "Against baselines" not in Path(made["report"]).read_text(encoding="utf-8")
    assert beside["num_trials"] == 2
    assert beside["hypervolume"] == pytest.approx(0.05 * 0.4 + 0.03 * 0.2)


@pytest.mark.usefixtures("without_pictures")
def test_a_baseline_among_the_trials_is_not_the_plain_model(config, manifest, tmp_path):
    sweep = write_sweep(config, manifest, "kinds", {})
    trial = override(config, {"model.kind": "popular"})
    run = tracking.start_run(
        trial, name="popular", kind="trial", manifest=manifest, parent_run_id=sweep.run_id
    )
    figures = {"best/val/ndcg_at_10": 0.01, "best/val/coverage_at_10": 0.1}
    tracking.log_metrics(run, figures, step=0)
    tracking.finish_run(run, "FINISHED")
    made = report(config, parent_run_id=sweep.run_id, out=tmp_path)
    assert made["baseline"] is None
    assert [entry["name"] for entry in made["front"]] == ["popular"]


def test_the_link_filters_and_sorts_the_trials_as_the_store_does(config, sweep, made):
    client = MlflowClient(config.tracking.uri)
    root, _, query = str(made["dashboard"]).partition("?")
    assert root == f"http://127.0.0.1:5000/#/experiments/{sweep.experiment_id}/runs"
    options = {key: value for key, (value,) in parse_qs(query).items()}
    assert options["workflowType"] == "machine_learning"
    assert options["compareRunsMode"] == "CHART"
    order = f"{options['orderByKey']} {'ASC' if options['orderByAsc'] == 'true' else 'DESC'}"
    shown = client.search_runs([sweep.experiment_id], options["searchFilter"], order_by=[order])
    assert [run.info.run_name for run in shown] == ["plain", HOSTILE, "between", "wide", "lost"]
    note = client.get_run(sweep.run_id).data.tags["mlflow.note.content"]
    assert f"({trials_path(sweep)})" in note


def test_the_link_of_a_server_has_no_password(sweep, monkeypatch):
    monkeypatch.setattr(dashboard, "tag_of", lambda *_: '[{"metric": "val/ndcg_at_10"}]')
    link = trials_url(replace(sweep, uri="https://me:secret@mlflow.example/"))
    assert link.startswith(f"https://mlflow.example/#/experiments/{sweep.experiment_id}/runs?")


def test_the_row_of_a_sweep_has_the_figures_of_its_recommended_trial(config, sweep, made):
    figures = MlflowClient(config.tracking.uri).get_run(sweep.run_id).data.metrics
    knee = made["recommended"]
    assert figures["best/val/ndcg_at_10"] == knee["val"]["ndcg_at_10"]
    assert figures["test/coverage_at_10"] == knee["test"]["coverage_at_10"]


@pytest.mark.usefixtures("without_pictures")
def test_a_sweep_of_a_baseline_is_no_baseline_of_the_next(config, manifest, tmp_path):
    own = manifest.model_copy(update={"name": "eased", "fingerprint": "d" * 64})
    first = write_sweep(override(config, {"model.kind": "ease"}), own, "eased", {"plain": 0.0})
    second = write_sweep(config, own, "second", {"plain": 0.0})
    report(config, parent_run_id=first.run_id, out=tmp_path)
    references = report(config, parent_run_id=second.run_id, out=tmp_path)["references"]
    assert references["ease"]["name"] == "plain"
