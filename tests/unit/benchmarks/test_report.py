"""The report: complete, well-formed, self-contained, legible."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cowstore.bench import report, svg, words
from cowstore.bench.results import Series
from tests.unit.benchmarks import sample

VOID = {"meta", "line", "rect", "path", "polygon", "polyline", "circle"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Nesting(HTMLParser):
    """Checks that what is opened is closed, in order; collects what is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        self.loaded += [str(given[name]) for name in ("src", "href") if name in given]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> Nesting:
    found = Nesting()
    found.feed(page)
    found.close()
    assert found.open == []
    return found


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    page = report.page(sample.run())
    found = parsed(page)
    text = " ".join(found.text)
    for said in (
        "Which driver for which work",
        "Budgets",
        "Not measured",
        "How it was measured",
        "this kernel has none",
    ):
        assert said in text
    assert all(link.startswith("#") for link in found.loaded)
    assert "url(" not in page
    assert "@import" not in page
    assert "<script" not in page
    assert "<of it>" not in page
    assert "prefers-color-scheme:dark" in page
    anchors = set(re.findall(r'id="([^"]+)"', page))
    assert {link[1:] for link in found.loaded} <= anchors


def test_every_series_is_drawn() -> None:
    run = sample.run()
    page = report.page(run)
    assert page.count("<rect") == sum(one.workload != "population" for one in run.series)
    assert page.count("<polyline") == 3
    assert page.count("<circle") == 9


@pytest.mark.parametrize("values", [(0.0,), (1e-9, 1e3), (5.0, 5.0), (0.0, 1.0), (2.0, 3.0)])
def test_any_figures_can_be_drawn(values: tuple[float, ...]) -> None:
    series = [
        Series(workload="w", subject=f"s<{n}>", phase="p", values=(value, value * 1.1))
        for n, value in enumerate(values)
    ]
    drawn = svg.bars(series, {}, 'a "title" & more')
    parsed(drawn)
    numbers = [float(number) for number in re.findall(r'(?:x|y|x1|x2|width)="(-?[\d.]+)"', drawn)]
    assert all(0 <= number <= svg.WIDTH for number in numbers)


def test_words_follow_the_figures() -> None:
    said = dict(words.summary(sample.run()))
    assert said["a fresh root for every job"].startswith("overlay (")
    assert "last copy with 4" in said["a fresh root for every job"]
    assert said["small writes into large files of the parent"].startswith(("btrfs and copy", "copy and btrfs"))
    assert said["memory with many containers"].startswith("overlay keeps one copy")
    other = sample.run()
    other.series = [one for one in other.series if one.subject != "overlay"]
    assert dict(words.summary(other))["a fresh root for every job"].startswith("btrfs (")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (2.5, "s", "2.50 s"),
        (0.0123, "s", "12.3 ms"),
        (4.2e-5, "s", "42.0 µs"),
        (3 << 20, "B", "3.00 MiB"),
        (1.5, "1", "1.50"),
    ],
)
def test_figures_for_people(value: float, unit: str, text: str) -> None:
    assert words.figure(value, unit) == text


def test_a_palette_can_be_told_from_its_ground() -> None:
    """Every colour of text and plots has enough contrast with the page, by day and by night (WCAG: 3 for graphics)."""
    style = (Path(report.__file__).parent / "report.css").read_text()
    day, night = style.split("@media(prefers-color-scheme:dark)")[:2]
    for part in (day, night):
        colours = dict(re.findall(r"--(\w+):(#[0-9a-f]+)", part))
        for name in ("text", "soft", "bad", "good"):
            assert contrast(colours[name], colours["back"]) >= 4.5, name
        for number in range(9):
            assert contrast(colours[f"c{number}"], colours["back"]) >= 3, number


def contrast(first: str, second: str) -> float:
    def light(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(letter * 2 for letter in colour[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((light(first), light(second)))
    return (high + 0.05) / (low + 0.05)


def pixels(path: Path) -> set[tuple[int, ...]]:
    """Read a PNG's colours, as far as a browser writes it: 8 bits, no interlacing."""
    raw = path.read_bytes()
    width, height, depth, kind = struct.unpack(">IIBB", raw[16:26])
    assert depth == 8
    channels = {2: 3, 6: 4}[kind]
    data, at = b"", 8
    while at < len(raw):
        (length,) = struct.unpack(">I", raw[at : at + 4])
        if raw[at + 4 : at + 8] == b"IDAT":
            data += raw[at + 8 : at + 8 + length]
        at += length + 12
    lines, stride = zlib.decompress(data), width * channels
    before, found = bytearray(stride), set()
    for row in range(height):
        start = row * (stride + 1)
        line = unfiltered(lines[start], bytearray(lines[start + 1 : start + 1 + stride]), before, channels)
        if row % 3 == 0:
            found |= {tuple(line[x : x + 3]) for x in range(0, stride, channels * 2)}
        before = line
    return found


def unfiltered(kind: int, line: bytearray, above: bytearray, step: int) -> bytearray:
    for x in range(len(line)):
        left = line[x - step] if x >= step else 0
        up = above[x]
        corner = above[x - step] if x >= step else 0
        if kind == 1:
            line[x] = (line[x] + left) & 255
        elif kind == 2:
            line[x] = (line[x] + up) & 255
        elif kind == 3:
            line[x] = (line[x] + (left + up) // 2) & 255
        elif kind == 4:
            guess = left + up - corner
            nearest = min((left, up, corner), key=lambda one: abs(guess - one))
            line[x] = (line[x] + nearest) & 255
    return line


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="elsewhere: no Chromium to look at the report with")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_real_browser_shows_it(scheme: str, tmp_path: Path) -> None:
    report.save(sample.run(), str(tmp_path / "report.html"))
    picture = tmp_path / "report.png"
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={tmp_path}/profile",
        f"--blink-settings=preferredColorScheme={1 if scheme == 'light' else 0}", f"--screenshot={picture}",
        "--window-size=700,900", (tmp_path / "report.html").as_uri(),
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, timeout=90, check=True)
    style = (Path(report.__file__).parent / "report.css").read_text()
    parts = style.split("@media(prefers-color-scheme:dark)")
    colours = dict(re.findall(r"--(\w+):(#[0-9a-f]+)", parts[0 if scheme == "light" else 1]))
    seen = pixels(picture)

    def rgb(name: str) -> tuple[int, ...]:
        digits = colours[name][1:]
        digits = digits if len(digits) == 6 else "".join(letter * 2 for letter in digits)
        return tuple(bytes.fromhex(digits))

    for name in ("back", "c1", "c2", "c3", "rule"):
        assert rgb(name) in seen, f"nothing of colour {name} is on the page"
