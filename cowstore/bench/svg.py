"""Plots as SVG, drawn here: bars with their spread, and curves. Colours are the page's."""

from __future__ import annotations

import html
import math

from cowstore.bench.timing import median, quartiles
from cowstore.bench.words import figure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cowstore.bench.results import Series

WIDTH = 720
_LEFT, _RIGHT, _ROW, _TOP, _FOOT = 170, 90, 24, 8, 26


def escape(text: str) -> str:
    """Return text as HTML and SVG take it."""
    return html.escape(text, quote=True)


class _Log:
    """A logarithmic axis over some values."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        positive = [value for value in values if value > 0] or [1.0]
        self.low = 10 ** math.floor(math.log10(min(positive) * 0.8))
        self.high = 10 ** math.ceil(math.log10(max(positive) * 1.02))
        if self.high <= self.low:
            self.high = self.low * 10
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        share = math.log10(value / self.low) / math.log10(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        first, last = round(math.log10(self.low)), round(math.log10(self.high))
        return [10.0**power for power in range(first, last + 1)]


class _Linear:
    """A linear axis from nothing to the largest of some values."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        most = max(values)
        self.step: float = 10.0 ** math.floor(math.log10(most))
        self.step /= 5 if most < 2 * self.step else 2 if most < 5 * self.step else 1
        self.high: float = math.ceil(most * 1.0001 / self.step) * self.step
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        return self.start + min(value, self.high) / self.high * (self.end - self.start)

    def ticks(self) -> list[float]:
        return [number * self.step for number in range(round(self.high / self.step) + 1)]


def _axis(values: Sequence[float], start: float, end: float) -> _Log | _Linear:
    """Choose a scale: linear unless something is ten times as large as something else."""
    low, high = min(values), max(values)
    return _Linear(values, start, end) if low > 0 and high < 10 * low else _Log(values, start, end)


