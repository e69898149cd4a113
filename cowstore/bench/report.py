"""The report: one HTML file that holds everything, to be looked at offline, by day and by night."""

from __future__ import annotations

import os

from cowstore.bench import svg
from cowstore.bench.results import FLOOR
from cowstore.bench.svg import escape
from cowstore.bench.timing import median
from cowstore.bench.words import figure, spread, summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.bench.results import Budget, Run, Series

_COLOURS = 9


def page(run: Run) -> str:
    """Return the report of a run."""
    colours = _colours(run)
    head = f"cowstore: {escape(run.suite)}"
    workloads = list(dict.fromkeys(series.workload for series in run.series))
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{head}</title>',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<style>{_style()}{_colour_rules()}</style></head><body><main>",
        f"<h1>{head}</h1>{_subtitle(run)}",
        "<nav>" + "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in workloads) + "</nav>",
        _summary(run),
        _budgets(run),
        *(_workload(run, name, colours) for name in workloads),
        _absent(run),
        _method(run),
        "</main></body></html>\n",
    ]
    return "".join(parts)


def save(run: Run, path: str) -> None:
    """Write the report of a run."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(page(run))


def _style() -> str:
    with open(os.path.join(os.path.dirname(__file__), "report.css"), encoding="utf-8") as file:
        return file.read()


def _colours(run: Run) -> dict[str, int]:
    """Give every subject a colour, the floors all the same one."""
    found: dict[str, int] = {}
    for series in run.series:
        if series.subject not in found:
            floor = series.subject.startswith(FLOOR)
            taken = len([one for one in found.values() if one])
            found[series.subject] = 0 if floor else taken % (_COLOURS - 1) + 1
    return found


def _colour_rules() -> str:
    return "".join(
        f"svg .c{n}{{fill:var(--c{n})}}svg .line.c{n}{{stroke:var(--c{n});fill:none}}svg .t{n}{{fill:var(--c{n})}}"
        for n in range(_COLOURS)
    )


def _anchor(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _subtitle(run: Run) -> str:
    found = run.machine
    text = (
        f"cowstore {found.get('cowstore')} on Linux {found.get('kernel')}, {found.get('processors')} processors "
        f"({found.get('processor')}), {found.get('file_system')} below; {run.started}, seed {run.seed}. Medians; the "
        "line across the end of a bar is the middle half of the repeats. Scales are logarithmic where something is ten "
        "times as large."
    )
    return f'<p class="soft">{escape(text)}</p>'


def _summary(run: Run) -> str:
    found = summary(run)
    if not found:
        return ""
    rows = "".join(f"<dt>{escape(work[0].upper() + work[1:])}</dt><dd>{escape(text)}</dd>" for work, text in found)
    return f'<h2 id="which">Which driver for which work</h2><dl class="words">{rows}</dl>'


def _budgets(run: Run) -> str:
    if not run.budgets:
        return ""
    rows = []
    for budget in run.budgets:
        verdict = '<span class="met">kept</span>' if budget.met else '<span class="over">above</span>'
        rows.append(
            f'<tr><td>{escape(budget.name)}</td><td class="n">{budget.value:g} {escape(budget.unit)}</td>'
            f'<td class="n">{_spread_of(budget)}</td><td class="n">{budget.limit:g} {escape(budget.unit)}</td>'
            f"<td>{verdict}</td><td>{escape(budget.what)}</td></tr>"
        )
    return (
        '<h2 id="budgets">Budgets</h2><div class="wide"><table><tr><th>budget</th><th>found</th><th>in one pass</th>'
        f"<th>at most</th><th></th><th>what</th></tr>{''.join(rows)}</table></div>"
    )


def _spread_of(budget: Budget) -> str:
    return "" if budget.low is None or budget.high is None else f"{budget.low:g} to {budget.high:g}"


def _workload(run: Run, name: str, colours: dict[str, int]) -> str:
    series = list(run.of(name))
    parts = [f'<h2 id="{_anchor(name)}">{escape(name)}</h2>', _explained(name)]
    for phase in dict.fromkeys(one.phase for one in series):
        members = [one for one in series if one.phase == phase]
        along = _along(members)
        if along is not None:
            lines: dict[str, list[Series]] = {}
            for one in members:
                lines.setdefault(one.subject, []).append(one)
            title = f"{name}: {phase} by {along}"
            parts.append(f"<h3>{escape(phase)}, by {escape(along)}</h3>")
            parts.append(f"<figure>{svg.curves(lines, along, colours, title)}</figure>")
            continue
        for label, group in _groups(members):
            parts.append(f"<h3>{escape(label)}</h3><figure>{svg.bars(group, colours, f'{name}: {label}')}</figure>")
    return "".join([*parts, _table(run, series)])


def _explained(name: str) -> str:
    from cowstore.bench.workloads import load_all

    found = load_all().get(name)
    if found is None:
        return ""
    text = f"{found.summary[0].upper()}{found.summary[1:]}. Sync: {found.sync}."
    return f'<p class="soft">{escape(text)}</p>'


def _along(members: list[Series]) -> str | None:
    """Return the one parameter that varies with at least three values, if there is one and all have it."""
    names = {name for one in members for name in one.parameters}
    varying = [name for name in names if len({one.parameters.get(name) for one in members}) > 1]
    if len(varying) != 1:
        return None
    (name,) = varying
    values = {one.parameters.get(name) for one in members}
    numeric = all(isinstance(value, (int, float)) and value > 0 for value in values)
    return name if numeric and len(values) >= 3 else None


def _groups(members: list[Series]) -> Iterator[tuple[str, list[Series]]]:
    """Yield the series that belong into one plot: those of the same parameters."""
    groups: dict[tuple[tuple[str, object], ...], list[Series]] = {}
    for one in members:
        groups.setdefault(tuple(sorted(one.parameters.items())), []).append(one)
    for parameters, group in groups.items():
        given = ", ".join(f"{name} {value}" for name, value in parameters)
        yield f"{group[0].phase} ({given})" if given else group[0].phase, group


def _table(run: Run, series: list[Series]) -> str:
    rows = []
    for one in series:
        given = ", ".join(f"{name} {value}" for name, value in sorted(one.parameters.items()))
        floor = run.floor_of(one)
        below = median(floor.values) if floor else 0
        ratio = f"{median(one.values) / below:.2f} times {one.floor}" if below else ""
        rows.append(
            f"<tr><td>{escape(one.subject)}</td><td>{escape(one.phase)}</td><td>{escape(given)}</td>"
            f'<td class="n">{escape(figure(median(one.values), one.unit))}</td><td class="n">{escape(spread(one))}</td>'
            f'<td class="n">{len(one.values)}</td><td>{escape(ratio)}</td></tr>'
        )
    return (
        '<details><summary>Figures</summary><div class="wide"><table><tr><th>who</th><th>phase</th><th>with</th>'
        f"<th>median</th><th>middle half</th><th>repeats</th><th>to the floor</th></tr>{''.join(rows)}</table></div>"
        "</details>"
    )


def _absent(run: Run) -> str:
    if not run.absent:
        return ""
    rows = "".join(f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in sorted(run.absent.items()))
    return f'<h2 id="absent">Not measured</h2><ul>{rows}</ul>'


def _method(run: Run) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in dict.fromkeys(run.method))
    facts = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{escape(str(value))}</td></tr>"
        for name, value in run.machine.items()
    )
    return (
        f'<h2 id="method">How it was measured</h2><ul>{lines}</ul>'
        f'<details><summary>The machine</summary><div class="wide"><table>{facts}</table></div></details>'
    )
