"""The compiled loop, held to the loop of tensors that it stands in for."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

import recdiv_core
from recdiv_core.rerank import COMPILED, NOVELTIES, RERANKERS, Options
from recdiv_core.rerank.compiled import KERNELS, _take_logs
from recdiv_core.rerank.greedy import choose
from tests.candidate_worlds import random_candidates, with_padding

GRID = tuple(step / 10 for step in range(11))
ROOT = Path(recdiv_core.__file__).parent
each_kernel = pytest.mark.parametrize("name", KERNELS)
FIRST_CALL = """
import torch
from recdiv_core.rerank import RERANKERS, Options
from tests.candidate_worlds import random_candidates
print(RERANKERS["mmr"](random_candidates(5), 4, [0.3, 0.8], Options()).tolist())
"""


def both(name, candidates, k, dials, **options):
    told = Options(**options)
    slates = KERNELS[name](candidates, k, dials, told)
    return slates, choose(NOVELTIES[name], candidates, k, dials, told)


@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(sorted(KERNELS)),
    num_candidates=st.integers(1, 40),
    k=st.integers(1, 45),
    window=st.integers(0, 6),
    dials=st.lists(st.sampled_from(GRID[:10]), min_size=1, max_size=5),
    padded=st.floats(0, 1),
)
def test_the_slates_are_those_of_tensors(seed, name, num_candidates, k, window, dials, padded):
    # more dimensions than candidates: what lies in the span is new by rounding alone
    candidates = random_candidates(seed, num_users=3, num_candidates=num_candidates, dim=48)
    is_padding = torch.from_numpy(np.random.default_rng(seed).random((3, num_candidates)) < padded)
    scores = candidates.scores_BC.masked_fill(is_padding, -torch.inf)
    scores[0].masked_fill_(is_padding[0], torch.nan)
    slates, expected = both(name, replace(candidates, scores_BC=scores), k, dials, window=window)
    assert slates.tolist() == expected.tolist()


@each_kernel
def test_the_slates_of_a_thousand_users_are_those_of_tensors(name):
    candidates = random_candidates(1, num_users=1000, num_candidates=60, dim=32, zeros=0.0)
    slates, expected = both(name, candidates, 10, GRID)
    # float32 sums of another order choose the other of two that differ by next to nothing
    assert (slates == expected).all(dim=2).float().mean() > 0.9995


@each_kernel
@pytest.mark.parametrize("window", [0, 1, 4])
def test_a_grid_of_dials_is_each_dial_by_itself(name, window):
    candidates = random_candidates(2, num_users=50, num_candidates=40, dim=6)
    options = Options(window=window)
    grid = KERNELS[name](candidates, 12, GRID, options)
    alone = [KERNELS[name](candidates, 12, [dial], options) for dial in GRID]
    assert torch.equal(grid, torch.cat(alone, dim=1))


@each_kernel
def test_of_equal_candidates_the_earlier_comes_first(name):
    # five copies of each of eight candidates, of equal scores: every choice is among copies
    candidates = random_candidates(3, num_users=20, num_candidates=8, dim=16, zeros=0.0)
    copies = replace(
        candidates,
        scores_BC=candidates.scores_BC.repeat_interleave(5, dim=1),
        items_BC=candidates.items_BC.repeat_interleave(5, dim=1),
    )
    for slate in KERNELS[name](copies, 40, GRID[:10], Options()).flatten(0, 1).tolist():
        met = [[place for place in slate if place // 5 == kind] for kind in range(8)]
        assert met == [sorted(own) for own in met]


@each_kernel
def test_dial_zero_is_the_models_order_to_the_bit(name):
    candidates = random_candidates(4, num_users=30, num_candidates=50)
    # neighbours of float32: any rounding would change places
    steps = torch.arange(50, 0, -1, dtype=torch.float32)
    scores = (1 + steps * torch.finfo(torch.float32).eps).expand(30, 50)
    slates = KERNELS[name](replace(candidates, scores_BC=scores), 20, [0.0], Options())
    assert torch.equal(slates[:, 0], torch.arange(20).expand(30, 20))


@each_kernel
def test_padding_changes_nothing_but_the_places(name):
    candidates = random_candidates(6)
    is_padding = torch.zeros(6, 12, dtype=torch.bool)
    is_padding[:, ::4] = True
    padded = with_padding(candidates, is_padding)
    real = padded.is_real_BC[0]
    without = replace(
        candidates.of_rows(slice(0, 1)),
        scores_BC=candidates.scores_BC[:1, real],
        items_BC=candidates.items_BC[:1, real],
    )
    slates = KERNELS[name](padded, 12, GRID, Options())[0]
    expected = KERNELS[name](without, 12, GRID, Options())[0]
    places = real.nonzero()[:, 0]
    assert torch.equal(slates[:, :9], places[expected[:, :9]])
    assert bool((slates[:, 9:] == -1).all())


@each_kernel
def test_an_item_outside_the_catalogue_is_refused(name):
    candidates = random_candidates(0)
    for item in (-1, candidates.traits.num_items):
        items = candidates.items_BC.clone()
        items[2, 3] = item
        with pytest.raises(IndexError, match=r"none of 0\.\.35"):
            RERANKERS[name](replace(candidates, items_BC=items), 3, [0.5], Options())


def test_tensors_of_any_layout_will_do():
    candidates = random_candidates(8, num_users=12)
    turned = replace(
        candidates,
        scores_BC=candidates.scores_BC.T.contiguous().T,
        items_BC=candidates.items_BC.T.contiguous().T,
    )
    slates = KERNELS["dpp"](turned, 5, GRID, Options())
    assert torch.equal(slates, KERNELS["dpp"](candidates, 5, GRID, Options()))


def test_logarithms_are_those_of_numpy():
    left = np.geomspace(1e-6, 2, 100_000, dtype=np.float32)
    table = np.stack([left, left])
    _take_logs(table, 0, np.float32(1e-6), 1)
    expected = np.log(left.astype(np.float64))
    assert np.abs(table[1] - expected).max() <= 1e-6  # one bit of 13.8
    assert np.abs(table[1] - expected)[left > 0.9].max() <= 6e-8


def test_logarithms_stop_at_the_smallest():
    table = np.array([[0.0, -1.0, 1e-9], [0, 0, 0]], dtype=np.float32)
    _take_logs(table, 0, np.float32(1e-6), 1)
    np.testing.assert_allclose(table[1], np.log(1e-6), rtol=1e-6)


def first_call(place, **environment):
    code = ["-c", FIRST_CALL]
    return subprocess.Popen(
        [sys.executable, *code],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(place)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def installed(place):
    """Return a copy of the package, and of the tests' candidates, that nothing is kept beside."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT, place / "recdiv_core", ignore=ignore)
    (place / "tests").mkdir()
    shutil.copy(ROOT.parent / "tests" / "candidate_worlds.py", place / "tests")
    return place


