# pyright: strict
"""The session tower: a causal transformer over packed histories.

Histories have different lengths, and padding each to the longest wastes most of the work on real
logs. Several histories therefore share one row of the batch (data/batches.py packs them), and a
mask separates them. Blocks are pre-norm. Attention knows how many events apart two events are, by a
learned bias per head. So the latest event means the same in a history of any length, and in a
window of a longer one. Inputs of ids alone are normalised: id vectors start near 0, and what
attention adds would drown them. Kang & McAuley, 2018, Self-Attentive Sequential Recommendation;
Shaw et al., 2018, Self-Attention with Relative Position Representations. Shapes: R packed rows, W
their width, D dims, H heads.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class _Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, max_history: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 4 * dim)
        self.down = nn.Linear(4 * dim, dim)
        self.distance = nn.Parameter(torch.zeros(num_heads, max_history + 1))

    def forward(
        self, x_RWD: torch.Tensor, mask_R1WW: torch.Tensor, distance_WW: torch.Tensor
    ) -> torch.Tensor:
        rows, width, dim = x_RWD.shape
        qkv = self.qkv(self.norm_attention(x_RWD))
        q, k, v = (
            part.view(rows, width, self.num_heads, dim // self.num_heads).transpose(1, 2)
            for part in qkv.chunk(3, dim=-1)
        )
        bias_HWW = self.distance[:, distance_WW].to(q.dtype)
        bias_RHWW = bias_HWW.masked_fill(~mask_R1WW, -torch.inf)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias_RHWW)
        attended = self.out(attended.transpose(1, 2).reshape(rows, width, dim))
        x_RWD = x_RWD + F.dropout(attended, self.dropout, self.training)
        hidden = self.down(F.gelu(self.up(self.norm_mlp(x_RWD))))
        return x_RWD + F.dropout(hidden, self.dropout, self.training)


class SessionTower(nn.Module):
    """Turn histories of item vectors into session states.

    Args:
        dim: D, a multiple of num_heads.
        num_layers: number of blocks.
        num_heads: attention heads per block.
        max_history: largest number of items in a history; one more position is the start.
        dropout: dropout rate in [0, 1), on inputs and after attention and feed-forward.
        normalises_inputs: whether to bring the inputs to one scale: for item vectors without text.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        max_history: int,
        dropout: float,
        normalises_inputs: bool = False,
    ) -> None:
        super().__init__()
        self.dropout, self.max_history = dropout, max_history
        self.start = nn.Parameter(torch.empty(dim))
        self.blocks = nn.ModuleList(
            _Block(dim, num_heads, max_history, dropout) for _ in range(num_layers)
        )
        self.norm_inputs = nn.LayerNorm(dim) if normalises_inputs else nn.Identity()
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.start, std=0.02)

    def forward(
        self,
        inputs_RWD: torch.Tensor,
        position_RW: torch.Tensor,
        segment_RW: torch.Tensor,
        request_RWD: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the state after each event.

        Args:
            inputs_RWD: vector of the event at each slot; ignored where position is 0 (the start).
            position_RW: int64, 0 = start of a history, then 1, 2, ...
            segment_RW: int64, number of the slot's history; -1 = empty slot.
            request_RWD: vector of the query to answer at each slot; 0 = no query.

        Returns:
            [R, W, D]; the state at a slot depends on its own history up to and including the slot.
        """
        is_start = (position_RW == 0)[..., None]
        x = torch.where(is_start, self.start, inputs_RWD)
        if request_RWD is not None:
            x = x + request_RWD
        x = F.dropout(self.norm_inputs(x), self.dropout, self.training)
        width = position_RW.shape[1]
        same = segment_RW[:, :, None] == segment_RW[:, None, :]
        causal = torch.ones(width, width, dtype=torch.bool, device=x.device).tril()
        mask = (same & causal)[:, None]
        places = torch.arange(width, device=x.device)
        # a history fills neighbouring slots; other slots are masked whatever their distance
        distance = (places[:, None] - places).clamp(0, self.max_history)
        for block in self.blocks:
            x = block(x, mask, distance)
        return self.norm(x)
