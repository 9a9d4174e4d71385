"""A run is registered, loaded by its alias, and promoted only through the gate."""

import json
from dataclasses import replace
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recdiv_core.config import DIALS_FILE, override, parse_dial
from recdiv_core.data.reading import read_eval
from recdiv_core.slates.checkpoint import chosen_checkpoint, read_config
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from recdiv_core.tracking.runs import RunHandle, read_text
from tests.cluster.conftest import run

pytestmark = pytest.mark.ray


@pytest.fixture
def load(shop, monkeypatch):
    """Return what loads a registered model by its URI, as a server would."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shop.uri)
    return mlflow.pyfunc.load_model


def register(shop, *arguments):
    return run("register", *arguments, f"tracking.uri={shop.uri}")


def own_slates(
    place: Path, *, is_timed: bool = True, **settings: object
) -> tuple[pd.DataFrame, list[list[str]]]:
    """Return the histories and queries of test users, and the slates that evaluation judges.

    Without `is_timed` all requests are made when every item is on sale, as those of a registered
    model are.
    """
    checkpoint = chosen_checkpoint(place)
    config = override(read_config(checkpoint), settings)
    dataset = load_dataset(Path(config.data.prepared))
    ids = dataset.catalogue.table["item_id"].to_pylist()
    alone = {"batch_size": config.eval.batch_size, "rank": 0, "world_size": 1}
    with pa.memory_map(str(dataset.prepared / "queries.arrow")) as source:
        texts = [*pa.ipc.open_file(source).read_all()["query"].to_pylist(), None]  # -1: no query
    histories, queries, times = [], [], []
    for examples in read_eval(dataset.prepared, "test", **alone):
        ends = np.cumsum(examples.lengths)
        queries += [texts[query] for query in examples.queries]
        histories += [[ids[item] for item in own] for own in np.split(examples.items, ends[:-1])]
        times += [own.tolist() for own in np.split(examples.times, ends[:-1])]
    slates = []
    model = load_model(config, dataset, checkpoint)
    policy = slate_policy(config, dataset, model.lifts)
    for held_out in held_out_of_split(model, dataset, "test", config):
        if not is_timed:
            held_out = replace(held_out, examples=replace(held_out.examples, requested=None))
        slates_BK, _ = held_out.slates(dataset, policy)
        slates += [[ids[item] for item in own if item >= 0] for own in slates_BK.tolist()]
    return pd.DataFrame({"history": histories, "query": queries, "times": times}), slates


def test_a_registered_model_makes_the_slates_that_were_judged(shop, trained, load):
    place = shop.storage / "undisturbed"
    assert trained["run"] == place.name
    registered = register(shop, str(place), "--name", "served")
    assert registered["alias"] == "candidate"
    model = load(registered["model_uri"])
    users, slates = own_slates(place)
    assert users["query"].notna().any()
    made = model.predict(users)
    assert [list(slate) for slate in made["item_ids"]] == slates
    assert all(np.all(np.diff(scores) <= 0) for scores in made["scores"])

    short = model.predict(pd.DataFrame({"history": [["no such item"], []]}), params={"k": 2})
    assert [len(slate) for slate in short["item_ids"]] == [2, 2]
    with pytest.raises(ValueError, match=r"model\.diversity=0\.5: this model has no dial"):
        model.predict(pd.DataFrame({"history": [[]]}), params={"model.diversity": 0.5})
    for times, said in (([5], "1 times for 2 items"), ([5, 4], "times must rise")):
        with pytest.raises(ValueError, match=f"row 0: {said}"):
            model.predict(pd.DataFrame({"history": [["a", "b"]], "times": [times]}))


def test_a_re_ranked_model_is_served_as_it_was_measured(shop, trained, load):
    place = shop.storage / "undisturbed"
    handle = RunHandle(shop.uri, "", trained["mlflow_run_id"])
    entries = json.loads(read_text(handle, DIALS_FILE))
    entry = next(own for own in entries if own["settings"] == parse_dial("msd 0.4 lift 0.4"))
    words = [f"{key}={value}" for key, value in entry["settings"].items()]
    for split in ("val", "test"):
        given = ["--checkpoint", trained["checkpoint"], "--split", split, *words]
        assert entry[split].items() <= run("evaluate", *given)["metrics"].items()
    registered = register(shop, "+".join([handle.run_id, *words]), "--name", "re-ranked")
    # a lift may show items that came on sale after some of the requests
    users, slates = own_slates(place, is_timed=False, **entry["settings"])
    made = load(registered["model_uri"]).predict(users)
    assert [list(slate) for slate in made["item_ids"]] == slates
    assert slates != own_slates(place, is_timed=False)[1]


def test_only_what_passes_the_gate_becomes_the_champion(shop, trained, fitted, load, capsys):
    place = shop.storage / "undisturbed"
    first = register(shop, str(place), "--name", "gated", "--promote")
    assert (first["promoted"], first["champion"], first["gate"]) == (True, None, [])

    same = register(shop, str(place), "--name", "gated", "--promote", "--keep", "ndcg=1.0")
    assert (same["promoted"], same["champion"], same["version"]) == (True, 1, 2)
    assert {row["name"]: row["share"] for row in same["gate"] if row["passes"]} == {
        row["name"]: pytest.approx(1.0) for row in same["gate"] if row["passes"] is not None
    }

    worse = shop.storage / "fitted"
    with pytest.raises(SystemExit) as refused:
        register(shop, str(worse), "--name", "gated", "--promote")
    assert refused.value.code == 1
    client = mlflow.MlflowClient(shop.uri)
    assert str(client.get_model_version_by_alias("gated", "champion").version) == "2"
    assert str(client.get_model_version_by_alias("gated", "candidate").version) == "3"
    # a baseline may show items that came on sale after some of the requests
    users, slates = own_slates(worse, is_timed=False)
    made = load("models:/gated@candidate").predict(users)
    assert [list(slate) for slate in made["item_ids"]] == slates
    assert slates != own_slates(place, is_timed=False)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "none", "--promote"], "none has no candidate"),
        (["/nowhere", "--name", "none"], "there is no directory /nowhere"),
        (["--name", "none"], "got 0 runs"),
        (["--name", "none", "--promote", "--keep", "gini=1"], "--keep gini=1: allowed"),
        (["--name", "none", "--promote", "--keep", "ndcg=much"], "'much' is not a share"),
    ],
)
def test_what_cannot_be_registered_is_said_to_be(shop, capsys, arguments, said):
    with pytest.raises(SystemExit) as refused:
        register(shop, *arguments)
    assert refused.value.code == 2
    assert said in capsys.readouterr().err
