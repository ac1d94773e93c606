"""A mixture-of-experts layer of one rank: router, then the active experts one after the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)

from llm_profile.model_config import ModelConfig
from llm_profile.profiler.model import Weights
from llm_profile.profiler.timing import Stamp


class Experts:
    """All experts of a layer, each split by columns over the ranks (tensor parallelism)."""

    def __init__(self, model: ModelConfig, tp_size: int, weights: Weights) -> None:
        self._model = model
        self._weights = weights
        hidden, columns = model.hidden_size, model.moe_intermediate_size // tp_size
        self._router = weights.normal(model.num_experts, hidden)
        self._w1 = weights.normal(model.num_experts, columns, hidden)
        self._w3 = weights.normal(model.num_experts, columns, hidden)
        self._w2 = weights.normal(model.num_experts, hidden, columns)

    def rows_of_experts(self, tokens: int, activated: int) -> list[torch.Tensor]:
        """Tokens of each active expert: choices are dealt out in turn, so every expert gets as many."""
        choices = torch.arange(tokens * self._model.num_experts_per_tok, device=self._weights.device)
        token = choices // self._model.num_experts_per_tok
        return [token[choices % activated == expert] for expert in range(activated)]

    def forward(self, x: torch.Tensor, rows: list[torch.Tensor], stamp: Stamp) -> torch.Tensor:
        """The whole layer, with experts on the given rows instead of the router's choice."""
        weight = self._route(x)
        out = torch.zeros_like(x)
        for expert, mine in enumerate(rows):
            y = self._expert(expert, x[mine], lambda _: None)
            out.index_add_(0, mine, y * weight[mine, :1])
        stamp("moe")
        return out

    def one_by_one(self, x: torch.Tensor, expert: int, stamp: Stamp) -> torch.Tensor:
        """Router and one expert that gets every token, stamped layer by layer."""
        self._route(x)
        stamp("gate")
        return self._expert(expert, x, stamp)

    def _route(self, x: torch.Tensor) -> torch.Tensor:
        """Weights of the chosen experts, ``[tokens, experts per token]``."""
        scores = F.linear(x, self._router).softmax(dim=-1)
        weight, _ = scores.topk(self._model.num_experts_per_tok, dim=-1)
        return weight / weight.sum(dim=-1, keepdim=True)

    def _expert(self, expert: int, x: torch.Tensor, stamp: Stamp) -> torch.Tensor:
        gate = F.linear(x, self._w1[expert])
        stamp("expert.w1")
        up = F.linear(x, self._w3[expert])
        stamp("expert.w3")
        x = F.silu(gate) * up
        stamp("act_fn")
        x = F.linear(x, self._w2[expert])
        stamp("expert.w2")
        return x
