"""Line charts as SVG, for the reports of this folder. Readable on a light and on a dark page."""

from __future__ import annotations

import math
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, TOP, GAP = 760, 150, 64, 40, 44
COLOURS = ("#3b82c4", "#d9772b", "#3d9a5f", "#b0559b", "#8a8f2a")


class Panel(NamedTuple):
    """Lines over a shared x axis; `limit` is drawn as a dashed line. `powers`: the y axis is logarithmic."""

    label: str
    lines: dict[str, list[tuple[float, float]]]
    limit: tuple[str, float] | None = None
    powers: bool = False


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers from low to high."""
    rough = (high - low) / wanted
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def thinned(points: list[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """At most so many points; of those that fall together the highest, since a report must not hide a peak."""
    size = math.ceil(len(points) / most)
    return [max(points[i : i + size], key=lambda p: p[1]) for i in range(0, len(points), size)] if size > 1 else points


def y_axis(panel: Panel) -> tuple[float, float, list[float]]:
    """The lowest and highest value, and those with a line across."""
    all_y = [y for line in panel.lines.values() for _, y in line] + ([panel.limit[1]] if panel.limit else [])
    high = (max(all_y) or 1) * 1.05
    if not panel.powers:
        return 0, high, ticks(0, high, 4)
    low = min(y for y in all_y if y > 0)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return 10.0**first, 10.0**last, [10.0**i for i in range(first, last + 1)]


def chart(title: str, x_label: str, panels: list[Panel], x_marks: dict[float, str] | None = None) -> str:
    """`x_marks`: what is written at which places of the x axis, instead of round numbers."""
    xs = [x for panel in panels for line in panel.lines.values() for x, _ in line]
    x0, x1 = min(xs), max(max(xs), min(xs) + 1e-9)
    inner = WIDTH - LEFT - 16
    full = TOP + len(panels) * (HEIGHT + GAP) + 14
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {full}" role="img">',
        f"<title>{escape(title)}</title>",
        "<style>text{font:12px system-ui,sans-serif;fill:#222}.grid{stroke:#8886;stroke-width:.6}"
        ".line{fill:none;stroke-width:1.6;stroke-linejoin:round}.limit{stroke:#c0392b;stroke-dasharray:5 4}"
        ".head{font-size:15px;font-weight:600}.far{text-anchor:end}.mid{text-anchor:middle}.page{fill:#fff}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}.page{fill:#16181c}}</style>",
        f'<rect class="page" width="{WIDTH}" height="{full}"/>',
        f'<text class="head" x="{LEFT}" y="22">{escape(title)}</text>',
    ]

    def across(x: float) -> str:
        return f"{LEFT + (x - x0) / (x1 - x0) * inner:.1f}"

    for k, panel in enumerate(panels):
        top = TOP + k * (HEIGHT + GAP) + 16
        bottom = top + HEIGHT - 16
        y0, y1, y_marks = y_axis(panel)

        def up(y: float) -> str:
            share = math.log(max(y, y0) / y0) / math.log(y1 / y0) if panel.powers else y / y1
            return f"{bottom - share * (bottom - top):.1f}"

        out.append(f'<text x="{LEFT}" y="{top - 7}">{escape(panel.label)}</text>')
        for y in y_marks:
            out.append(f'<path class="grid" d="M{LEFT} {up(y)}h{inner}"/>')
            out.append(f'<text class="far" x="{LEFT - 7}" y="{float(up(y)) + 4:.1f}">{y:g}</text>')
        for x, mark in (x_marks or {x: f"{x:g}" for x in ticks(x0, x1, 8)}).items():
            out.append(f'<path class="grid" d="M{across(x)} {top}V{bottom}"/>')
            out.append(f'<text class="mid" x="{across(x)}" y="{bottom + 16}">{mark}</text>')
        if panel.limit:
            name, y = panel.limit
            out.append(f'<path class="limit" d="M{LEFT} {up(y)}h{inner}"/>')
            out.append(f'<text class="far" x="{WIDTH - 20}" y="{float(up(y)) - 4:.1f}">{escape(name)}</text>')
        at = WIDTH - 16.0
        for i, (name, line) in reversed(list(enumerate(panel.lines.items()))):
            colour = COLOURS[i % len(COLOURS)]
            points = " ".join(f"{across(x)},{up(y)}" for x, y in thinned(line))
            out.append(f'<polyline class="line" stroke="{colour}" points="{points}"/>')
            if len(panel.lines) > 1:
                out.append(f'<text class="far" x="{at:.0f}" y="{top - 7}" style="fill:{colour}">{escape(name)}</text>')
                at -= 7.2 * len(name) + 14
    out.append(f'<text class="far" x="{WIDTH - 16}" y="{full - 8}">{escape(x_label)}</text></svg>')
    return "\n".join(out) + "\n"
