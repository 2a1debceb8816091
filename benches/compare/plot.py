#!/usr/bin/env python3
"""Draws what `gatepost-compare growth` has measured: plot.py DATA.json FOLDER."""

import json
import math
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot, ticker

BLUE, ORANGE = "#1f5fa8", "#c8641a"


def main():
    data = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[2])
    sessions = [("idle sessions", data["sessions"], BLUE)]
    draw(folder / "sessions.png", "idle sessions", [MEMORY, CPU, LATENCY], sessions)
    accounts = [("one app's token for all", data["app"], BLUE), ("a sign-in for each", data["people"], ORANGE)]
    draw(folder / "accounts.png", "accounts", [START, MEMORY, CPU, LATENCY, IDLE], accounts)


# title, unit, key of the median, key of the slowest of a hundred, logarithmic
MEMORY = ("memory (PSS)", "MiB", "memory_mib", None, True)
CPU = ("CPU of a login session", "ms", "login_cpu_ms", None, False)
LATENCY = ("time of a login: median, dashed the slowest of 100", "ms", "login_ms", "login_ms_99", True)
START = ("start until it listens, dashed the first login", "ms", "start_ms", "first_login_ms", True)
IDLE = ("CPU while nothing happens", "% of a core", "idle_share_of_a_core", None, False)


def draw(file, what, panels, curves):
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.6 * columns, 3.6 * rows), squeeze=False)
    for axis, panel in zip(axes.flat, panels):
        draw_panel(axis, what, panel, curves)
    for axis in axes.flat[len(panels):]:
        axis.axis("off")
    if len(curves) > 1:
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc=(0.7, 0.2), frameon=False, fontsize=11)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def draw_panel(axis, what, panel, curves):
    title, unit, key, slowest, logarithmic = panel
    factor = 100 if unit.startswith("%") else 1
    for name, points, colour in curves:
        good = [point for point in points if point.get(key) is not None]
        sizes = [point["size"] for point in good]
        axis.plot(sizes, [factor * point[key] for point in good], "o-", color=colour, label=name)
        if slowest:
            axis.plot(sizes, [point[slowest] for point in good], "o--", color=colour, alpha=0.5, markersize=4)
        for point in points:
            if "error" in point:
                axis.axvline(point["size"], color=colour, linestyle=":", label=f"{name}: not with so many")
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(what)
    axis.set_ylabel(unit)
    every = [point["size"] for _, points, _ in curves for point in points]
    axis.set_xscale("log")
    axis.set_xlim(min(every) / 1.6, max(every) * 1.6)
    axis.xaxis.set_major_formatter(PLAIN)
    if logarithmic:
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        axis.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
        axis.yaxis.set_major_formatter(PLAIN)
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    else:
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
    axis.grid(True, which="major", alpha=0.3)


PLAIN = ticker.FuncFormatter(lambda number, _: f"{number:,g}")


if __name__ == "__main__":
    main()
