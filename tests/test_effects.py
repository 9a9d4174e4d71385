"""Every setting does something somewhere: the table of effects is held against the source."""

import ast

import pytest

from recdiv_core.config import known_keys
from recdiv_core.effects import READERS, only_read_by, readers, unread
from tests.key_reach import Source, module_files, reads

PIPELINES = ("prepare", "audit", "train", "tune", "evaluate", "recommend")
PIPELINES += (
    "inspect",
    "monitor",
    "compare",
    "report",
    "register",
    "dashboard",
    "update",
    "forget",
    "export",
    "adapt",
)

# what a pipeline reaches a reading of, and yet cannot be set by its call
OF_THE_CHECKPOINT = ("model.", "loss.conditioned", "seed")
OF_WORKERS = "scaling.preemptible"  # what starts Ray looks at it; only trainings have workers
NOT_OF_THE_CALL = {
    "evaluate": (*OF_THE_CHECKPOINT, OF_WORKERS),
    "recommend": (*OF_THE_CHECKPOINT, OF_WORKERS),
    "compare": OF_THE_CHECKPOINT,
    "register": OF_THE_CHECKPOINT,
    "export": OF_THE_CHECKPOINT,
    # a report judges each run with the run's own settings
    "report": (
        *OF_THE_CHECKPOINT,
        "rerank.",
        "eval.k",
        "eval.filter_seen",
        "eval.batch_size",
        "eval.max_users",
        "eligible.",
        "scaling.",
    ),
    # the report that it ends with takes the name from the prepared data set, which a sweep has
    "tune": ("data.name",),
    "prepare": (OF_WORKERS,),
    # the settings are those of the data set
    "forget": ("data.", "split."),
}

# keys that came before the code that reads them


@pytest.fixture(scope="module")
def source() -> Source:
    return Source()


def test_every_pipeline_is_in_the_table():
    scripts = {name.removeprefix("pipelines.") for name in module_files() if "pipelines." in name}
    assert set(PIPELINES) == scripts - {"__main__", "submit", "init"}
    assert {name for names in READERS.values() for name in names} == set(PIPELINES)


def test_every_line_of_the_table_is_of_a_key_or_a_section():
    known = known_keys()
    assert all(name in known or any(k.startswith(name) for k in known) for name in READERS)


def test_every_key_is_read_by_a_pipeline(source: Source):
    found = set().union(*(source.keys_of(pipeline) for pipeline in PIPELINES))
    assert not set(known_keys()) - found, "nobody reads these: delete or use them"


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_table_says_what_the_source_reads(source: Source, pipeline: str):
    said = {key for key in known_keys() if pipeline in readers(key)}
    found = source.keys_of(pipeline)
    assert not said - found, "the table says so, but the source does not read them"
    extra = {key for key in found - said if not key.startswith(NOT_OF_THE_CALL.get(pipeline, ()))}
    assert not extra, "the source reads them: add the pipeline to the table"


def test_a_key_that_nobody_reads_would_be_found():
    function = "def f(config, text: TextConfig):\n    loss = config.loss\n    return {}"
    reading = function.format("loss.negatives, config.model.dim, text.encoder, config.seed")
    assert reads(ast.parse(reading)) == {
        "loss.negatives",
        "model.dim",
        "model.text.encoder",
        "seed",
    }
    assert reads(ast.parse(function.format("config.model"))) == set()


def test_a_key_is_left_out_only_where_it_is_not_read():
    given = {"eval.k": 5, "data.event_weights.cart": 2.0, "seed": 1}
    assert only_read_by("train", given) == {"eval.k": 5, "seed": 1}
    assert only_read_by("prepare", given) == {"data.event_weights.cart": 2.0, "seed": 1}
    assert only_read_by("audit", given) == {}


def test_keys_with_the_same_readers_are_named_in_one_line():
    lines = unread("audit", {"data.clicks": "", "data.items": "", "train.epochs": 1})
    assert lines == [
        "data.clicks, data.items: no effect in audit; takes effect in prepare, update",
        "train.epochs: no effect in audit; takes effect in train, tune, update",
    ]
