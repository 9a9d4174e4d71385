import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest

from recdiv_core.config import Config, override
from recdiv_core.data import versions as data_versions
from recdiv_core.data.versions import (
    building,
    find_view,
    open_version,
    other_version,
    point,
    publish,
    version_place,
    with_version,
)
from recdiv_core.errors import UserError
from recdiv_core.schema import check_unchanged, read_manifest

PRINTS = [f"{letter}" * 64 for letter in "abcdef"]


def write(work, fingerprint):
    (work / "manifest.json").write_text(json.dumps({"fingerprint": fingerprint}))
    (work / "tokens.arrow").write_text(fingerprint)


def prepare(view, fingerprint):
    with building(view) as work:
        write(work, fingerprint)
        return publish(view, work, fingerprint)


@pytest.fixture
def view(tmp_path):
    return tmp_path / "shop"


def names(view):
    return sorted(path.name for path in view.with_name("shop.versions").iterdir())


def test_the_path_that_users_give_shows_the_current_version(view):
    prepare(view, PRINTS[0])
    prepare(view, PRINTS[1])
    assert (view / "tokens.arrow").read_text() == PRINTS[1]
    assert sorted(path.name for path in view.iterdir()) == ["manifest.json", "tokens.arrow"]
    assert view.readlink() == Path("shop.versions", "b" * 16)


def test_a_reader_keeps_its_version(view):
    prepare(view, PRINTS[0])
    own = open_version(view)
    prepare(view, PRINTS[1])
    assert (own / "tokens.arrow").read_text() == PRINTS[0]
    assert open_version(view) != own
    assert other_version(open_version(view), PRINTS[0]) == own


def test_two_versions_behind_the_current_one_are_kept(view):
    for fingerprint in PRINTS[:5]:
        prepare(view, fingerprint)
    assert names(view) == ["c" * 16, "d" * 16, "e" * 16]


def test_an_old_version_that_somebody_reads_is_kept(view):
    prepare(view, PRINTS[0])
    reader = open_version(view)
    for fingerprint in PRINTS[1:]:
        prepare(view, fingerprint)
    assert (reader / "tokens.arrow").read_text() == PRINTS[0]
    assert "b" * 16 not in names(view)


def test_the_version_before_can_be_current_again(view):
    first = prepare(view, PRINTS[0])
    for fingerprint in PRINTS[1:3]:
        prepare(view, fingerprint)
    point(view, first)
    prepare(view, PRINTS[3])
    assert names(view) == ["a" * 16, "c" * 16, "d" * 16]


def test_an_empty_directory_makes_room(view):
    view.mkdir()
    prepare(view, PRINTS[0])
    assert (view / "tokens.arrow").is_file()


def test_a_link_of_the_users_own_is_followed(view, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    view.symlink_to("elsewhere/data")
    prepare(find_view(view), PRINTS[0])
    assert (view / "tokens.arrow").is_file()
    assert (tmp_path / "elsewhere" / "data").is_symlink()


def test_nothing_is_left_of_a_version_that_failed(view, tmp_path):
    def fail():
        with building(view) as work:
            write(work, PRINTS[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def kill_while_building(view):
    code = (
        "import os, sys; from pathlib import Path; from recdiv_core.data.versions import building\n"
        "with building(Path(sys.argv[1])) as work: os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(view)], check=False)
    assert done.returncode == -9


def test_what_a_killed_prepare_left_is_removed_by_the_next_one(view):
    kill_while_building(view)
    (left,) = names(view)
    assert left.endswith(".partial")
    prepare(view, PRINTS[0])
    assert names(view) == ["a" * 16]


def test_what_a_living_prepare_builds_is_left_alone(view):
    with building(view) as work:
        prepare(view, PRINTS[1])
        write(work, PRINTS[0])
        publish(view, work, PRINTS[0])
    assert names(view) == ["a" * 16, "b" * 16]


def test_what_another_machine_builds_is_left_alone(view):
    kill_while_building(view)
    (left,) = view.with_name("shop.versions").iterdir()
    (left / "owner.json").write_text('{"host": "elsewhere", "boot": "x", "pid": 1}')
    prepare(view, PRINTS[0])
    assert len(names(view)) == 2


@pytest.mark.parametrize(
    ("place", "message"),
    [("a" * 230, "has 230 bytes"), ("shop.versions/x", "cannot hold a data set")],
)
def test_a_place_where_no_link_can_stand_is_refused(tmp_path, place, message):
    with pytest.raises(UserError, match=message):
        find_view(tmp_path / place)


def test_links_that_go_round_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match="symbolic links"):
        open_version(tmp_path / "a")


def test_a_lock_that_is_held_keeps_a_version(view):
    version = prepare(view, PRINTS[0])
    with (version / "manifest.json").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        for fingerprint in PRINTS[1:]:
            prepare(view, fingerprint)
        assert version.is_dir()
    prepare(view, "9" * 64)
    assert not version.is_dir()
    assert data_versions.KEPT == 2


def test_a_data_set_that_changed_is_told(view, manifest):
    prepare(view, manifest.fingerprint)
    version = open_version(view)
    check_unchanged(version, manifest)
    prepare(view, PRINTS[1])
    check_unchanged(version, manifest)
    for content in ('{"fingerprint": "a"}', '{"finger', "[]"):
        (version / "manifest.json").write_text(content)
        with pytest.raises(UserError, match="changed while it was read"):
            check_unchanged(version, manifest)
    (version / "manifest.json").unlink()
    with pytest.raises(UserError, match="is now not readable"):
        check_unchanged(version, manifest)


def test_a_checkpoint_finds_the_version_that_it_was_trained_on(view):
    prepare(view, PRINTS[0])
    prepare(view, PRINTS[1])
    config = override(Config(), {"data.prepared": str(view)})
    for fingerprint in PRINTS[:2]:
        found = with_version(config, fingerprint).data.prepared
        assert found == str(version_place(view, fingerprint))
    assert with_version(config, PRINTS[5]).data.prepared == str(version_place(view, PRINTS[1]))
    assert with_version(Config()).data.prepared == ""


def test_a_version_that_was_removed_names_the_link_to_the_current_one(view):
    for fingerprint in PRINTS[:5]:
        prepare(view, fingerprint)
    removed = version_place(view, PRINTS[0])
    assert not removed.exists()
    with pytest.raises(UserError, match=rf"was removed, .*give data.prepared={view} for"):
        read_manifest(open_version(removed))