@pytest.mark.slow
def test_processes_that_compile_at_once_agree_and_keep_it(tmp_path):
    place = installed(tmp_path)
    running = [first_call(place) for _ in range(3)]
    answers = [process.communicate(timeout=500) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], answers
    expected = RERANKERS["mmr"](random_candidates(5), 4, [0.3, 0.8], Options()).tolist()
    assert [out.strip() for out, _ in answers] == [str(expected)] * 3
    assert list((place / "recdiv_core" / "rerank" / "__pycache__").glob("compiled*.nbi"))


@pytest.mark.slow
def test_it_compiles_where_nothing_can_be_kept(tmp_path):
    place = installed(tmp_path)
    # files where directories are looked for: nobody, not even root, makes a cache there
    for folder in (place / "recdiv_core" / "rerank", place):
        (folder / "__pycache__").write_text("")
    home = str(place / "__pycache__")
    process = first_call(place, HOME=home, XDG_CACHE_HOME=home, PYTHONDONTWRITEBYTECODE="1")
    answer, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    expected = RERANKERS["mmr"](random_candidates(5), 4, [0.3, 0.8], Options()).tolist()
    assert answer.strip() == str(expected)


def test_what_is_compiled_is_known_without_importing_it():
    assert list(COMPILED) == list(KERNELS)
