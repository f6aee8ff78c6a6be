"""Observations from a user's files: a CSV table, a NumPy array, or a folder of images."""

import hashlib
import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.image
import numpy as np

from optimality.experiments.measurements import read_lines

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")
"""Endings of image files; PNG is always read, others where Pillow is there."""
IMAGE_LEVELS = 256
TABLES = (".csv", ".npy", ".npz")


class Observations(NamedTuple):
    """What a file holds."""

    rows: np.ndarray
    """`[points, features]`."""
    names: tuple[str, ...] | None = None
    """Of the features."""
    picture: tuple[int, ...] | None = None
    """Rows and columns, and perhaps 3 colors, where a point is a picture."""
    levels: int | None = None
    """Of integers, where the file's kind says so."""


def is_source(text: str) -> bool:
    """Whether this names a file or folder of observations by its looks."""
    file = text.rpartition(":")[0] if ".npz:" in text.lower() else text
    return file.lower().endswith(TABLES) or (Path(text).is_dir() and ("/" in text or _images(Path(text)) != []))


def read_observations(source: str, columns: list[str] | None = None) -> Observations:
    """What `source` names: `FILE.csv`, `FILE.npy`, `FILE.npz`, of several arrays in it `FILE.npz:NAME`, or a folder of
    images of one size.

    Args:
        source: the path.
        columns: of a table, by their names in its header, else by their numbers from 1; all of them by default.

    Raises:
        ValueError: what cannot be read, a cell that is no finite number (with line and column), an unknown column,
            arrays that are no table of numbers, images of several sizes.
    """
    path, name = split_source(source)
    if path.is_dir():
        _refuse_columns(columns, source)
        return read_images(path)
    if path.suffix.lower() == ".csv":
        names, rows = read_table(path, columns)
        return Observations(rows, names)
    if path.suffix.lower() in TABLES:
        _refuse_columns(columns, source)
        return read_array(path, name)
    raise ValueError(
        f"{source} is no data that can be read: give a .csv, .npy or .npz file, or a folder of images."
        if path.exists()
        else f"there is no {source}: give digits, ring, a .csv, .npy or .npz file, or a folder of images."
    )


def split_source(source: str) -> tuple[Path, str | None]:
    """The file, and the array's name of `FILE.npz:NAME`."""
    file, colon, name = source.rpartition(":")
    if colon and file.lower().endswith(".npz"):
        return Path(file), name
    return Path(source), None


def read_table(path: Path, columns: list[str] | None = None) -> tuple[tuple[str, ...] | None, np.ndarray]:
    """Names, if there is a header, and numbers of a CSV file; a first line whose first cell is no number is a header.

    Raises:
        ValueError: no file, nothing in it, an unknown column, lines of several lengths, or a cell that is not a finite
            number: with its line and column.
    """
    lines = read_lines(path, "one point a line, numbers with commas between them")
    width = len(lines[0][1])
    header = None
    if not _reads_as_number(lines[0][1][0]):
        header = [cell.strip() or str(place + 1) for place, cell in enumerate(lines.pop(0)[1])]
    if not lines:
        raise ValueError(f"{path} has a header and no numbers below it.")
    places = list(range(width)) if columns is None else [_place(path, column, header, width) for column in columns]
    rows = np.empty((len(lines), len(places)))
    for point, (line, cells) in enumerate(lines):
        if len(cells) != width:
            raise ValueError(f"{path}, line {line}: {len(cells)} cells, but the first line has {width}.")
        for feature, place in enumerate(places):
            rows[point, feature] = _cell(cells[place], f"{path}, line {line}, column {_shown(place, header)}")
    return None if header is None else tuple(header[place] for place in places), rows


def _place(path: Path, column: str, header: list[str] | None, width: int) -> int:
    if header is not None and column in header:
        return header.index(column)
    if header is None and column.isdigit() and 1 <= int(column) <= width:
        return int(column) - 1
    known = f"numbers from 1 to {width}, for there is no header" if header is None else ", ".join(header)
    raise ValueError(f"{path} has no column {column!r}; its columns are {known}.")


def _shown(place: int, header: list[str] | None) -> str:
    named = "" if header is None or header[place] == str(place + 1) else f" ({header[place]})"
    return f"{place + 1}{named}"


