import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.config import Config, override
from recdiv_core.data import clicklog
from recdiv_core.data.cuts import choose_protocol, first_nearest
from recdiv_core.data.fingerprint import fingerprint_of, is_made
from recdiv_core.errors import UserError
from recdiv_core.schema import EncoderSource


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


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("log.csv/out", "data.out=.* lies below .*log.csv, which is no directory"),
        ("log.csv", "exists and is not the link of a prepared data set"),
        ("a" * 250, "has 250 bytes; allowed are at most 200"),
        ("a" * 300, "a name has 300 bytes"),
        ("a\0b", "holds a NUL character"),
        ("~nobody-of-this-name/shop", "there is no home directory for its ~"),
    ],
)
def test_a_place_that_cannot_be_written_is_answered_before_ray_starts(
    tmp_path, monkeypatch, out, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        clicklog.prepare(override(Config(), write_shop(tmp_path) | {"data.out": out}))
    assert len(str(refused.value).splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.csv", "log.csv"]


@pytest.mark.parametrize("name", ["../shop", "..", "a\nb"])
def test_a_name_that_is_no_directory_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"data.name=.* must be one name"):
        clicklog.prepare(override(Config(), write_shop(tmp_path) | {"data.name": name}))


def test_the_gap_of_sessions_changes_no_fingerprint():
    encoder = EncoderSource(name="tiny", sha256="0" * 64, max_tokens=8, fields=("title",))

    def fingerprint(**values):
        return fingerprint_of([], override(Config(), values), encoder)

    assert fingerprint(**{"data.session_gap_s": 60.0}) == fingerprint()
    assert fingerprint(**{"data.min_user_events": 2}) != fingerprint()


def test_the_number_of_derived_categories_counts_only_where_they_are_derived():
    encoder = EncoderSource(name="tiny", sha256="0" * 64, max_tokens=8, fields=("title",))

    def fingerprint(number, **how):
        config = override(Config(), {"data.derived_categories": number})
        return fingerprint_of([], config, encoder, **how)

    assert fingerprint(0) == fingerprint("auto") == fingerprint("auto", derives=False)
    assert fingerprint("auto", derives=True) not in (fingerprint("auto"), fingerprint(9))
    assert fingerprint(9, derives=True) != fingerprint("auto", derives=True)


def test_half_a_manifest_is_prepared_again(tmp_path, caplog):
    (tmp_path / "manifest.json").write_text('{"schema_version": 1, "finger')
    assert not is_made(tmp_path, "f" * 64, Config())
    assert "is damaged" in caplog.text


def test_a_directory_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not the link of a prepared data set"):
        clicklog.prepare(override(Config(), write_shop(tmp_path)))
    assert (tmp_path / "out" / "precious.txt").read_text() == "mine"


def write_log(tmp_path, times):
    rows = "".join(f"u{n % 9},a,{time}\n" for n, time in enumerate(times))
    (tmp_path / "log.csv").write_text(f"user_id,item_id,timestamp\n{rows}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "split.val_share=0.1 and split.test_share=0.1 cut"),
        ({"split.val_days": 3, "split.test_from": "2020-01-01"}, "split.val_days=3 and split.test"),
    ],
)
def test_a_log_that_cannot_be_cut_names_the_settings_that_cut_it(tmp_path, change, said):
    given = write_shop(tmp_path) | change
    write_log(tmp_path, [1_400_000_000] * 40)
    with pytest.raises(UserError, match=said) as caught:
        clicklog.prepare(override(Config(), given), on_ray=False)
    assert "split.protocol=leave_last_out" in str(caught.value)


def test_rows_that_become_no_event_are_logged_with_their_reasons(tmp_path, caplog):
    given = write_shop(tmp_path)
    times = [1_400_000_000 + 60 * n for n in range(98)]
    write_log(tmp_path, [*times[:90], *times[81:90], *times[90:], "soon"])
    caplog.set_level("INFO")
    clicklog.prepare(override(Config(), given), on_ray=False)
    assert "rows quarantined: timestamp does not parse: 1\n" in caplog.text
    assert "rows skipped: duplicates: 9\n" in caplog.text


def test_a_log_with_an_order_alone_has_no_temporal_split():
    config = override(Config(), {"split.protocol": "temporal"})
    with pytest.raises(ValueError, match=r"split.protocol=temporal.*allowed: leave_last_out"):
        choose_protocol(config, has_timestamps=False)
    assert choose_protocol(Config(), has_timestamps=False) == "leave_last_out"
    assert choose_protocol(Config(), has_timestamps=True) == "temporal"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).map(sorted), st.floats(-1, 10))
def test_the_nearest_of_ascending_values_is_that_of_a_whole_search(ascending, target):
    values = np.array(ascending)
    assert first_nearest(values, target) == int(np.abs(values - target).argmin())
