import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.config import Config, override
from recdiv_core.slates.checks import check_rerank


@pytest.fixture
def prepared(tmp_path):
    pq.write_table(pa.table({"item_id": ["a"], "brand": ["b"]}), tmp_path / "catalogue.parquet")
    return tmp_path


def warnings_of(prepared, caplog, **changes):
    check_rerank(override(Config(), {f"rerank.{k}": v for k, v in changes.items()}), prepared)
    return [record.getMessage() for record in caplog.records]


def test_an_attribute_that_the_catalogue_lacks_is_refused(prepared):
    config = override(Config(), {"rerank.attributes": {"brand": 1.0, "colour": 2.0}})
    message = r"rerank\.attributes\.colour=2.0: .* no column 'colour'; it has item_id, brand"
    with pytest.raises(ValueError, match=message):
        check_rerank(config, prepared)


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"diversity": 0.5}, "rerank.diversity: no effect with rerank.method=none"),
        ({"method": "msd"}, "rerank.method: no effect with rerank.diversity=0.0"),
        (
            {"window": 3, "method": "mmr", "diversity": 0.5},
            "rerank.window: no effect with rerank.method=mmr",
        ),
        (
            {"beam_width": 2, "method": "xquad", "diversity": 0.5},
            "rerank.beam_width: no effect with rerank.method=xquad",
        ),
        (
            {"attributes": {"category": 1.0}, "method": "dpp", "diversity": 0.5},
            "rerank.attributes: no effect with rerank.method=dpp",
        ),
        (
            {"num_candidates": 10, "method": "msd", "diversity": 0.5},
            "rerank.num_candidates=10 is eval.k: rerank.method=msd has nothing to choose from and "
            "only changes the order",
        ),
    ],
)
def test_a_setting_without_effect_is_named(prepared, caplog, changes, warning):
    assert warnings_of(prepared, caplog, **changes) == [warning]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "dpp", "diversity": 0.3, "window": 3},
        {"method": "alpha", "diversity": 0.3, "attributes": {"brand": 1.0}},
    ],
)
def test_settings_with_an_effect_are_not(prepared, caplog, changes):
    assert warnings_of(prepared, caplog, **changes) == []
