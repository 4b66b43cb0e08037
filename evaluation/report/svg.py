"""Figures as SVG that stands in a page: shapes of CSS classes, which the page's style colours for light and dark.

A figure is 480 by 260 units with the plot inside; `label` says its numbers for those who do not see it.
"""

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 470, 10, 216  # of the plot; y grows downwards
MOST = 400  # points of a line
Ends = tuple[float, float]


def histogram(edges: Sequence[float], counts: Mapping[str, Sequence[int]], across: str, up: str, label: str) -> Markup:
    """Draw the outlines of histograms over the same bins; a class for each name of `counts`."""
    ends, most = (edges[0], edges[-1]), max([1, *(count for own in counts.values() for count in own)])
    shapes = [
        Markup('<path class="area {}" d="{}"/>').format(name, _steps(edges, own, most)) for name, own in counts.items()
    ]
    return _figure(shapes, ends, (0, most), across, up, label)


def _steps(edges: Sequence[float], counts: Sequence[int], most: int) -> str:
    path = [f"M{LEFT} {BOTTOM}"]
    for edge, count in zip(edges[1:], counts, strict=True):
        path.append(f"V{_y(count, (0, most)):.1f}H{_x(edge, (edges[0], edges[-1])):.1f}")
    return "".join([*path, f"V{BOTTOM}"])


def curves(lines: Mapping[str, Sequence[float | None]], up: str, label: str) -> Markup:
    """Draw lines over steps counted from 1; a class for each name of `lines`. A value of None is a gap."""
    known = [value for own in lines.values() for value in own if value is not None]
    steps = max(map(len, lines.values()), default=1)
    across, high = (1, max(steps, 2)), (min(known, default=0.0), max(known, default=1.0))
    if high[0] == high[1]:
        high = (high[0] - 1, high[1] + 1)
    shapes = [
        Markup('<path class="line {}" d="{}"/>').format(name, _line(own, across, high)) for name, own in lines.items()
    ]
    return _figure(shapes, across, high, "step", up, label)


def _line(values: Sequence[float | None], across: Ends, up: Ends) -> str:
    path, move = [], "M"
    every = -(-len(values) // MOST)
    for place in range(0, len(values), max(every, 1)):
        if (value := values[place]) is None:
            move = "M"
            continue
        path.append(f"{move}{_x(place + 1, across):.1f} {_y(value, up):.1f}")
        move = "L"
    return "".join(path)


def _figure(shapes: Sequence[Markup], across: Ends, up: Ends, below: str, beside: str, label: str) -> Markup:
    head = Markup('<svg class="figure" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)
    rule = Markup('<path class="rule" d="M{} {}H{}"/>').format(LEFT, BOTTOM, RIGHT)
    names = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format((LEFT + RIGHT) / 2, HEIGHT - 6, below)
    names += Markup('<text transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
        (TOP + BOTTOM) / 2, beside
    )
    return Markup("").join([head, *shapes, rule, *_ticks(across, up), names, Markup("</svg>")])


def _ticks(across: Ends, up: Ends) -> Iterator[Markup]:
    for part in (0, 0.25, 0.5, 0.75, 1):
        value, anchor = across[0] + part * (across[1] - across[0]), "end" if part == 1 else "middle"
        yield Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
            _x(value, across), BOTTOM + 17, anchor, _number(value)
        )
    for part in (0, 0.5, 1):
        value = up[0] + part * (up[1] - up[0])
        yield Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            LEFT - 6, _y(value, up) + 4, _number(value)
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _x(value: float, ends: Ends) -> float:
    return LEFT + (RIGHT - LEFT) * (value - ends[0]) / (ends[1] - ends[0])


def _y(value: float, ends: Ends) -> float:
    return BOTTOM - (BOTTOM - TOP) * (value - ends[0]) / (ends[1] - ends[0])
