"""The rival in training: the same decoder in PyTorch, as well as PyTorch can do it. A program of its own.

    python torch_train.py JOB.json

SLiM never imports this file, and this file imports nothing of SLiM: the job names the sizes, the weights and the
tokens, which arrive as arrays on disk. It answers with JSON lines: first what it computed from them, then, for each
line on stdin, the seconds of the steps it made and its peak memory.

Modes: `eager`, `compile` (torch.compile in fp32), `compile-bf16` (with bf16 autocast). All use fused AdamW, scaled
dot product attention, one matrix for q, k, v and one for gate, up, and cross entropy over all logits at once, as
nanoGPT does. torch.compile's max-autotune is no faster here.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from answer import say
from torch import nn


class Layer(nn.Module):
    """One layer; the names and layouts of its weights are SLiM's."""

    def __init__(self, model: dict) -> None:
        super().__init__()
        dim, hidden = model["dim"], model["hidden_dim"]
        self.n_heads, self.n_kv_heads = model["n_heads"], model["n_kv_heads"]
        self.head_dim = dim // self.n_heads
        self.eps = model["norm_eps"]
        self.wqkv = nn.Parameter(
            torch.empty((self.n_heads + 2 * self.n_kv_heads) * self.head_dim, dim)
        )
        self.wo = nn.Parameter(torch.empty(dim, dim))
        self.w_gate_up = nn.Parameter(torch.empty(2 * hidden, dim))
        self.w_down = nn.Parameter(torch.empty(dim, hidden))
        self.attn_norm = nn.Parameter(torch.empty(dim))
        self.ffn_norm = nn.Parameter(torch.empty(dim))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        H, G, D = self.n_heads, self.n_kv_heads, self.head_dim
        normed = F.rms_norm(x, (C,), self.attn_norm, self.eps)
        q, k, v = F.linear(normed, self.wqkv).split((H * D, G * D, G * D), dim=2)
        q = rotate(q.view(B, T, H, D).transpose(1, 2), cos, sin)
        k = rotate(k.view(B, T, G, D).transpose(1, 2), cos, sin)
        v = v.view(B, T, G, D).transpose(1, 2)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=H != G)
        x = x + F.linear(attended.transpose(1, 2).reshape(B, T, C), self.wo)
        gate, up = F.linear(F.rms_norm(x, (C,), self.ffn_norm, self.eps), self.w_gate_up).chunk(
            2, dim=2
        )
        return x + F.linear(F.silu(gate) * up, self.w_down)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE with the halves of a head as pairs."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).type_as(x)


class Decoder(nn.Module):
    """Tokens and targets -> mean loss."""

    def __init__(self, model: dict, length: int) -> None:
        super().__init__()
        self.eps = model["norm_eps"]
        self.tok_emb = nn.Parameter(torch.empty(model["vocab_size"], model["dim"]))
        self.layers = nn.ModuleList(Layer(model) for _ in range(model["n_layers"]))
        self.lm_head = None
        if not model["tie_embeddings"]:
            self.lm_head = nn.Parameter(torch.empty(model["vocab_size"], model["dim"]))
        self.final_norm = nn.Parameter(torch.empty(model["dim"]))
        head_dim = model["dim"] // model["n_heads"]
        inverse = model["rope_theta"] ** (
            -torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        )
        angles = torch.arange(length, dtype=torch.float64)[:, None] * inverse[None, :]
        self.register_buffer("cos", angles.cos().float())
        self.register_buffer("sin", angles.sin().float())

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = F.embedding(tokens, self.tok_emb)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        x = F.rms_norm(x, (x.shape[-1],), self.final_norm, self.eps)
        head = self.tok_emb if self.lm_head is None else self.lm_head
        logits = F.linear(x, head)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    def in_file_order(self) -> Iterator[nn.Parameter]:
        """The weights in the order of SLiM's flat array: matrices first, then norms."""
        yield self.tok_emb
        for layer in self.layers:
            yield from (layer.wqkv, layer.wo, layer.w_gate_up, layer.w_down)
        if self.lm_head is not None:
            yield self.lm_head
        for layer in self.layers:
            yield from (layer.attn_norm, layer.ffn_norm)
        yield self.final_norm

    def load(self, flat: np.ndarray) -> None:
        """Take the weights from a flat array."""
        start = 0
        with torch.no_grad():
            for weight in self.in_file_order():
                stop = start + weight.numel()
                weight.copy_(torch.from_numpy(flat[start:stop]).view_as(weight))
                start = stop
        if start != flat.size:
            raise SystemExit(f"the weights hold {flat.size} numbers, but the model has {start}")

    def gradients(self) -> np.ndarray:
        """The gradients as one flat array."""
        parts = [
            weight.grad.reshape(-1) for weight in self.in_file_order() if weight.grad is not None
        ]
        return torch.cat(parts).numpy()


def main() -> None:
    """Prepare, check, then measure on demand."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    shape = (job["batches"], job["batch"], job["length"] + 1)
    batches = torch.from_numpy(np.fromfile(job["tokens"], np.int32).reshape(shape).astype(np.int64))
    decoder = Decoder(job["model"], job["length"])
    decoder.load(np.fromfile(job["weights"], np.float32))
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in decoder.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in decoder.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=1e-4,
        betas=(0.9, 0.95),
        fused=True,
    )
    mode = job["mode"]
    run = decoder if mode == "eager" else torch.compile(decoder)
    bf16 = mode.endswith("bf16")

    def gradients(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = run(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        return loss

    def step(batch: torch.Tensor) -> float:
        loss = gradients(batch)
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    allocator = ", tcmalloc" if "tcmalloc" in os.environ.get("LD_PRELOAD", "") else ""
    loss = gradients(batches[0]).item()
    decoder.gradients().tofile(job["results"])
    optimizer.zero_grad(set_to_none=True)
    for number in range(job["warmup"]):
        step(batches[number % len(batches)])
    say(
        loss=loss,
        about=f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads{allocator}",
    )
    for _ in sys.stdin:
        seconds = []
        for number in range(job["steps"]):
            started = time.perf_counter()
            loss = step(batches[number % len(batches)])
            seconds.append(time.perf_counter() - started)
            if not math.isfinite(loss):
                raise SystemExit("the loss is not finite")
        say(values={"step_seconds": seconds})


if __name__ == "__main__":
    main()
