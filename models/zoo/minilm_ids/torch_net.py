"""all-MiniLM-L6-v2 in PyTorch: six layers of a BERT, the mean over a sentence's tokens, and that at length 1.

It holds no size of batch or sequence, so that a trace, `torch.export` and the ONNX exporter keep both variable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from models.zoo.minilm_ids.sizes import EPSILON, HEADS, INNER, LAYERS, MASKED, POSITIONS, VOCABULARY, WIDTH

if TYPE_CHECKING:
    from models.zoo.dataset import Dataset


def build(_: Dataset | None = None) -> nn.Module:
    """The network with weights drawn at random."""
    return MiniLM()


def pretrained(_: Dataset | None = None) -> nn.Module:
    """The network with the package's trained weights, in evaluation mode."""
    from models.zoo.minilm_ids import weights

    net = MiniLM()
    net.load_state_dict({name: torch.from_numpy(value) for name, value in weights.load().items()})
    return net.eval()


class Layer(nn.Module):
    """One layer of the encoder: attention and two dense layers, each added to what came in and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.attended = nn.Linear(WIDTH, WIDTH)
        self.attended_norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.inner = nn.Linear(WIDTH, INNER)
        self.outer = nn.Linear(INNER, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=EPSILON)

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Hidden [n, tokens, 384]; `bias` [n, 1, 1, tokens] is added to the scores of every token."""
        query, key, value = (
            made.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
            for made in (self.query(hidden), self.key(hidden), self.value(hidden))
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        hidden = self.attended_norm(self.attended(mixed.transpose(1, 2).flatten(2)) + hidden)
        return self.norm(self.outer(functional.gelu(self.inner(hidden))) + hidden)


class MiniLM(nn.Module):
    """Ids and mask INT64 [n, tokens] in, embeddings FP32 [n, 384] out; a row that is all masked gives zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(POSITIONS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The embedding of each row; `attention_mask` is 1 for a token and 0 for what fills up the row."""
        mask = attention_mask.to(self.norm.weight.dtype)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        # Not `self.word(input_ids)`: the ONNX exporter would call that value `embedding`, as the model's output is.
        words = self.word.weight.index_select(0, input_ids.flatten()).unflatten(0, input_ids.shape)
        hidden = self.norm(words + self.position.weight.index_select(0, positions))
        bias = ((1 - mask) * MASKED)[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, bias)
        weight = mask.unsqueeze(-1)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
        return functional.normalize(mean, dim=1)
