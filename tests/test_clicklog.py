import pytest

from recdiv_core.config import Config, override
from recdiv_core.data import clicklog, examples


@pytest.mark.parametrize(
    ("clicks", "name"),
    [
        ("/data/beauty/clicks.parquet", "beauty"),
        ("shop-2024.csv.gz", "shop-2024"),
        ("s3://bucket/shop/events/*.parquet", "shop"),
        ("clicks.csv", "clicks"),
    ],
)
def test_a_data_set_is_named_after_its_log(clicks, name):
    assert clicklog.data_name(override(Config(), {"data.clicks": clicks})) == name


def write_shop(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,a,2014-01-01\n")
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    return {
        "data.clicks": str(tmp_path / "log.csv"),
        "data.items": str(tmp_path / "items.csv"),
        "data.out": str(tmp_path / "out"),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.clicks": "nowhere.csv"}, "data.clicks=nowhere.csv does not exist"),
        ({"data.items": "nowhere.csv"}, "data.items=nowhere.csv does not exist"),
        ({"data.out": "s3://bucket/out"}, "data.out=s3://bucket/out must be a directory"),
        ({"data.columns.timestamp": "time"}, "no column 'time' .data.columns.timestamp"),
        ({"split.val_from": "soon"}, "split.val_from=soon is no time"),
        ({"data.columns.timestamp": "item_id"}, "no value is a time .found .a"),
    ],
)
def test_wrong_input_is_answered_before_ray_starts(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        clicklog.prepare(override(Config(), write_shop(tmp_path) | change))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.csv", "log.csv"]


def test_a_directory_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no prepared data set: it is not overwritten"):
        clicklog.prepare(override(Config(), write_shop(tmp_path)))
    assert (tmp_path / "out" / "precious.txt").read_text() == "mine"


def test_a_log_with_an_order_alone_has_no_temporal_split():
    config = override(Config(), {"split.protocol": "temporal"})
    with pytest.raises(ValueError, match=r"split.protocol=temporal.*allowed: leave_last_out"):
        examples.choose_protocol(config, has_timestamps=False)
    assert examples.choose_protocol(Config(), has_timestamps=False) == "leave_last_out"
    assert examples.choose_protocol(Config(), has_timestamps=True) == "temporal"
