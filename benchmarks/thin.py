#!/usr/bin/env python3
"""Makes a comparison small enough to be kept in a repository: half of its bytes or less.

    python3 benchmarks/thin.py DIR...     DIR as `natsformer compare` writes it

results.json stays what `natsformer plot DIR` reads: numbers have six digits, curves 32 points, rows a line each. Files
in rows/ keep what paired.py needs. The standard library is all it needs.
"""
import json
import os
import sys

POINTS = 32
ROW = ('name', 'kv_fraction', 'kv_share', 'sample_nll', 'sample_scored')


def rounded(value):
    if isinstance(value, float):
        return float(f'{value:.6g}')
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return value


def thin_curve(curve):
    """The last position stays: it is where caches are largest."""
    count = len(curve['position'])
    step = -(-count // POINTS)
    keep = range((count - 1) % step, count, step)
    return {name: [values[at] for at in keep] for name, values in curve.items()}


def line(value):
    return json.dumps(rounded(value), separators=(', ', ': '))


def replace(path, text):
    with open(f'{path}.new', 'w', encoding='utf-8') as file:
        file.write(text)
    os.replace(f'{path}.new', path)


def thin_results(path):
    with open(path, encoding='utf-8') as file:
        results = json.load(file)
    for row in results['rows']:
        if 'curve' in row:
            row['curve'] = thin_curve(row['curve'])
    fields = [f'{json.dumps(name)}: ' + ('[\n' + ',\n'.join(map(line, value)) + '\n]' if name == 'rows' else line(value))
              for name, value in results.items()]
    replace(path, '{' + ',\n'.join(fields) + '}\n')


def thin_row(path):
    with open(path, encoding='utf-8') as file:
        row = json.load(file)
    replace(path, line({name: row[name] for name in ROW if name in row}) + '\n')


def main(folders):
    for folder in folders:
        thin_results(f'{folder}/results.json')
        rows = f'{folder}/rows'
        for name in os.listdir(rows) if os.path.isdir(rows) else []:
            thin_row(f'{rows}/{name}')


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
