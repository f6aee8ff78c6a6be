"""The table of rows in docs/rows.md: what the library claims, clause by clause."""

import difflib
import re
from typing import NamedTuple

SINGLE = "—"
ROW_ID = re.compile(r"S\d+b?|E\d+\.\d+")
CLAUSE = re.compile(r"[a-z][a-z0-9_]*")


class Row(NamedTuple):
    """One line of the table; `clauses` are full names (`S54.ties`), or the id of a row of one claim."""

    id: str
    clauses: tuple[str, ...]
    statement: str


def parse_rows(page: str) -> dict[str, Row]:
    """Read every table line of the page; raises ValueError at a line that is not a well-formed, new row."""
    rows: dict[str, Row] = {}
    for line in page.splitlines():
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells == ["Row", "Clauses", "Statement"] or all(set(cell) <= set("-:") for cell in cells):
            continue
        if len(cells) != 3 or not ROW_ID.fullmatch(cells[0]) or not cells[2]:
            raise ValueError(f"not a row of the form | id | clauses | statement |: {line}")
        name, clauses, statement = cells
        if name in rows:
            raise ValueError(f"row {name} is in the table twice")
        rows[name] = Row(name, _clauses(name, clauses), statement)
    return rows


def _clauses(row: str, cell: str) -> tuple[str, ...]:
    if cell == SINGLE:
        return (row,)
    names = [name.strip() for name in cell.split(",")]
    for name in names:
        if not CLAUSE.fullmatch(name):
            raise ValueError(f"row {row}: {name!r} is not a clause name (lower-case words, underscores)")
    if len(set(names)) < len(names):
        raise ValueError(f"row {row} names a clause twice: {cell}")
    return tuple(f"{row}.{name}" for name in names)


def unknown_clause(name: str, rows: dict[str, Row]) -> str | None:
    """Why `name` is no clause of the table, with the nearest names, or None if it is one."""
    known = [clause for row in rows.values() for clause in row.clauses]
    if name in known:
        return None
    if name in rows:
        return f"row {name} has several clauses, name one: {', '.join(rows[name].clauses)}"
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"no clause {name!r} in docs/rows.md" + (f"; nearest: {', '.join(near)}" if near else "")