class _Canvas:
    """Collects the parts of one plot."""

    def __init__(self, height: float, title: str) -> None:
        start = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
        self.parts = [start, f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>']

    def add(self, element: str, **attributes: object) -> None:
        """Add an element without content; ``class_`` stands for ``class``."""
        self.parts.append(f"<{element}{_attributes(attributes)}/>")

    def text(self, content: str, x: float, y: float, **attributes: object) -> None:
        """Add a text."""
        place = {"x": _number(x), "y": _number(y), **attributes}
        self.parts.append(f"<text{_attributes(place)}>{escape(content)}</text>")

    def hint(self, content: str) -> None:
        """Begin a group that shows *content* where the pointer rests; ended by :meth:`end`."""
        self.parts.append(f"<g><title>{escape(content)}</title>")

    def end(self) -> None:
        """End a group."""
        self.parts.append("</g>")

    def __str__(self) -> str:
        return "".join([*self.parts, "</svg>"])


def _attributes(given: Mapping[str, object]) -> str:
    return "".join(f' {name.rstrip("_").replace("_", "-")}="{value}"' for name, value in given.items())


def _number(value: float) -> str:
    return f"{value:.1f}"


def bars(series: Sequence[Series], colours: Mapping[str, int], title: str) -> str:
    """Draw one bar for each series: its median, with the middle half of its values as a line across the end."""
    foot = _TOP + _ROW * len(series)
    canvas = _Canvas(foot + _FOOT, title)
    axis = _axis([v for one in series for v in (median(one.values), *quartiles(one.values))], _LEFT, WIDTH - _RIGHT)
    for tick in axis.ticks():
        x = _number(axis.at(tick))
        canvas.add("line", class_="grid", x1=x, y1=_TOP, x2=x, y2=foot)
        canvas.text(_tick(tick, series[0]), axis.at(tick), foot + 16, class_="tick", text_anchor="middle")
    for number, one in enumerate(series):
        _bar(canvas, one, axis, _TOP + number * _ROW, colours.get(one.subject, 0))
    return str(canvas)


def _bar(canvas: _Canvas, one: Series, axis: _Log | _Linear, y: float, colour: int) -> None:
    middle, (low, high) = median(one.values), quartiles(one.values)
    end, centre, start, stop = axis.at(middle), y + _ROW / 2, axis.at(low), axis.at(high)
    said = figure(middle, one.unit)
    canvas.hint(f"{one.subject}: {said}, middle half {figure(low, one.unit)} to {figure(high, one.unit)}")
    canvas.text(one.subject, _LEFT - 8, centre + 4, class_="name", text_anchor="end")
    width = _number(max(end - _LEFT, 1.5))
    canvas.add("rect", class_=f"c{colour}", x=_LEFT, y=_number(y + 4), width=width, height=_ROW - 8, rx=2)
    upper = _number(centre - 4)
    line = f"M{start:.1f} {upper}v8M{start:.1f} {centre:.1f}H{stop:.1f}M{stop:.1f} {upper}v8"
    canvas.add("path", class_="spread", d=line)
    canvas.text(said, max(end, stop) + 8, centre + 4, class_="value")
    canvas.end()


def _tick(value: float, series: Series) -> str:
    if series.unit != "s" or value == 0:
        return f"{value:g}"
    for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 0.999:
            return f"{value * factor:.3g} {name}"
    return f"{value * 1e6:.3g} µs"


_TALL = 320
_PLOT_LEFT, _PLOT_RIGHT, _PLOT_TOP, _PLOT_FOOT = 70, WIDTH - 150, 12, _TALL - 44


def curves(lines: Mapping[str, Sequence[Series]], along: str, colours: Mapping[str, int], title: str) -> str:
    """Draw a curve for each subject over the parameter *along*, both axes logarithmic, the middle half shaded."""
    points = _points(lines, along)
    xs = sorted({x for line in points.values() for x, _ in line})
    ys = [v for line in points.values() for _, one in line for v in (median(one.values), *quartiles(one.values))]
    across, up = _Log(xs, _PLOT_LEFT, _PLOT_RIGHT), _Log(ys, _PLOT_FOOT, _PLOT_TOP)
    canvas = _Canvas(_TALL, title)
    unit = next(iter(points.values()))[0][1]
    for tick in up.ticks():
        y = _number(up.at(tick))
        canvas.add("line", class_="grid", x1=_PLOT_LEFT, y1=y, x2=_PLOT_RIGHT, y2=y)
        canvas.text(_tick(tick, unit), _PLOT_LEFT - 8, up.at(tick) + 4, class_="tick", text_anchor="end")
    for x in xs:
        canvas.text(f"{x:g}", across.at(x), _PLOT_FOOT + 18, class_="tick", text_anchor="middle")
    canvas.text(along, (_PLOT_LEFT + _PLOT_RIGHT) / 2, _TALL - 8, class_="tick", text_anchor="middle")
    last = -100.0
    ends = sorted((up.at(median(line[-1][1].values)), name) for name, line in points.items())
    for y_end, name in ends:
        _curve(canvas, name, points[name], (across, up), colours.get(name, 0))
        # Names that would cover each other are moved down.
        last = max(y_end, last + 15)
        canvas.text(name, _PLOT_RIGHT + 10, last + 4, class_=f"name t{colours.get(name, 0)}")
    return str(canvas)


def _curve(
    canvas: _Canvas, name: str, line: Sequence[tuple[float, Series]], axes: tuple[_Log, _Log], colour: int
) -> None:
    across, up = axes
    shade = [(across.at(x), *map(up.at, quartiles(one.values))) for x, one in line]
    corners = [(x, low) for x, low, _ in shade] + [(x, high) for x, _, high in shade[::-1]]
    canvas.add("polygon", class_=f"shade c{colour}", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in corners))
    middle = [(across.at(x), up.at(median(one.values))) for x, one in line]
    canvas.add("polyline", class_=f"line c{colour}", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in middle))
    for (x, y), (where, one) in zip(middle, line, strict=True):
        canvas.hint(f"{name} at {where:g}: {figure(median(one.values), one.unit)}")
        canvas.add("circle", class_=f"c{colour}", cx=_number(x), cy=_number(y), r=3)
        canvas.end()


def _points(lines: Mapping[str, Sequence[Series]], along: str) -> dict[str, list[tuple[float, Series]]]:
    found = {}
    for name, series in lines.items():
        if series:
            found[name] = sorted(((float(one.parameters[along]), one) for one in series), key=lambda pair: pair[0])
    return found
