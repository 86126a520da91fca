#!/usr/bin/env python3
"""Step time against ranks, simulated: docs/scaling.md explains the model and shows what this prints.

    python3 benchmarks/scaling.py table                     the tables of docs/scaling.md
    python3 benchmarks/scaling.py plot OUT.svg              its plot (gnuplot)
    python3 benchmarks/scaling.py check CORES ONE TWO...    runs of this program on one machine's CPU, with 1, 2, ...
                                                            ranks and as many sequences each: prediction, measurement

The standard library is all it needs. Bytes, seconds, FLOP; GB are 1e9.
"""
import json
import math
import subprocess
import sys

# ---- constants: what each is taken from is in docs/scaling.md
PEAK = 989e12      # bf16 FLOP/s of a GPU
EFFICIENCY = 0.40  # share of it that a step reaches: assumed
HBM = 0.8 * 3.35e12
NODE = 8           # GPUs
NVLINK = 370e9     # bus bandwidth within a node, ring
NETWORK = 31e9     # a GPU's share between nodes: an all-reduce over 32 GPUs then has 320e9 of bus bandwidth
LAUNCH = 20e-6     # of a collective: assumed
HOP = 3.25e-6      # with LAUNCH, 46 us for a small all-reduce of 16 GPUs
HOST_HOP = 5e-6    # of a small all-reduce between hosts over MPI: assumed
HOST_COLLECTIVES = 4

MODELS = {  # layers, width, tokens of a GPU's step (what fits comfortably)
    '124M': (12, 768, 32 * 1024),
    '1.3B': (24, 2048, 16 * 1024),
    '7B': (32, 4096, 8 * 1024),
}
VOCABULARY, LENGTH = 50304, 1024
RANKS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
MIB = 1 << 20


def log2(n):
    return math.ceil(math.log2(n)) if n > 1 else 0


def half(size, ranks, latency):
    """Reduce-scatter or all-gather of `size` bytes: within nodes and between them at the same time, in chunks."""
    if ranks == 1:
        return 0.0
    inside = min(ranks, NODE)
    nodes = ranks // inside
    hops = log2(ranks) if latency == 'tree' else ranks - 1
    return LAUNCH + hops * HOP + max((inside - 1) / inside * size / NVLINK,
                                     (nodes - 1) / nodes * size / inside / NETWORK)


def all_reduce(size, ranks):
    """NCCL's trees: bandwidth of both halves, latency of the logarithm, up and down."""
    return 2 * half(size, ranks, 'tree') - (LAUNCH if ranks > 1 else 0)


class Model:
    def __init__(self, name):
        layers, width, self.tokens = MODELS[name]
        block = 12 * width * width
        embedding = VOCABULARY * width
        # Forward order: embedding, blocks, head. The head is the embedding's table, whose gradient is complete
        # only when backward has come to its start.
        self.sizes = [embedding] + [block] * layers
        self.params = sum(self.sizes)
        attention = 2 * LENGTH * width  # FLOP of a token in a block's forward: half of 4 T C, causal
        self.flop = [0] + [2 * block + attention] * layers + [2 * embedding]

    def seconds(self, flop):
        return flop * self.tokens / (EFFICIENCY * PEAK)


def backward(model, bucket, wire, cost):
    """(end of backward, end of communication): buckets are sent one after the other, each when it is full."""
    now = 2 * model.seconds(model.flop[-1])
    channel, filled = now, 0
    for size, flop in zip(reversed(model.sizes), reversed(model.flop[:-1])):
        now += 2 * model.seconds(flop)
        filled += size
        while filled * 4 >= bucket:
            channel = max(channel, now) + cost(bucket / 4 * wire)
            filled -= bucket / 4
    if filled > 0:
        channel = max(channel, now) + cost(filled * wire)
    return now, channel


