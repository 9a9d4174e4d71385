"""What only a GPU can show: `pytest -m gpu tests`, on the day there is one."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch._dynamo.utils import counters

from recdiv_core.rerank.top_scores import top_scores
from recdiv_core.training.shards import shard_encoder, whole
from recdiv_core.training.step import train_step
from tests.step_worlds import NUM_ITEMS, USERS, assert_equal_weights, fresh_model, objective, part
from tests.test_trainable_encoder import model_of, source, texts

__all__ = ["source"]  # a fixture

DEVICE = torch.device("cuda")
PARTS = USERS[:4], USERS[4:], USERS[2:], []

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings(
        "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning",
        "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning",
    ),
]


def trained_on(device, *, compiled=False, precision=torch.float32):
    """Return the weights after two steps of four parts, on the CPU."""
    model = fresh_model().to(device)
    if compiled:
        model.compile_towers()
    wanted = objective(diversity_weight=0.5)
    wanted = replace(wanted, traits=wanted.traits.to(device))
    parts = [part(users) for users in PARTS]
    parts = [replace(each, packed=each.packed.to(device)) for each in parts]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0, enabled=precision == torch.half)
    for _ in range(2):
        train_step(
            model,
            parts,
            wanted,
            optimizer,
            scaler,
            precision=precision,
            clip_norm=1.0,
            shown_V=torch.zeros(NUM_ITEMS, device=device),
            negatives=None,
        )
    return {name: value.cpu() for name, value in model.state_dict().items()}


def test_a_step_moves_the_weights_as_on_the_cpu():
    assert_equal_weights(trained_on(DEVICE), trained_on(torch.device("cpu")), atol=1e-5)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision_moves_the_weights_nearly_as_float32_does(precision):
    mixed = trained_on(DEVICE, precision=precision)
    assert_equal_weights(mixed, trained_on(DEVICE), atol=2e-3)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_compiled_towers_move_the_weights_as_without(precision):
    torch._dynamo.reset()
    counters.clear()
    compiled = trained_on(DEVICE, compiled=True, precision=precision)
    assert counters["stats"]["unique_graphs"] <= 3  # the first rows, any rows, and one
    atol = 1e-5 if precision == torch.float32 else 2e-3
    assert_equal_weights(compiled, trained_on(DEVICE, precision=precision), atol=atol)


def test_layers_computed_again_need_less_memory(source):
    fresh = texts(num_items=16, num_tokens=48)
    peaks = []
    for recomputes in (False, True):
        model = model_of(source, recomputes=recomputes).to(DEVICE)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model.encode(fresh.input_ids.to(DEVICE), fresh.mask.to(DEVICE)).sum().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < peaks[0] / 2


def test_an_encoder_in_shards_has_the_gradients_of_a_whole_one(source, tmp_path):
    fresh, found = texts(), []
    backend = "nccl" if DEVICE.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for is_sharded in (False, True):
            model = model_of(source, layers=2)
            if is_sharded:
                shard_encoder(model, DEVICE)
            model.to(DEVICE)
            vectors = model.encode(fresh.input_ids.to(DEVICE), fresh.mask.to(DEVICE))
            vectors.square().sum(1).log().add(vectors[:, 0]).sum().backward()
            trained = dict(model.encoder.named_parameters())
            found.append(whole({n: p.grad for n, p in trained.items() if p.grad is not None}))
    finally:
        dist.destroy_process_group()
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient.cpu(), atol=1e-5, rtol=1e-4, msg=name)


def test_of_equal_scores_the_lower_index_comes_first():
    scores = torch.randn(8, 5000, generator=torch.Generator().manual_seed(0)).round()
    values, index = top_scores(scores.to(DEVICE), 50)
    order = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values.cpu(), order.values[:, :50])
    assert torch.equal(index.cpu(), order.indices[:, :50])
