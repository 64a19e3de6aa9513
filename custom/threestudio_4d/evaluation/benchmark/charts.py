"""Bar and line charts as SVG text: no script, no font files, nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

#: told apart also with colour-blind eyes (Okabe and Ito), darkest first; baselines take greys
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#8c510a")
GREYS = ("#777777", "#aaaaaa", "#c8c8c8", "#5a5a5a")
INK, SOFT, GRID = "#222222", "#666666", "#e4e4e4"
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"


def colours(kinds: Sequence[str]) -> list[str]:
    """One colour for each method, by its kind: ``baseline`` is grey."""
    result, counts = [], {"grey": 0, "colour": 0}
    for kind in kinds:
        palette, name = (GREYS, "grey") if kind == "baseline" else (COLOURS, "colour")
        result.append(palette[counts[name] % len(palette)])
        counts[name] += 1
    return result


def bar_chart(
    title: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]], palette: Sequence[str],
    digits: int = 2,
) -> str:  # fmt: skip
    """Bars of every series side by side in every group; a missing value leaves its place empty.

    Args:
        title: above the chart.
        groups: labels below.
        series: name -> one value for each group.
        palette: one colour for each series.
        digits: of the values in the hints that appear under the pointer.
    """
    values = [value for row in series.values() for value in row if value is not None and math.isfinite(value)]
    if not values:
        return ""
    low, high, ticks = _axis(min(0.0, *values), max(values))
    bar = max(8.0, min(22.0, 560.0 / max(1, len(groups) * len(series))))
    step = bar * len(series) + max(14.0, bar)
    left, top, plot = 52.0, 34.0, 180.0
    width, legend = left + step * len(groups) + 10, _legend(list(series), palette)
    bottom = top + plot
    lines = [_text(left, 16, title, size=13, weight="600")]

    def y(value: float) -> float:
        return bottom - plot * (value - low) / (high - low)

    for tick in ticks:
        lines.append(_line(left, y(tick), width - 10, y(tick), GRID))
        lines.append(_text(left - 6, y(tick) + 4, _number(tick), anchor="end", colour=SOFT))
    for g, group in enumerate(groups):
        start = left + step * g + (step - bar * len(series)) / 2
        for s, (name, row) in enumerate(series.items()):
            value = row[g]
            if value is None or not math.isfinite(value):
                continue
            edges = sorted((y(value), y(0.0 if low <= 0 <= high else low)))
            hint = f"<title>{escape(f'{name}, {group}: {value:.{digits}f}')}</title>"
            lines.append(
                f'<rect x="{start + s * bar + 0.5:.1f}" y="{edges[0]:.1f}" width="{bar - 1:.1f}" '
                f'height="{max(edges[1] - edges[0], 0.5):.1f}" fill="{palette[s]}">{hint}</rect>'
            )
        lines.append(_text(left + step * (g + 0.5), bottom + 16, group, anchor="middle"))
    return _svg(title, lines, legend, width, bottom + 30)


def line_chart(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], palette: Sequence[str], label: str = "step"
) -> str:
    """Curves through (x, y) points, y on a logarithmic scale if all are positive and far apart."""
    series = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    points = [point for row in series.values() for point in row]
    if not points:
        return ""
    ys = [value for _, value in points]
    logarithmic = min(ys) > 0 and max(ys) > 20 * min(ys)
    scale = math.log10 if logarithmic else float
    if logarithmic:
        low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
        ticks = [float(exponent) for exponent in range(low, high + 1)]
    else:
        low, high, ticks = _axis(min(ys), max(ys))
    x_low, x_high, x_ticks = _axis(min(x for x, _ in points), max(x for x, _ in points), tight=True)
    left, top, plot, wide = 52.0, 34.0, 180.0, 420.0
    bottom = top + plot

    def at(x: float, y: float) -> tuple[float, float]:
        return left + wide * (x - x_low) / (x_high - x_low), bottom - plot * (y - low) / (high - low)

    lines = [_text(left, 16, title, size=13, weight="600")]
    for tick in ticks:
        y = at(x_low, tick)[1]
        lines.append(_line(left, y, left + wide, y, GRID))
        lines.append(_text(left - 6, y + 4, _number(10**tick if logarithmic else tick), anchor="end", colour=SOFT))
    for tick in x_ticks:
        lines.append(_text(at(tick, low)[0], bottom + 16, _number(tick), anchor="middle", colour=SOFT))
    lines.append(_text(left + wide / 2, bottom + 31, label, anchor="middle", colour=SOFT))
    for (name, row), colour in zip(series.items(), palette, strict=True):
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(x, scale(value)) for x, value in row))
        hint = f"<title>{escape(name)}</title>"
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5">{hint}</polyline>')
    return _svg(title, lines, _legend(list(series), palette), left + wide + 16, bottom + 42)


def _axis(low: float, high: float, tight: bool = False) -> tuple[float, float, list[float]]:
    """Round limits around the values and about five round ticks between them."""
    if high <= low:
        low, high = low - (0.5 if low else 0.0), high + (0.5 if high else 1.0)
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    if tight:
        return low, high, [tick for tick in ticks if low <= tick <= high]
    return ticks[0], ticks[-1], ticks


def _number(value: float) -> str:
    return f"{value:.6g}"


def _text(
    x: float, y: float, text: str, anchor: str = "start", size: int = 11, colour: str = INK, weight: str = "400"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _legend(names: Sequence[str], palette: Sequence[str]) -> list[tuple[float, str]]:
    """(width, markup) of every entry; ``_svg`` breaks them into lines."""
    entries = []
    for name, colour in zip(names, palette, strict=True):
        entries.append((26 + 6.6 * len(name), f'<rect width="10" height="10" y="-9" fill="{colour}"/>'
                        f'<text x="15" font-size="11" fill="{INK}">{escape(name)}</text>'))  # fmt: skip
    return entries


def _svg(title: str, lines: Sequence[str], legend: Sequence[tuple[float, str]], width: float, height: float) -> str:
    """The picture: chart, and the legend below it, in as many lines as it needs."""
    width = max(width, 280.0, 52.0 + 7.5 * len(title), *(52 + entry for entry, _ in legend))
    x, y, placed = 52.0, height + 12, []
    for entry, markup in legend:
        if x + entry > width and x > 52:
            x, y = 52.0, y + 18
        placed.append(f'<g transform="translate({x:.1f} {y:.1f})">{markup}</g>')
        x += entry
    size = f"{width:.0f} {y + 10:.0f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{width:.0f}" height="{y + 10:.0f}" '
        f'role="img" aria-label={quoteattr(title)} font-family="{FONT}">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join([*lines, *placed])}</svg>'
    )