def step(name, ranks, shard=False, bucket=32 * MIB, wire=4, latency='ring', overlap=True):
    """Seconds of a training step: (all, waiting for communication)."""
    model = Model(name)
    forward = sum(model.seconds(flop) for flop in model.flop)
    if shard:
        now, sent = backward(model, bucket, wire, lambda size: half(size, ranks, latency))
    else:
        now, sent = backward(model, bucket, wire, lambda size: all_reduce(size, ranks))
    if not overlap:
        one = bucket / 4 * wire
        sent = now + 4 * model.params / bucket * (half(one, ranks, latency) if shard else all_reduce(one, ranks))
    compute = forward + now
    exposed = max(0.0, sent - now)
    update = 30 * model.params / HBM  # read gradient, parameter, moments; write the last three and a bf16 copy
    if shard:
        update /= ranks
        exposed += gather(model, ranks, bucket, latency, overlap)
    exposed += HOST_COLLECTIVES * 2 * log2(max(1, ranks // NODE)) * HOST_HOP
    return compute + update + exposed, exposed


def gather(model, ranks, bucket, latency, overlap):
    """What the all-gather of bf16 parameters adds to the forward pass that runs beside it."""
    channel = now = 0.0
    for size, flop in zip(model.sizes, model.flop):
        pieces = math.ceil(size * 4 / bucket)
        channel += pieces * half(2 * size / pieces, ranks, latency)
        now = max(now, channel) + model.seconds(flop)
    whole = sum(model.seconds(flop) for flop in model.flop[:-1])
    return now - whole if overlap else channel


SCHEMES = {
    'all-reduce': {},
    'all-reduce, bf16': {'wire': 2},
    'no overlap': {'overlap': False},
    'sharded, ring': {'shard': True},
    'sharded, ring, 256 MiB': {'shard': True, 'bucket': 256 * MIB},
    'sharded, tree': {'shard': True, 'latency': 'tree'},
}


def efficiency(name, ranks, **options):
    return step(name, 1)[0] / step(name, ranks, **options)[0]


def table():
    for name in MODELS:
        one = step(name, 1)[0]
        print(f'\n{name}: {MODELS[name][2]} tokens a GPU and step, {1e3 * one:.1f} ms on one GPU; share of its '
              'throughput that each of N keeps\n')
        print('| GPUs | ' + ' | '.join(SCHEMES) + ' |')
        print('|---' * (len(SCHEMES) + 1) + '|')
        for ranks in RANKS[1:]:
            cells = (f'{efficiency(name, ranks, **options):.3f}' for options in SCHEMES.values())
            print(f'| {ranks:,} | ' + ' | '.join(cells) + ' |')
    print('\n124M, 1,024 GPUs, ms a step by bucket size\n')
    print('| bucket MiB | all-reduce | sharded, ring | sharded, tree |\n|---|---|---|---|')
    for mib in (1, 4, 16, 32, 64, 128, 256, 512):
        row = [step('124M', 1024, bucket=mib * MIB, **o)[0]
               for o in ({}, {'shard': True}, {'shard': True, 'latency': 'tree'})]
        print(f'| {mib} | ' + ' | '.join(f'{1e3 * seconds:.1f}' for seconds in row) + ' |')


def plot(out):
    lines = [f"set terminal svg size 760,420 font 'sans,11' background 'white'\nset output '{out}'\n"
             "set logscale x 2\nset xlabel 'GPUs'\nset ylabel 'share of one GPU''s throughput'\n"
             "set yrange [0:1.02]\nset grid\nset key outside right\n"
             "set title 'GPT-2 124M, 32,768 tokens a GPU and step (simulated)'\n"]
    lines.append('plot ' + ', '.join(f"'-' using 1:2 with linespoints title '{name}'" for name in SCHEMES) + '\n')
    for options in SCHEMES.values():
        lines += [f'{ranks} {efficiency("124M", ranks, **options):.4f}\n' for ranks in RANKS] + ['e\n']
    subprocess.run(['gnuplot'], input=''.join(lines), text=True, check=True)


# ---- one machine's CPU: ranks share its cores, and so does what moves the gradients

def measured(run):
    """A step of a run: (seconds, the fastest of 50, since others use the machine; waiting for gradients, the median)."""
    with open(f'{run}/metrics.jsonl') as lines:
        steps = [json.loads(line) for line in lines][3:]
    tokens = steps[-1]['tokens'] / steps[-1]['step']
    times = sorted(tokens / s['tokens_per_s'] for s in steps)
    waits = sorted(s['comm_exposed_s'] for s in steps)
    return times[len(times) // 50], waits[len(waits) // 2]


def check(cores, runs):
    """One rank gives the time of computing, two give the bandwidth of summing; the others are predicted."""
    times = [measured(run) for run in runs]
    one = times[0][0]

    def crowded(ranks):
        return max(1.0, ranks / cores)

    extra = times[1][0] - one * crowded(2)
    print('| ranks | predicted ms | measured ms | of it, waiting for gradients |\n|---|---|---|---|')
    for ranks, (seconds, wait) in enumerate(times, 1):
        comm = 0 if ranks == 1 else extra * (2 * (ranks - 1) / ranks) * crowded(ranks)
        note = ' (fitted)' if ranks <= 2 else ''
        print(f'| {ranks} | {1e3 * (one * crowded(ranks) + comm):.1f}{note} | {1e3 * seconds:.1f} | {1e3 * wait:.1f} |')


def main(arguments):
    if arguments == ['table']:
        table()
    elif len(arguments) == 2 and arguments[0] == 'plot':
        plot(arguments[1])
    elif len(arguments) >= 4 and arguments[0] == 'check':
        check(int(arguments[1]), arguments[2:])
    else:
        sys.exit(__doc__)


main(sys.argv[1:])
