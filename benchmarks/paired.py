#!/usr/bin/env python3
"""The difference between any two rows of a comparison, sample by sample.

    python3 benchmarks/paired.py DIR ROW OTHER...     DIR/rows/ROW.json, as `natsformer compare` writes them

The mean of ROW's loss minus OTHER's, and half its 95% interval over samples (a normal one: take a few dozen samples).
`compare` itself sets every row beside the dense model. The standard library is all it needs.
"""
import json
import math
import sys


def read(folder, name):
    with open(f'{folder}/rows/{name}.json', encoding='utf-8') as file:
        return json.load(file)


def difference(row, other):
    """Ratio of sums: samples count by their scored tokens."""
    scored = other['sample_scored']
    gaps = [nll / own * count - theirs for nll, own, theirs, count in
            zip(row['sample_nll'], row['sample_scored'], other['sample_nll'], scored)]
    mean = sum(gaps) / sum(scored)
    spread = sum((gap - mean * count) ** 2 for gap, count in zip(gaps, scored)) / (len(gaps) - 1)
    return mean, 1.96 * math.sqrt(spread * len(gaps)) / sum(scored)


def main(folder, name, others):
    row = read(folder, name)
    print('| row | other | loss, row - other | KV fraction | share of bytes |\n|---|---|---|---|---|')
    for other_name in others:
        other = read(folder, other_name)
        mean, half = difference(row, other)
        print(f'| {name} | {other_name} | {mean:+.4f} +- {half:.4f} | {row["kv_fraction"]:.3f} / {other["kv_fraction"]:.3f} | '
              f'{row["kv_share"]:.3f} / {other["kv_share"]:.3f} |')


if __name__ == '__main__':
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
