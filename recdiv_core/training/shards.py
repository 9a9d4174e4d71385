"""The trained text encoder in shards: each worker keeps its share of every layer (FSDP).

For encoders whose weights, gradients and moments, four numbers per trained weight, do not fit one
card. FSDP assembles a layer where it is needed, in the forward and the backward pass, and cuts it
again. The towers stay whole on every worker, and so do the encoder's weights outside its layers
(the token embeddings), which never train. Beside a sharded encoder there is no DDP: it does not
take sharded weights. `average_gradients` does its work for the towers. Checkpoints hold whole
tensors, so a sharded run can be resumed, evaluated and served without shards, and vice versa. Every
function here that assembles tensors is a collective call, and so is every pass of the encoder.
Rajbhandari et al., 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import torch
import torch.distributed as dist
from torch import nn

from recdiv_core.models.recommender import Recommender
from recdiv_core.models.trainable_encoder import encoder_layers
from recdiv_core.training.parts import to_device

if TYPE_CHECKING:  # the step needs no pyarrow
    from recdiv_core.training.item_texts import ItemTexts

REFRESH_ROWS: Final = 64
"""Texts that are encoded at once."""


def shard_encoder(model: Recommender, device: torch.device) -> None:
    """Cut the layers of a model's encoder over all workers.

    Each layer moves to the device and is cut there, so that the device never holds them all.

    Args:
        model: model with an encoder, the same weights on all workers, still on the CPU.
        device: device of the training.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    encoder = model.encoder
    assert encoder is not None
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in encoder_layers(encoder):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    outside = {parameter for parameter in encoder.parameters() if not is_shard(parameter)}
    fully_shard(encoder, mesh=mesh, ignored_params=outside)


def is_shard(tensor: object) -> bool:
    """Return whether this is one worker's share of a tensor."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tree: Any) -> Any:
    """Return a tree of tensors, such as a state dict, with shards assembled on the CPU.

    With shards this is a collective call, tensor by tensor. Other values are returned as they are.
    """
    if is_shard(tree):
        return tree.detach().full_tensor().cpu()
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [whole(value) for value in tree]
    return tree


def load_whole(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Load whole weights into a model; a sharded tensor takes this worker's share."""
    own = model.state_dict()
    model.load_state_dict({name: _share(weights[name], like=own[name]) for name in own})


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimiser's moments; a sharded tensor takes this worker's share.

    The settings of the optimiser stay: they come from the config.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shares = {
        index: {
            name: _share(value, like=parameters[index]) if value.ndim else value
            for name, value in moments.items()
        }
        for index, moments in state["state"].items()
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": shares})


def average_gradients(model: nn.Module) -> None:
    """Average the gradients of the weights that are not sharded over all workers, as DDP does."""
    trained = [p for p in model.parameters() if p.requires_grad and not is_shard(p)]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for parameter, part in zip(trained, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def clip_gradients(model: nn.Module, clip_norm: float) -> torch.Tensor:
    """Scale the gradient down to `clip_norm` where it is longer; return its norm before.

    With shards this is a collective call. The norm stays on the device.
    """
    trained = [p for p in model.parameters() if p.grad is not None]
    shards = [p for p in trained if is_shard(p)]
    if not shards:
        return nn.utils.clip_grad_norm_(trained, clip_norm)
    others = [p for p in trained if not is_shard(p)]
    of_shards, of_others = (
        nn.utils.get_total_norm([p.grad for p in some if p.grad is not None])
        for some in (shards, others)
    )
    norm = torch.stack([cast("Any", of_shards).full_tensor(), of_others]).norm()
    for some in (shards, others):
        nn.utils.clip_grads_with_norm_(some, clip_norm, norm)
    return norm


def refresh_texts(model: Recommender, texts: ItemTexts, rank: int, world_size: int) -> None:
    """Encode the texts of the whole catalogue with the current weights, each rank its share.

    Sorted by length, texts need little padding. A collective call: each rank gets the vectors of
    all.
    """
    if model.text_VH is None:
        return
    device, num_items = model.text_VH.device, len(texts)
    share = -(-num_items // world_size)
    mine = range(rank * share, min((rank + 1) * share, num_items))
    order = sorted(mine, key=lambda row: -texts.lengths[row])
    vectors = torch.zeros(share, model.text_VH.shape[1], device=device)
    with torch.no_grad():  # a sharded encoder cannot train on weights of inference_mode
        for start in range(0, share, REFRESH_ROWS):
            rows = order[start : start + REFRESH_ROWS]
            # every pass of a sharded encoder is collective: a rank without rows makes it too
            fresh = to_device(texts.one_group(rows or [0]), device)
            encoded = model.encode(fresh.input_ids, fresh.mask, fresh.states)
            places = torch.tensor(rows, dtype=torch.int64, device=device) - rank * share
            vectors[places] = encoded[: len(rows)].to(vectors.dtype)
    gathered = [vectors]
    if world_size > 1:
        gathered = [torch.zeros_like(vectors) for _ in range(world_size)]
        dist.all_gather(gathered, vectors)
    model.text_VH.copy_(torch.cat(gathered)[:num_items])


def _share(tensor: torch.Tensor, *, like: torch.Tensor) -> torch.Tensor:
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    mesh = like.device_mesh
    there = tensor.to(mesh.device_type)
    return distribute_tensor(there, mesh, like.placements, src_data_rank=None)
