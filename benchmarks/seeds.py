#!/usr/bin/env python3
"""Means over seeds of training: one comparison for every seed, with the same plan and other models.

    python3 benchmarks/seeds.py DIR... >seeds.md      DIR/results/results.csv each, as `natsformer compare` writes it

Rows of one name belong together. +- is half the 95% interval over seeds (Student t): it tells what training again
would change, which the interval of a single comparison does not. The standard library is all it needs.
"""
import csv
import math
import statistics
import sys

T95 = [math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]  # by degrees of freedom


def interval(values):
    free = len(values) - 1
    return T95[min(free, len(T95) - 1)] * statistics.stdev(values) / math.sqrt(len(values)) if free > 0 else math.nan


def numbers(rows, column):
    return [float(row[column]) for row in rows if row[column]]


def mean_of(rows, column, form):
    values = numbers(rows, column)
    return format(statistics.mean(values), form) if values else ''


def quality(rows, column):
    values = numbers(rows, column)
    return f'{statistics.mean(values):.4f} +- {interval(values):.4f}' if values else ''


def main(folders):
    groups = {}
    for folder in folders:
        with open(f'{folder}/results/results.csv', encoding='utf-8') as file:
            for row in csv.DictReader(file):
                groups.setdefault(row['name'], []).append(row)
    labelled = any(row['accuracy'] for rows in groups.values() for row in rows)
    column = 'accuracy' if labelled else 'loss'
    print(f'| task | model | policy | role | budget | seeds | share of bytes | KV fraction | {column} | '
          f'{"worst" if labelled else "bits/byte"} |\n|---|---|---|---|---|---|---|---|---|---|')
    for name, rows in groups.items():
        first = rows[0]
        policy = name.split('+')[2] if name.count('+') > 1 else first['choice'].split(':')[0]
        budget = first['budget.share'] or (f'as {first["budget.match"]}' if first['budget.match'] else '')
        measured = [row for row in rows if row[column]]
        last = min(numbers(rows, column), default='') if labelled else mean_of(rows, 'bits_per_byte', '.4f')
        print(f'| {first["task"]} | {first["model"]} | {policy} | {first["role"]} | {budget} | {len(measured)} | '
              f'{mean_of(rows, "kv_share", ".4f")} | {mean_of(rows, "kv_fraction", ".4f")} | '
              f'{quality(rows, column)} | {last if last == "" else f"{float(last):.4f}"} |')


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
