"""The model of one tensor-parallel rank in plain PyTorch, with random weights: measured layer by layer or whole.

One code for both: :meth:`Rank.forward` calls ``stamp(name)`` after each layer. Shapes are those of
:mod:`llm_profile.layers`; collectives are left out, as a latency table has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)

from llm_profile.layers import heads_per_rank
from llm_profile.model_config import ModelConfig
from llm_profile.profiler.timing import Stamp

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(block, q, k, v), each ``[tokens, heads, head_dim]``, to ``[tokens, q heads * head_dim]``."""
Linear = tuple[torch.Tensor, torch.Tensor | None]

WEIGHT_SCALE = 0.02
ROPE_BASE = 10_000.0
EPSILON = 1e-5


@dataclass(frozen=True)
class Weights:
    """How to make random weights: number format and device."""

    dtype: torch.dtype
    device: str

    def normal(self, *shape: int) -> torch.Tensor:
        """Normal random numbers, small enough for products to stay finite."""
        return torch.randn(shape, dtype=self.dtype, device=self.device).mul_(WEIGHT_SCALE)

    def linear(self, inputs: int, outputs: int, *, bias: bool) -> Linear:
        """Weight ``[outputs, inputs]`` and bias of a matrix layer."""
        return self.normal(outputs, inputs), self.normal(outputs) if bias else None


@dataclass(frozen=True)
class Block:
    """Weights of one transformer block."""

    input_norm: Linear
    qkv: tuple[Linear, ...]
    """One fused layer, or q, k and v."""
    qk_norm: tuple[torch.Tensor, torch.Tensor] | None
    o: Linear
    post_norm: Linear
    gate_up: tuple[Linear, ...]
    """One fused layer, gate and up, or none (mixture of experts)."""
    down: Linear | None


@dataclass(frozen=True)
class Inputs:
    """Tokens of one iteration, without their attention."""

    ids: torch.Tensor
    cos: torch.Tensor
    """``[tokens, 1, head_dim]``, as is ``sin``."""
    sin: torch.Tensor
    last_rows: torch.Tensor | None
    """Rows that logits are wanted of, or None for no LM head."""


