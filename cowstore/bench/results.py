"""What a run has found, as values and as JSON of a schema with a version.

The document is one object::

    schema        "cowstore-bench"
    version       3
    suite         the name of the suite, or of several joined by "+"
    seed          of everything that is random
    started       in UTC, ISO 8601
    seconds       that the run took
    machine       facts of the machine, by name
    method        sentences on how it was measured
    series        list of {workload, subject, phase, parameters, unit, values, passes, better, floor, notes}
    budgets       list of {name, value, low, high, limit, unit, met, what}
    absent        list of {subject, reason}

A series is told apart by its workload, subject, phase and parameters. ``floor`` names the subject that is the bare cost
of the same step in the same run. ``passes`` is the number of stretches, of the same length and apart in time, that its
values came in. ``low`` and ``high`` are what a budget's figure is in the passes by themselves: its spread.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field

from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Parameter = str | int | float | bool
    Identity = tuple[str, str, str, tuple[tuple[str, Parameter], ...]]

SCHEMA = "cowstore-bench"
VERSION = 3

LESS, MORE = "less", "more"
FLOOR = "bare"
"""Subject of the bare system calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One figure, repeated.

    :ivar workload: what was done. :ivar subject: the driver or the tool that did it. :ivar phase: the part timed.
    :ivar parameters: depth, number of snapshots and the like. :ivar unit: ``s``, ``B``, ``B/s``, ``1``.
    :ivar values: one for each repeat. :ivar passes: stretches, apart in time, that they came in.
    :ivar better: ``less`` or ``more``. :ivar floor: subject to be compared with.
    """

    workload: str
    subject: str
    phase: str
    values: tuple[float, ...]
    unit: str = "s"
    better: str = LESS
    parameters: dict[str, Parameter] = field(default_factory=dict)
    passes: int = 1
    floor: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def identity(self) -> Identity:
        """What tells it apart from all others of a run."""
        return (self.workload, self.subject, self.phase, tuple(sorted(self.parameters.items())))

    @property
    def label(self) -> str:
        """Workload and phase with the parameters, for people."""
        given = ", ".join(f"{name} {value}" for name, value in sorted(self.parameters.items()))
        return f"{self.workload} {self.phase}" + (f" ({given})" if given else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit that a figure must keep.

    :ivar value: what was found. :ivar limit: the most it may be. :ivar unit: ``x`` for a ratio, ``ms``, ``MiB``.
    :ivar what: what was divided by what, on which interpreter.
    :ivar low: the least that one pass found. :ivar high: the most; both are None where it was measured in one.
    """

    name: str
    value: float
    limit: float
    unit: str
    what: str
    low: float | None = None
    high: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is kept."""
        return self.value <= self.limit


@dataclass(slots=True, kw_only=True)
class Run:
    """Everything one run has found."""

    suite: str
    seed: int
    started: str
    seconds: float = 0.0
    machine: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    method: list[str] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    budgets: list[Budget] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        workload: str,
        subject: str,
        phase: str,
        values: Iterable[float],
        *,
        unit: str = "s",
        better: str = LESS,
        floor: str | None = None,
        notes: Iterable[str] = (),
        passes: int = 1,
        **parameters: Parameter,
    ) -> Series:
        """Add a series and return it."""
        made = Series(
            workload=workload, subject=subject, phase=phase, values=tuple(values), unit=unit, better=better,
            parameters=parameters, floor=floor, notes=tuple(notes), passes=passes,
        )  # fmt: skip
        self.series.append(made)
        return made

    def judge(
        self,
        name: str,
        value: float | tuple[float, float, float],
        limit: float,
        what: str,
        *,
        unit: str = "x",
    ) -> None:
        """Add a budget's verdict.

        :param value: what was found; with the least and the most of its passes, where there were several.
        """
        found, low, high = value if isinstance(value, tuple) else (value, None, None)
        self.budgets.append(
            Budget(
                name=name,
                value=round(found, 3),
                limit=limit,
                unit=unit,
                what=what,
                low=None if low is None else round(low, 3),
                high=None if high is None else round(high, 3),
            )
        )

    def floor_of(self, series: Series) -> Series | None:
        """Return the bare cost beside which *series* was measured; its phase may have another name."""
        beside = [
            one
            for one in self.of(series.workload)
            if one.subject == series.floor and one.parameters == series.parameters and one.unit == series.unit
        ]
        same = [one for one in beside if one.phase == series.phase]
        return (same or beside)[0] if len(same or beside) == 1 else None

    def of(self, workload: str) -> Iterator[Series]:
        """Yield the series of one workload."""
        return (series for series in self.series if series.workload == workload)

    @property
    def over(self) -> list[Budget]:
        """The budgets that are not kept."""
        return [budget for budget in self.budgets if not budget.met]

    def document(self) -> dict[str, object]:
        """Return the run as JSON has it."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "suite": self.suite,
            "seed": self.seed,
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "machine": self.machine,
            "method": self.method,
            "series": [_compact(asdict(series)) for series in self.series],
            "budgets": [{**asdict(budget), "met": budget.met} for budget in self.budgets],
            "absent": [{"subject": subject, "reason": reason} for subject, reason in sorted(self.absent.items())],
        }


