#!/usr/bin/env python3
"""Time of attention in PyTorch on a GPU: dense causal kernels, and FlexAttention under token types.

The peer of `natsformer bench attention`: the same shapes, bfloat16, and a mask of the same kind (shares of
global, local and window tokens drawn with a seed; key j is visible to query i when j <= i <= expiry(j)).

  flash, cudnn   scaled_dot_product_attention, dense causal, with that backend alone
  flex           FlexAttention under the types; mask_ms is what its block mask costs, which is built anew
                 whenever types change; compiling it takes a minute

Forward, and backward on its own. FlexAttention has no gradient of types. Prints one JSON object on one line;
standard error shows each backend's times when it is done, or why one that fails is left out.
"""
import argparse
import json
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


# Milliseconds of a call: the median over rounds of calls that are issued without waiting.
def time_calls(call, rounds):
    call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    calls = max(1, min(100, int(30 / max(begin.elapsed_time(end), 1e-3)) + 1))
    times = []
    for _ in range(rounds):
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / calls)
    return statistics.median(times)


def time_both(attention, inputs, gradient, rounds):
    with torch.no_grad():
        forward = time_calls(lambda: attention(*inputs), rounds)
    output = attention(*inputs)
    backward = time_calls(
        lambda: torch.autograd.grad(output, inputs, gradient, retain_graph=True), rounds
    )
    return {"forward_ms": forward, "backward_ms": backward}


# The last row that sees each key, [B, Hk, T]: all rows after a global, up to the next global after a local,
# `window` rows after the others. Token 0 is global.
def draw_expiry(o):
    generator = torch.Generator(device="cuda").manual_seed(o.seed)
    u = torch.rand((o.batch, o.kv_heads, o.length), device="cuda", generator=generator)
    is_global, is_local = u < o.globals, (u >= o.globals) & (u < o.globals + o.locals)
    is_global[:, :, 0] = True
    row = torch.arange(o.length, device="cuda").expand_as(u)
    last = torch.full_like(row, o.length - 1)
    next_global = torch.where(is_global, row, last).flip(-1).cummin(-1).values.flip(-1)
    expiry = torch.where(is_local & ~is_global, next_global, (row + o.window).clamp(max=o.length - 1))
    return torch.where(is_global, last, expiry).to(torch.int32)


def kv_fraction(expiry):
    length = expiry.shape[-1]
    held = (expiry - torch.arange(length, device="cuda") + 1).double().sum().item()
    return held / (expiry.numel() / length * length * (length + 1) / 2)


def measure_dense(backend, inputs, gradient, o):
    def attention(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=o.heads != o.kv_heads)

    with sdpa_kernel(backend):
        return time_both(attention, inputs, gradient, o.rounds)


def measure_flex(inputs, gradient, o):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    expiry = draw_expiry(o)
    group = o.heads // o.kv_heads

    def visible(batch, head, query, key):
        return (key <= query) & (query <= expiry[batch, head // group, key])

    build = torch.compile(create_block_mask)

    def make_mask():
        return build(visible, o.batch, o.heads, o.length, o.length, device="cuda")

    mask = make_mask()
    compiled = torch.compile(flex_attention)

    def attention(q, k, v):
        return compiled(q, k, v, block_mask=mask, enable_gqa=group > 1)

    result = time_both(attention, inputs, gradient, o.rounds)
    result["mask_ms"] = time_calls(make_mask, o.rounds)
    result["kv_fraction"] = kv_fraction(expiry)
    result["block_sparsity"] = mask.sparsity() / 100
    return result


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--kv-heads", type=int, default=0, help="default: as many as heads")
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--head-size", type=int, default=64)
    parser.add_argument("--globals", type=float, default=0.05, help="share of global tokens")
    parser.add_argument("--locals", type=float, default=0.15, help="share of local tokens")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=("flash", "cudnn", "flex"), help="leave the others out")
    options = parser.parse_args()
    options.kv_heads = options.kv_heads or options.heads
    return options


def main():
    o = read_options()
    torch.manual_seed(o.seed)

    def tensor(heads, needs_gradient):
        shape = (o.batch, heads, o.length, o.head_size)
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=needs_gradient)

    inputs = (tensor(o.heads, True), tensor(o.kv_heads, True), tensor(o.kv_heads, True))
    gradient = tensor(o.heads, False)
    result = {"torch": torch.__version__, "where": torch.cuda.get_device_name(), "shape": vars(o)}
    rows = {
        "flash": lambda: measure_dense(SDPBackend.FLASH_ATTENTION, inputs, gradient, o),
        "cudnn": lambda: measure_dense(SDPBackend.CUDNN_ATTENTION, inputs, gradient, o),
        "flex": lambda: measure_flex(inputs, gradient, o),
    }
    for name in o.only or rows:
        try:
            result[name] = rows[name]()
            print(name, " ".join(f"{key} {value:.4g}" for key, value in result[name].items()), file=sys.stderr)
        except Exception as error:
            print(f"no {name} here: {(str(error).splitlines() or [type(error).__name__])[0]}", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