class Rank:
    """``blocks`` blocks of a model, embedding and LM head, on one rank."""

    def __init__(
        self, model: ModelConfig, tp_size: int, weights: Weights, *, blocks: int, fused: bool
    ) -> None:
        self.model = model
        self.fused = fused
        self._weights = weights
        self.heads, self.kv_heads = heads_per_rank(model, tp_size)
        self._columns = model.intermediate_size // tp_size
        vocabulary = -(-model.vocab_size // tp_size)
        self.embedding = weights.normal(vocabulary, model.hidden_size)
        self.blocks = [self._block() for _ in range(blocks)]
        self.final_norm = self._norm_weights()
        self.lm_head = weights.linear(model.hidden_size, vocabulary, bias=model.lm_head_bias)
        if model.tie_word_embeddings:
            self.lm_head = (self.embedding, self.lm_head[1])

    def inputs(self, positions: torch.Tensor, last_rows: torch.Tensor | None) -> Inputs:
        """Inputs at ``positions`` with random token ids."""
        ids = torch.randint(len(self.embedding), (len(positions),), device=self._weights.device)
        half = torch.arange(0, self.model.head_dim, 2, device=self._weights.device) / self.model.head_dim
        angles = positions.to(torch.float32)[:, None] * ROPE_BASE**-half
        angles = torch.cat((angles, angles), dim=-1)[:, None, : self.model.head_dim]
        dtype = self._weights.dtype
        return Inputs(ids, angles.cos().to(dtype), angles.sin().to(dtype), last_rows)

    def forward(self, inputs: Inputs, attend: Attend | None, stamp: Stamp) -> torch.Tensor:
        """One iteration up to the sampled tokens; without ``attend``, attention is passed over."""
        x = F.embedding(inputs.ids, self.embedding)
        stamp("embedding")
        residual = None
        for i, block in enumerate(self.blocks):
            x, residual = self._norm(x, residual, block.input_norm)
            stamp("layernorm" if self.fused else "input_layernorm")
            q, k, v = self._qkv(x, block, stamp)
            q, k = _rotated(q, inputs), _rotated(k, inputs)
            stamp("rotary_emb" if self.fused else "rope")
            x = q.flatten(1) if attend is None else attend(i, q, k, v)
            stamp("attn")
            x = F.linear(x, *block.o)
            stamp("o_proj")
            x, residual = self._norm(x, residual, block.post_norm)
            stamp("layernorm" if self.fused else "post_layernorm")
            x = self._mlp(x, block, stamp)
        x, _ = self._norm(x, residual, self.final_norm)
        stamp("final_layernorm")
        if inputs.last_rows is None:
            return x
        logits = F.linear(x[inputs.last_rows], *self.lm_head)
        stamp("lm_head")
        return logits

    def _qkv(
        self, x: torch.Tensor, block: Block, stamp: Stamp
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dim = self.model.head_dim
        if self.fused:
            q_width, kv_width = self.heads * dim, self.kv_heads * dim
            q, k, v = F.linear(x, *block.qkv[0]).split((q_width, kv_width, kv_width), dim=-1)
            stamp("qkv_proj")
            q, k = q.unflatten(-1, (-1, dim)), k.unflatten(-1, (-1, dim))
            if block.qk_norm is not None:
                q, k = _rms_norm(q, block.qk_norm[0]), _rms_norm(k, block.qk_norm[1])
                stamp("qk_norm")
            return q, k, v.unflatten(-1, (-1, dim))
        heads = []
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            out = F.linear(x, *block.qkv[i]).unflatten(-1, (-1, dim))
            if block.qk_norm is not None and name != "v_proj":
                out = _rms_norm(out, block.qk_norm[i])
            stamp(name)
            heads.append(out)
        return heads[0], heads[1], heads[2]

    def _mlp(self, x: torch.Tensor, block: Block, stamp: Stamp) -> torch.Tensor:
        if block.down is None:
            return x
        if self.fused:
            gate, up = F.linear(x, *block.gate_up[0]).chunk(2, dim=-1)
            stamp("gate_up_proj")
        else:
            gate = F.linear(x, *block.gate_up[0])
            stamp("gate_proj")
            up = F.linear(x, *block.gate_up[1])
            stamp("up_proj")
        x = F.silu(gate) * up
        stamp("act_fn")
        x = F.linear(x, *block.down)
        stamp("down_proj")
        return x

    def _norm(
        self, x: torch.Tensor, residual: torch.Tensor | None, weights: Linear
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add to the residual stream and normalise it."""
        residual = x if residual is None else residual + x
        if weights[1] is not None:
            return F.layer_norm(residual, weights[0].shape, *weights, EPSILON), residual
        return _rms_norm(residual, weights[0]), residual

    def _norm_weights(self) -> Linear:
        hidden = self.model.hidden_size
        has_shift = self.model.model_type == "phimoe"
        return self._weights.normal(hidden), self._weights.normal(hidden) if has_shift else None

    def _block(self) -> Block:
        model, make = self.model, self._weights
        hidden, dim = model.hidden_size, model.head_dim
        q_width, kv_width = self.heads * dim, self.kv_heads * dim
        bias = model.attention_bias or model.model_type == "qwen2"
        qkv = (q_width + 2 * kv_width,) if self.fused else (q_width, kv_width, kv_width)
        gate_up = (2 * self._columns,) if self.fused else (self._columns, self._columns)
        return Block(
            input_norm=self._norm_weights(),
            qkv=tuple(make.linear(hidden, width, bias=bias) for width in qkv),
            qk_norm=(make.normal(dim), make.normal(dim)) if model.has_qk_norm else None,
            o=make.linear(q_width, hidden, bias=model.attention_bias and model.model_type != "qwen2"),
            post_norm=self._norm_weights(),
            gate_up=()
            if model.is_moe
            else tuple(make.linear(hidden, width, bias=model.mlp_bias) for width in gate_up),
            down=None if model.is_moe else make.linear(self._columns, hidden, bias=model.mlp_bias),
        )


def sample(logits: torch.Tensor) -> torch.Tensor:
    """Greedy sampling: the token of each row with the largest logit."""
    return logits.argmax(dim=-1)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, weight.shape, weight, EPSILON)


def _rotated(x: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021) of heads ``[tokens, heads, head_dim]``, halves rotated."""
    low, high = x.chunk(2, dim=-1)
    return x * inputs.cos + torch.cat((-high, low), dim=-1) * inputs.sin
