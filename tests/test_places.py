"""Paths and URIs: what pyarrow opens, on a real S3 server on loopback."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.errors import UserError
from recdiv_core.formats.files import list_files, open_input
from recdiv_core.storage.places import filesystem_of, joined, sibling
from tests.conftest import Bucket

ODD = ["a b.csv", "caf\u00e9.csv", "50% off.csv", "a+b.csv", "item#1.csv", "[x].csv", "a&b=c.csv"]


def put(place: str, data: bytes) -> None:
    filesystem, path = filesystem_of(place, "place")
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def test_a_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert filesystem_of("runs", "run.storage")[1] == f"{tmp_path}/runs"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert filesystem_of(Path("~/runs"), "run.storage")[1] == f"{tmp_path}/runs"


@pytest.mark.parametrize("name", ODD)
def test_a_key_may_be_written_as_it_is(bucket: Bucket, name: str):
    place = bucket.uri(f"log/{name}")
    put(place, b"user_id,item_id\n")
    (file,) = list_files(place, "data.clicks")
    assert filesystem_of(file.path, "x")[1] == f"{bucket.name}/log/{name}"
    assert open_input(file.path, is_seekable=False).read() == b"user_id,item_id\n"


def test_an_escaped_key_is_the_same_as_the_plain_one(bucket: Bucket):
    assert filesystem_of(bucket.uri("a%20b"), "x")[1] == filesystem_of(bucket.uri("a b"), "x")[1]


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_may_come_from_the_environment(bucket: Bucket, variable: str, monkeypatch):
    put(bucket.uri("log/a.csv"), b"user_id\n")
    monkeypatch.setenv(variable, f"http://{bucket.endpoint}")
    (file,) = list_files(f"s3://{bucket.name}/log?region=us-east-1", "data.clicks")
    assert open_input(file.path, is_seekable=False).read() == b"user_id\n"


def test_hadoops_name_of_s3_is_understood(bucket: Bucket):
    put(bucket.uri("log/a.csv"), b"user_id\n")
    (file,) = list_files(bucket.uri("log/*.csv").replace("s3://", "s3a://"), "data.clicks")
    assert open_input(file.path, is_seekable=False).read() == b"user_id\n"


def test_a_glob_keeps_the_options_of_its_store(bucket: Bucket):
    for name in ("may 1.csv", "may 2.csv", "june.txt"):
        put(bucket.uri(f"log/{name}"), b"user_id\n")
    files = list_files(bucket.uri("log/may ?.csv"), "data.clicks")
    assert [file.path for file in files] == [
        bucket.uri("log/may%201.csv"),
        bucket.uri("log/may%202.csv"),
    ]


@pytest.mark.parametrize("place", ["redis://host/a", "s3://bucket/a?colour=red"])
def test_a_place_that_cannot_be_opened_is_named_by_its_key(place: str):
    with pytest.raises(UserError, match=r"^run\.storage=.* cannot be opened: "):
        filesystem_of(place, "run.storage")


def test_a_uri_without_a_bucket_is_refused():
    with pytest.raises(UserError, match=r"run\.storage=s3:// names no bucket"):
        filesystem_of("s3://", "run.storage")


def test_a_place_is_refused_without_its_keys():
    with pytest.raises(UserError) as refused:
        filesystem_of("s3://AKIA:secret@bucket/a?colour=red&secret_key=secret", "run.storage")
    assert "secret@" not in str(refused.value)
    assert "=secret" not in str(refused.value)


@given(
    st.lists(st.text("abc \u00e9#%+?*", min_size=1), min_size=1, max_size=3),
    st.sampled_from(["", "?region=eu", "?scheme=http&region=eu"]),
)
def test_names_are_joined_in_front_of_the_options(names: list[str], options: str):
    names = [name.replace("?", "x") for name in names]
    place = joined(f"s3://bucket/runs{options}", *names)
    assert place == f"s3://bucket/runs/{'/'.join(names)}{options}"
    assert joined("/runs", *names) == "/runs/" + "/".join(names)


@given(st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), min_size=1))
def test_what_a_store_lists_is_found_again(name: str):
    place = sibling("file:///log/*.csv", f"/log/{name}")
    assert filesystem_of(place, "x")[1] == f"/log/{name}"
