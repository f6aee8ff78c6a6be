"""Numbers from a CSV file, with errors that name the line and the column."""

import csv
import math
from pathlib import Path


def read_numbers(
    path: Path, *, column: str | None = None, above: float = -math.inf, exclusive: bool = True
) -> list[float]:
    """One column of a CSV file: the named one, or the first, with or without a header.

    Args:
        path: the file; comma separated, UTF-8. Empty lines are skipped.
        column: a name from the header; without it the first column is read.
        above: bound that every number must exceed, or with `exclusive=False` reach.
        exclusive: whether the bound itself is refused.

    Raises:
        ValueError: no file, no such column, nothing in it, or an entry that is not a number in range: with its line and
            column.
    """
    rows = read_lines(path, "a column of numbers, one a line")
    header = [cell.strip() for cell in rows[0][1]]
    has_header = _number(header[0]) is None or column is not None
    place = 0
    if column is not None:
        if column not in header:
            raise ValueError(f"{path}, line {rows[0][0]}: no column {column!r}; the header has {', '.join(header)}.")
        place = header.index(column)
    numbers = []
    for line, row in rows[has_header:]:
        if len(row) <= place:
            raise ValueError(f"{path}, line {line}: {len(row)} columns, but column {place + 1} is needed.")
        number = _number(row[place])
        where = f"{path}, line {line}, column {place + 1}"
        if number is None:
            raise ValueError(f"{where}: {row[place]!r} is not a finite number.")
        if number < above or (exclusive and number == above):
            raise ValueError(
                f"{where}: numbers must be {'above' if exclusive else 'at least'} {above:g}, not {number:g}."
            )
        numbers.append(number)
    if not numbers:
        raise ValueError(f"{path} has a header and no numbers below it.")
    return numbers


def read_lines(path: Path, needed: str) -> list[tuple[int, list[str]]]:
    """Line number and cells of each line of a CSV file that is not empty.

    Raises `ValueError` where the file cannot be read, or has none, with what is `needed`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}.") from None
    reader = csv.reader(text.splitlines())
    try:
        lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not comma separated text: {error}.") from None
    if not lines:
        raise ValueError(f"{path} is empty: it needs {needed}.")
    return lines


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
