"""Equal texts are encoded once, by as many actors as pay for their start; encodings resume."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.data.text_vectors import (
    WORK_AN_ACTOR,
    WriteVectors,
    encode_here,
    num_actors,
    paced,
)
from recdiv_core.data.vector_files import fill_repeats, first_equal, missing_blocks
from recdiv_core.models.text_encoder import encoder_width
from recdiv_core.storage.claims import scratch
from tests.encoder_worlds import save_encoder

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=12)


@given(TEXTS)
def test_each_text_is_sent_to_the_first_text_that_equals_it(texts):
    assert first_equal(texts).tolist() == [texts.index(text) for text in texts]


@given(st.integers(0, 100), st.floats(0, 1e15), st.integers(1, 64))
def test_there_is_an_actor_and_each_further_one_has_a_block_a_device_and_enough_work(
    blocks, work, devices
):
    actors = num_actors(blocks, work, devices)
    assert actors >= 1
    assert actors == 1 or (actors <= min(blocks, devices) and work / actors >= WORK_AN_ACTOR)
    assert num_actors(blocks + 1, 2 * work, devices + 1) >= actors


def test_progress_is_told_now_and_then_with_the_rate_since_the_first_block():
    times = iter([30.0, 31.0, 35.0, 40.0, 41.0])
    found = list(paced([10, 10, 10, 20, 50], 100, clock=lambda: next(times)))
    assert [done for done, _ in found] == [10, 20, 30, 50, 100]
    assert [said for _, said in found if said] == [
        "50 of 100 texts, 4 a second, 12 s left",
        "100 of 100 texts",
    ]


def test_a_single_block_is_told_when_it_is_finished():
    assert list(paced([7], 7)) == [(7, "7 of 7 texts")]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def some_texts():
    """Return 600 texts, three blocks: many are equal, and one has no tokens."""
    rng = np.random.default_rng(0)
    return [[], *(rng.integers(1, 9, rng.integers(1, 6)).tolist() for _ in range(599))]


def rows_of(blocks):
    return [row for block in blocks for row in block["row"].to_pylist()]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_interrupted_encoding_encodes_the_remaining_texts_alone(source, tmp_path, pooling):
    texts, width = some_texts(), encoder_width(source)
    first = first_equal(texts)
    write = WriteVectors(source, pooling, use_gpu=False)

    def interrupt():
        with scratch(tmp_path, keep=["made.npy"]) as work:
            blocks = missing_blocks(work / "made.npy", texts, first, width)
            write(blocks[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    (left,) = tmp_path.iterdir()
    assert left.name == "made.npy.unfinished"
    kept = np.lib.format.open_memmap(left, mode="r+")
    is_kept = np.any(kept != 0, axis=1)
    torn = int(np.flatnonzero(is_kept)[0])
    kept[torn, width // 2 :] = 0
    blocks = missing_blocks(left, texts, first, width)
    wanted = set(first.tolist())
    assert sorted(rows_of(blocks)) == sorted(wanted - set(np.flatnonzero(is_kept)) | {torn})
    for block in blocks:
        write(block)
    fill_repeats(left, first)
    found = np.load(left)
    np.testing.assert_allclose(found, encode_here(texts, source, pooling), atol=1e-6)
    lengths = [float(len(text) > 0) for text in texts]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), lengths, atol=1e-6)
    assert rows_of(missing_blocks(left, texts, first, width)) == [0]  # the text without tokens


def test_a_file_of_other_texts_or_a_broken_one_is_made_anew(tmp_path):
    texts = [[1], [2]]
    first, path = first_equal(texts), tmp_path / "made.npy"
    np.save(path, np.eye(3, dtype=np.float32))
    assert sorted(rows_of(missing_blocks(path, texts, first, 3))) == [0, 1]
    os.truncate(path, path.stat().st_size - 1)
    assert sorted(rows_of(missing_blocks(path, texts, first, 3))) == [0, 1]
    for size in (70, 0):
        os.truncate(path, size)
        assert sorted(rows_of(missing_blocks(path, texts, first, 3))) == [0, 1]
    assert np.load(path).tolist() == [[0.0] * 3] * 2


def test_the_unfinished_file_of_a_killed_process_is_kept(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from recdiv_core.storage.claims import scratch\n"
        "with scratch(Path(sys.argv[1]), ['a.npy']) as work:\n"
        "    (work / 'a.npy').write_text('half')\n"
        "    (work / 'other').touch()\n"
        "    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    with scratch(tmp_path, ["a.npy"]):
        assert (tmp_path / "a.npy.unfinished").read_text() == "half"
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy.unfinished"]