def _compact(series: dict[str, object]) -> dict[str, object]:
    values = series["values"]
    assert isinstance(values, tuple)
    # Nine digits hold a nanosecond in a day's work.
    series["values"] = [float(f"{value:.9g}") for value in values]
    return series


def save(run: Run, path: str) -> None:
    """Write a run to *path*, whole or not at all."""
    draft = f"{path}.new"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(run.document(), file, indent=1, sort_keys=False)
        file.write("\n")
    os.replace(draft, path)


def load(path: str) -> Run:
    """Read a run.

    :raises CowstoreError: it is none, or of another schema; one line that says which.
    """
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except OSError as error:
        raise CowstoreError(f"cannot read the results {path}: {error.strerror}") from error
    except ValueError as error:
        raise CowstoreError(f"{path} holds no results: it is not JSON ({error})") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise CowstoreError(f"{path} holds no results: its schema is not {SCHEMA!r}")
    if document.get("version") != VERSION:
        raise CowstoreError(
            f"{path} has version {document.get('version')} of the schema, this cowstore reads version {VERSION}; "
            "measure again, or use the version that wrote it"
        )
    try:
        return _run(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CowstoreError(f"{path} is damaged: {error!r}") from error


def _run(document: dict[str, object]) -> Run:
    fields = {name: document[name] for name in ("suite", "seed", "started", "seconds", "machine", "method")}
    run = Run(**fields)  # type: ignore[arg-type]
    series = document["series"]
    budgets = document["budgets"]
    absent = document["absent"]
    assert isinstance(series, list) and isinstance(budgets, list) and isinstance(absent, list)  # noqa: PT018
    for one in series:
        known = {name: one[name] for name in Series.__dataclass_fields__}
        known["values"] = tuple(map(float, known["values"]))
        known["notes"] = tuple(known["notes"])
        run.series.append(Series(**known))
    run.budgets = [Budget(**{name: one[name] for name in Budget.__dataclass_fields__}) for one in budgets]
    run.absent = {one["subject"]: one["reason"] for one in absent}
    return run


def merge(first: Run, *others: Run) -> Run:
    """Return one run with everything; what only an other one has is said to come from its machine.

    A subject that is there already keeps its figures: two machines' are never mixed under one name.
    """
    merged = Run(
        suite="+".join(dict.fromkeys([first.suite, *(other.suite for other in others)])),
        seed=first.seed,
        started=first.started,
        seconds=first.seconds + sum(other.seconds for other in others),
        machine=dict(first.machine),
        method=list(first.method),
        series=list(first.series),
        budgets=list(first.budgets),
        absent=dict(first.absent),
    )
    here = first.machine.get("kernel"), first.machine.get("processor")
    for other in others:
        there = other.machine.get("kernel"), other.machine.get("processor")
        suffix = "" if there == here else f" @ {other.machine.get('kernel', 'elsewhere')}"
        known = {series.identity for series in merged.series}
        for series in other.series:
            renamed = _renamed(series, suffix)
            if renamed.identity not in known:
                merged.series.append(renamed)
        if suffix:
            merged.method.append(
                f"Figures marked '{suffix.strip()}' are from another machine or a virtual one: compare them with the "
                "floor of the same mark only."
            )
        measured = {series.subject for series in other.series}
        merged.absent = {
            subject: reason
            for subject, reason in {**_marked(other.absent, suffix), **merged.absent}.items()
            if subject not in measured or subject in {series.subject for series in first.series}
        }
        merged.budgets.extend(other.budgets)
    return merged


def _marked(absent: dict[str, str], suffix: str) -> dict[str, str]:
    return {subject + suffix: reason for subject, reason in absent.items()}


def _renamed(series: Series, suffix: str) -> Series:
    if not suffix:
        return series
    return Series(
        workload=series.workload, subject=series.subject + suffix, phase=series.phase, values=series.values,
        unit=series.unit, better=series.better, parameters=series.parameters, passes=series.passes,
        floor=None if series.floor is None else series.floor + suffix, notes=series.notes,
    )  # fmt: skip
