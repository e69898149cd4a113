"""Writes the list of all cases of the suite into docs/conformance.md; a unit test says when that is needed."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "conformance.md"
START, END = "<!-- cases: made by docs/_ext/cases.py -->\n", "<!-- end of cases -->\n"


def page_with_cases() -> str:
    """Return the page with its list of cases as the suite has them."""
    import cowstore.testing

    before, _, rest = PAGE.read_text().partition(START)
    _, _, after = rest.partition(END)
    rows = [f"| `{case.name}` | {case.origin} | {' '.join(case.text.split())} |" for case in cowstore.testing.cases()]
    return "\n".join((f"{before}{START}", "| case | from | asks |", "|---|---|---|", *rows, "", f"{END}{after}"))


if __name__ == "__main__":
    PAGE.write_text(page_with_cases())
