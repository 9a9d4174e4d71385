import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.errors import UserError
from recdiv_core.storage.given_paths import absolute, check_run_name, local_path, output_path


@pytest.mark.parametrize("name", ["", "first", "it's", 'a "b"', "100% #1?", "été", "a b", "..."])
def test_a_name_of_one_directory_is_taken(name):
    assert check_run_name(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("..", "must be one name"),
        (".", "must be one name"),
        ("../x", "must be one name"),
        ("a/b", "must be one name"),
        ("a\\b", "must be one name"),
        ("a\0b", "must be one name"),
        ("a\nb", "must be one name"),
        (" a", "must not begin or end with a blank"),
        ('it\'s "both"', "both kinds of quotation mark"),
        ("a" * 600, "has 600 bytes; at most 200"),
        ("é" * 101, "has 202 bytes"),
        ("\ud800", "is not valid Unicode"),
    ],
)
def test_a_name_that_is_no_directory_is_refused_in_one_line(name, message):
    with pytest.raises(UserError, match=message) as refused:
        check_run_name(name)
    assert len(str(refused.value).splitlines()) == 1


def is_taken(name):
    try:
        return bool(check_run_name(name))
    except UserError:
        return False


@given(st.text(max_size=300).filter(is_taken))
def test_a_name_that_is_taken_stays_below_its_storage(name):
    place = absolute(local_path(f"/storage/{name}", "run.storage"))
    assert (place.parent.as_posix(), place.name) == ("/storage", name)


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for given_path in (tmp_path / "file" / "out", tmp_path / "file" / "a" / "b"):
        with pytest.raises(UserError, match=r"--out=.* lies below .*file, which is no dir"):
            local_path(given_path, "--out")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a\0b", "holds a NUL character"),
        ("a" * 256, "a name has 256 bytes"),
        ("a/" * 3000, "at most 4000"),
        ("~nobody-of-this-name/x", "there is no home directory for its ~"),
        ("\udcff\ud800", "cannot be a path here"),
    ],
)
def test_what_cannot_be_a_path_is_refused(path, message):
    with pytest.raises(UserError, match=message):
        local_path(path, "data.out")


def test_a_tilde_is_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert output_path("~/out", "--out") == tmp_path / "out"


def test_links_that_go_round_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match="--out="):
        output_path(tmp_path / "a" / "out", "--out")
