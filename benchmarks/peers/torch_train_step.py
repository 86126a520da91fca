#!/usr/bin/env python3
"""Time of a training step of the same dense transformer in PyTorch, on the CPU, in float32.

The peer of `natsformer bench train --types dense`: pre-norm blocks with RMSNorm, RoPE, causal attention
(scaled_dot_product_attention), SwiGLU, no biases, tied embeddings, mean cross-entropy, gradients clipped at
norm 1, AdamW with decay on matrices only. PyTorch may use what it has: fused AdamW, torch.compile.

Prints one JSON object: {"eager": {"step_ms": ..., "tokens_per_s": ...}, "compile": {...}}.
"""
import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class RMSNorm(nn.Module):
    def __init__(self, width, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        if hasattr(F, "rms_norm"):  # PyTorch 2.4
            return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rope_table(length, head_size, theta=10000.0):
    frequency = theta ** (-torch.arange(0, head_size, 2).float() / head_size)
    angle = torch.arange(length).float()[:, None] * frequency
    return angle.cos(), angle.sin()  # [T, D/2] each


def rope(x, cos, sin):  # x: [B, H, T, D]; pairs (i, i + D/2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    def __init__(self, width, heads, mlp_size):
        super().__init__()
        self.heads = heads
        self.attention_norm = RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = RMSNorm(width)
        self.up = nn.Linear(width, 2 * mlp_size, bias=False)
        self.down = nn.Linear(mlp_size, width, bias=False)

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(rope(q, cos, sin), rope(k, cos, sin), v, is_causal=True)
        x = x + self.out(o.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Transformer(nn.Module):
    def __init__(self, vocab, width, layers, heads, mlp_size, length):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_size) for _ in range(layers))
        self.norm = RMSNorm(width)
        cos, sin = rope_table(length, width // heads)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def make_optimizer(model):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    try:
        return torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    except (RuntimeError, TypeError):  # PyTorch before 2.4 has it on GPUs only
        return torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))


def measure(options, compiled):
    torch.manual_seed(1)
    mlp_size = -(8 * options.width // -192) * 64  # 8/3 width, up to a multiple of 64
    model = Transformer(options.vocab, options.width, options.layers, options.heads, mlp_size, options.length)
    optimizer = make_optimizer(model)
    forward = torch.compile(model) if compiled else model
    shape = (options.batch, options.length)
    seconds = []
    for step in range(options.steps + 3):
        tokens = torch.randint(options.vocab, shape)
        targets = torch.randint(options.vocab, shape)
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        forward(tokens, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step >= 3:
            seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    return {"step_ms": 1000 * median, "tokens_per_s": options.batch * options.length / median}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=4096)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads", file=sys.stderr)
    result = {"eager": measure(options, False)}
    try:
        result["compile"] = measure(options, True)
    except Exception as error:  # torch.compile needs a C++ compiler and is not on every platform
        print(f"no torch.compile here: {str(error).splitlines()[0]}", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
