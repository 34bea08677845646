"""A Llama in PyTorch, as small as it can be said, under the names that it is saved by."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1536,
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": [0, 3],
    "torch_dtype": "bfloat16",
}
HIDDEN, FF, LAYERS = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["num_hidden_layers"]
HEADS, KV_HEADS, HEAD_DIM = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"], 64
BLOCK = 128
"""So many queries attend at once."""


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD_DIM, HIDDEN, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """``x``: [batch, tokens, HIDDEN]; ``cos``, ``sin``: [tokens, HEAD_DIM / 2]."""
        batch, tokens, _ = x.shape
        q = self.q_proj(x).view(batch, tokens, HEADS, HEAD_DIM).transpose(1, 2)
        k = self.k_proj(x).view(batch, tokens, KV_HEADS, HEAD_DIM).transpose(1, 2)
        v = self.v_proj(x).view(batch, tokens, KV_HEADS, HEAD_DIM).transpose(1, 2)
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        k, v = (y.repeat_interleave(HEADS // KV_HEADS, dim=1) for y in (k, v))
        mixed = causal_attention(q, k, v)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, HEADS * HEAD_DIM))


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All [batch, HEADS, tokens, HEAD_DIM]; blocks of queries see no later block's keys.

    PyTorch's fused attention has a slow backward pass on CPUs: docs/log.md has how slow.
    """
    mixed = []
    for start in range(0, q.shape[2], BLOCK):
        queries = q[:, :, start : start + BLOCK]
        end = start + queries.shape[2]
        scores = (queries @ k[:, :, :end].transpose(-1, -2)).float() / HEAD_DIM**0.5
        seen = torch.ones(end - start, end, dtype=torch.bool, device=q.device).tril(start)
        shares = scores.masked_fill(~seen, -math.inf).softmax(-1)
        mixed.append(shares.to(v.dtype) @ v[:, :, :end])
    return torch.cat(mixed, dim=2)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, FF, bias=False)
        self.up_proj = nn.Linear(HIDDEN, FF, bias=False)
        self.down_proj = nn.Linear(FF, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(HIDDEN, eps=CONFIG["rms_norm_eps"])
        self.self_attn = Attention()
        self.post_attention_layernorm = nn.RMSNorm(HIDDEN, eps=CONFIG["rms_norm_eps"])
        self.mlp = FeedForward()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Stories(nn.Module):
    """The whole model; its head is its embedding."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(CONFIG["vocab_size"], HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN, eps=CONFIG["rms_norm_eps"])
        self.dropout = nn.Dropout(dropout)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                scale = 0.02 / (2 * LAYERS) ** 0.5 if "o_proj" in name or "down" in name else 0.02
                nn.init.normal_(weight, std=scale)

    def forward(self, ids: Tensor) -> Tensor:
        """``ids``: [batch, tokens]. Returns the last hidden states, [batch, tokens, HIDDEN]."""
        cos, sin = angles(ids.shape[1], ids.device)
        x = self.dropout(self.embed_tokens(ids))
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., HIDDEN] to [..., vocabulary]."""
        return F.linear(hidden, self.embed_tokens.weight)


def angles(tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, [tokens, HEAD_DIM / 2]."""
    steps = torch.arange(0, HEAD_DIM, 2, device=device).float() / HEAD_DIM
    turns = torch.outer(torch.arange(tokens, device=device).float(), CONFIG["rope_theta"] ** -steps)
    return turns.cos(), turns.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in the Hugging Face layout: first half with second half."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