def _cell(text: str, where: str) -> float:
    if not text.strip():
        raise ValueError(f"{where}: the cell is empty; drop the line, fill the gap, or choose other --columns.")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {text.strip()!r} is not a finite number.")
    return number


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_array(path: Path, name: str | None = None) -> Observations:
    """A `.npy` file, or an array of a `.npz` file: `[points, features]`, or `[points, rows, columns]` of pictures."""
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".npy":
                return _observations(np.load(file, allow_pickle=False), str(path))
            with np.load(file, allow_pickle=False) as arrays:
                return _observations(arrays[_array_name(path, name, list(arrays))], str(path))
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}.") from None
    except (OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} is no array that can be read: {error}.") from None
    except ValueError as error:
        if "Object arrays" in str(error) or "pickle" in str(error):
            raise ValueError(f"{path} holds Python objects, which are not read: save an array of numbers.") from None
        raise ValueError(str(error) if str(path) in str(error) else f"{path} cannot be read: {error}.") from None


def _array_name(path: Path, name: str | None, names: list[str]) -> str:
    if name is None and len(names) == 1:
        return names[0]
    if name in names:
        return str(name)
    known = ", ".join(names) or "none"
    if name is None:
        raise ValueError(f"{path} holds several arrays, {known}: say which, {path}:{names[0] if names else 'NAME'}.")
    raise ValueError(f"{path} has no array {name!r}; it has {known}.")


def _observations(array: Any, where: str) -> Observations:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{where} holds {array.dtype}, but observations are real numbers.")
    if array.ndim not in (1, 2, 3) or 0 in array.shape:
        raise ValueError(
            f"{where} has shape {array.shape}, but observations are [points, features], or [points, rows, columns] of "
            f"pictures."
        )
    picture = array.shape[1:] if array.ndim == 3 else None
    return Observations(array.reshape(array.shape[0], -1).astype(np.float64), None, picture)


def read_images(folder: Path) -> Observations:
    """All images of a folder in the order of their names: integers from 0 to 255, gray or with three colors."""
    files = _images(folder)
    if not files:
        raise ValueError(f"{folder} has no images in it: files that end in {', '.join(IMAGES)}.")
    pictures = [_picture(file) for file in files]
    gray = all(_is_gray(picture) for picture in pictures)
    pictures = [_gray(picture) if gray else _colored(picture) for picture in pictures]
    first = pictures[0].shape
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != first:
            raise ValueError(
                f"images must be of one size, but {files[0].name} has {first[0]} x {first[1]} pixels and {file.name} "
                f"{picture.shape[0]} x {picture.shape[1]}."
            )
    rows = np.stack([picture.reshape(-1) for picture in pictures]).astype(np.float64)
    return Observations(rows, None, first, IMAGE_LEVELS)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES and not path.name.startswith("."))


def _picture(file: Path) -> np.ndarray:
    """Integers from 0 to 255, `[rows, columns]` or with 3 colors; transparency is left out."""
    try:
        picture = matplotlib.image.imread(file)
    except (OSError, ValueError, SyntaxError, ImportError) as error:
        raise ValueError(f"{file} is no image that can be read: {error}.") from None
    if picture.dtype.kind == "f":  # a PNG in [0, 1]
        picture = np.round(picture * 255.0)
    elif picture.dtype != np.uint8:
        raise ValueError(f"{file} has {picture.dtype} pixels, but 256 levels can be read: save it as PNG.")
    if picture.ndim == 3:
        picture = picture[..., : 1 if picture.shape[2] in (1, 2) else 3]
    return picture.astype(np.uint8)


def _is_gray(picture: np.ndarray) -> bool:
    return picture.ndim == 2 or bool(np.all(picture == picture[..., :1]))


def _gray(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 2 else picture[..., 0]


def _colored(picture: np.ndarray) -> np.ndarray:
    picture = picture if picture.ndim == 3 else picture[..., None]
    return np.broadcast_to(picture, (*picture.shape[:2], 3))


def _refuse_columns(columns: list[str] | None, source: str) -> None:
    if columns is not None:
        raise ValueError(f"--columns is for tables in CSV files, but {source} is none.")


def fingerprint(rows: np.ndarray) -> str:
    """A checksum of numbers, by which a configuration knows its data again."""
    rows = np.ascontiguousarray(rows, np.float64)
    return hashlib.sha256(repr(rows.shape).encode() + rows.tobytes()).hexdigest()[:16]
