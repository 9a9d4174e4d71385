"""The trained text encoder in shards: each worker keeps its share of every layer (FSDP).

For encoders whose weights, gradients and moments, four numbers a trained weight, do not fit one
card. A layer is put together where it is needed, in the forward pass and on the way back, and cut
again; the towers stay whole on every worker, under DDP, and so does what of the encoder stands
outside its layers (the table of tokens), which never trains. Checkpoints hold whole tensors: one of
a sharded run goes on, is judged and is served without shards, and the other way round. All workers
must meet in every pass of the encoder and in everything here that puts tensors together.
Rajbhandari et al., 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from recdiv_core.models.recommender import Recommender
from recdiv_core.models.trainable_encoder import encoder_layers


def shard_encoder(model: Recommender, device: torch.device) -> None:
    """Cut the layers of a model's encoder over all workers; before DDP wraps the model.

    Layer by layer they move to the device and are cut there, so that it never holds them all.

    Args:
        model: with an encoder, the same weights on all workers; still on the CPU.
        device: that trains.
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
    # DDP's own list of what others look after; torch has no public name for it
    names = [name for name, parameter in model.named_parameters() if is_shard(parameter)]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)


def is_shard(tensor: object) -> bool:
    """Return whether this is one worker's share of a tensor."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tree: Any) -> Any:
    """Return a tree of tensors, as state dicts are, with shards put together, on the CPU.

    All workers meet, tensor by tensor, when there are shards; others' tensors are returned as they
    are.
    """
    if is_shard(tree):
        return tree.detach().full_tensor().cpu()
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [whole(value) for value in tree]
    return tree


def load_whole(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Load whole weights into a model, of what is in shards this worker's share."""
    own = model.state_dict()
    model.load_state_dict({name: _share(weights[name], like=own[name]) for name in own})


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimiser's whole state, of what is in shards this worker's share."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shares = {
        index: {
            name: _share(value, like=parameters[index]) if value.ndim else value
            for name, value in moments.items()
        }
        for index, moments in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": shares})


def clip_gradients(parameters: Iterable[nn.Parameter], clip_norm: float) -> torch.Tensor:
    """Shorten the gradient to `clip_norm` where it is longer; return its norm before.

    All workers meet when there are shards.
    """
    from torch.distributed.tensor import DTensor

    trained = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    shards = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    if not shards:
        return nn.utils.clip_grad_norm_(trained, clip_norm)
    others = [gradient for gradient in gradients if not is_shard(gradient)]
    of_shards: Any = nn.utils.get_total_norm(shards)
    norm = torch.stack([of_shards.full_tensor(), nn.utils.get_total_norm(others)]).norm()
    factor = float(clip_norm / (norm + 1e-6))  # as clip_grad_norm_ does
    if factor < 1:
        for gradient in gradients:
            gradient.mul_(factor)
    return norm


def _share(tensor: torch.Tensor, *, like: torch.Tensor) -> torch.Tensor:
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    mesh = like.device_mesh
    there = tensor.to(mesh.device_type)
    return distribute_tensor(there, mesh, like.placements, src_data_rank=None)
