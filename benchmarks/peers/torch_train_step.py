#!/usr/bin/env python3
r"""Time of a training step of the same dense transformer in PyTorch.

The peer of `natsformer bench train --types dense`: pre-norm blocks, RoPE, causal attention
(scaled_dot_product_attention), tied embeddings, mean cross-entropy, gradients clipped at norm 1, AdamW with
decay on matrices only. PyTorch may use what it has: fused AdamW, flash attention, torch.compile.

On the CPU in float32. On a GPU in bfloat16: `autocast` keeps float32 parameters, as natsformer does; `pure`
has bfloat16 parameters and moments and no float32 copy, which is faster and trains worse.

Prints one JSON object on one line: {"torch": ..., "eager": {"step_ms": ..., "tokens_per_s": ...},
"compile": {...}}. GPT-2 124M:
  torch_train_step.py --device cuda --width 768 --layers 12 --heads 12 --vocab 50304 --norm layer --mlp gelu \
    --bias --length 1024 --batch 64 --only compile
"""
import argparse
import contextlib
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
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).type_as(x)


def mlp_size(o):  # 4 width; gated 8/3 width, up to a multiple of 64
    return 4 * o.width if o.mlp == "gelu" else -(8 * o.width // -192) * 64


def make_norm(o):
    return nn.LayerNorm(o.width, bias=o.bias) if o.norm == "layer" else RMSNorm(o.width)


class Block(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.heads, self.gated = o.heads, o.mlp == "swiglu"
        inner = mlp_size(o)
        self.attention_norm = make_norm(o)
        self.qkv = nn.Linear(o.width, 3 * o.width, bias=o.bias)
        self.out = nn.Linear(o.width, o.width, bias=o.bias)
        self.mlp_norm = make_norm(o)
        self.up = nn.Linear(o.width, 2 * inner if self.gated else inner, bias=o.bias)
        self.down = nn.Linear(inner, o.width, bias=o.bias)

    def mlp(self, x):
        if not self.gated:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(rope(q, cos, sin), rope(k, cos, sin), v, is_causal=True)
        x = x + self.out(o.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.embedding = nn.Embedding(o.vocab, o.width)
        self.blocks = nn.ModuleList(Block(o) for _ in range(o.layers))
        self.norm = make_norm(o)
        cos, sin = rope_table(o.length, o.width // o.heads)
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


def precision(o):
    if o.device == "cpu" or o.precision == "pure":
        return contextlib.nullcontext()
    return torch.autocast("cuda", dtype=torch.bfloat16)


def train_step(forward, model, optimizer, pieces, o):
    optimizer.zero_grad(set_to_none=True)
    for tokens, targets in pieces:
        with precision(o):
            loss = forward(tokens, targets) / len(pieces)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def random_pieces(o):
    shape = (o.batch, o.length)
    tokens = torch.randint(o.vocab, shape, device=o.device)
    targets = torch.randint(o.vocab, shape, device=o.device)
    return list(zip(tokens.split(o.micro_batch), targets.split(o.micro_batch)))


# Seconds of each step. On a GPU the host runs ahead and never waits between steps.
def time_steps(step, o):
    if o.device == "cpu":
        seconds = []
        for _ in range(o.steps):
            pieces = random_pieces(o)
            started = time.perf_counter()
            step(pieces)
            seconds.append(time.perf_counter() - started)
        return seconds
    marks = []
    for _ in range(o.steps):
        pieces = random_pieces(o)
        marks.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
        marks[-1][0].record()
        step(pieces)
        marks[-1][1].record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1000 for begin, end in marks]


def measure(o, compiled):
    torch.manual_seed(1)
    model = Transformer(o).to(o.device)
    if o.device == "cuda" and o.precision == "pure":
        model = model.to(torch.bfloat16)
    optimizer = make_optimizer(model)
    forward = torch.compile(model, mode=o.compile_mode) if compiled else model

    def step(pieces):
        train_step(forward, model, optimizer, pieces, o)

    for _ in range(o.warm_up):
        step(random_pieces(o))
    median = statistics.median(time_steps(step, o))
    result = {"step_ms": 1000 * median, "tokens_per_s": o.batch * o.length / median}
    if o.device == "cuda":
        result["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
    return result


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("autocast", "pure"), default="autocast", help="on a GPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=0, help="sequences of one pass; default: all")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--norm", choices=("rms", "layer"), default="rms")
    parser.add_argument("--mlp", choices=("swiglu", "gelu"), default="swiglu")
    parser.add_argument("--bias", action="store_true")
    parser.add_argument("--only", choices=("eager", "compile"), help="leave the other out")
    parser.add_argument("--compile-mode", default="default", help="of torch.compile, such as max-autotune")
    options = parser.parse_args()
    options.micro_batch = options.micro_batch or options.batch
    return options


def main():
    options = read_options()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"PyTorch {torch.__version__}, {where}", file=sys.stderr)
    result = {"torch": torch.__version__, "where": where}
    if options.device == "cuda":
        result["precision"] = options.precision
    for name in ("eager", "compile"):
        if options.only not in (None, name):
            continue
        try:
            result[name] = measure(options, name == "compile")
        except Exception as error:  # memory; torch.compile needs a C++ compiler and is not on every platform
            print(f"no {name} here: {(str(error).splitlines() or [type(error).__name__])[0]}", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
