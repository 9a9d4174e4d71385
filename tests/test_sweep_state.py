"""A sweep's saved state is loaded only where this user's run wrote it."""

import os
from pathlib import Path

import pytest

from recdiv_core.errors import UserError
from recdiv_core.sweep.state import PICKLE, check_state, state_digest
from tests.conftest import Bucket
from tests.test_places import put


@pytest.fixture
def state(tmp_path: Path) -> Path:
    place = tmp_path / "swept" / "tune"
    (place / "trial-00000").mkdir(parents=True)
    for path in (place / PICKLE, place / "searcher-state.pkl", place / "trial-00000" / "a.pkl"):
        path.write_bytes(b"pickle")
        path.chmod(0o644)
    for path in (place.parent, place, place / "trial-00000"):
        path.chmod(0o755)
    return place


def test_what_this_user_wrote_is_loaded(state: Path):
    check_state(str(state), state_digest(str(state)))
    check_state(str(state), "")  # lost at once


def test_a_pickle_that_was_changed_is_refused(state: Path):
    digest = state_digest(str(state))
    (state / PICKLE).write_bytes(b"planted")
    with pytest.raises(UserError, match=r"tuner\.pkl is not what this sweep wrote"):
        check_state(str(state), digest)


@pytest.mark.parametrize("name", [".", PICKLE, "searcher-state.pkl", "trial-00000", ".."])
def test_what_others_may_write_is_refused(state: Path, name: str):
    path = state / name
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(UserError, match="may be written by others"):
        check_state(str(state), state_digest(str(state)))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
@pytest.mark.parametrize("name", [PICKLE, "trial-00000/a.pkl", "."])
def test_what_another_user_wrote_is_refused(state: Path, name: str):
    os.chown(state / name, 12345, os.getgid())
    with pytest.raises(UserError, match=r"belongs to the user 12345, not to you: loading it"):
        check_state(str(state), state_digest(str(state)))


def test_in_a_store_nothing_is_loaded_that_is_not_on_record(bucket: Bucket):
    place = bucket.uri("runs/swept/tune")
    put(bucket.uri(f"runs/swept/tune/{PICKLE}"), b"pickle")
    digest = state_digest(place)
    check_state(place, digest)
    with pytest.raises(UserError, match="is not on record as this sweep's"):
        check_state(place, "")
    put(bucket.uri(f"runs/swept/tune/{PICKLE}"), b"planted")
    with pytest.raises(UserError, match="is not what this sweep wrote"):
        check_state(place, digest)
