"""Cuts off the end of append-only files, as a machine that stops may do before they are on disk."""

from pathlib import Path


def latest_file(folder: Path) -> Path:
    """The file to which the server in this folder has appended last."""
    return max((folder / "appendonlydir").glob("*.incr.aof"), key=lambda path: int(path.name.split(".")[-3]))


def starts(content: bytes) -> list[int]:
    """Where commands begin; those of a transaction begin with its MULTI."""
    found, place, inside = [], 0, False
    while place < len(content):
        word, end = _command(content, place)
        if not inside:
            found.append(place)
        inside = word == b"MULTI" or (inside and word != b"EXEC")
        place = end
    return found


def start_of(content: bytes, text: bytes) -> int:
    """Where the first command begins that has a text."""
    position = content.index(text)
    return max(place for place in starts(content) if place <= position)


def cut(file: Path, size: int) -> None:
    """Leave the first bytes of a file."""
    with file.open("r+b") as opened:
        opened.truncate(size)


def _command(content: bytes, place: int) -> tuple[bytes, int]:
    """The name of the command that begins at a place, and where it ends."""
    count, place = _number(content, place)
    name = b""
    for number in range(count):
        size, place = _number(content, place)
        if not number:
            name = content[place : place + size].upper()
        place += size + 2
    return name, place


def _number(content: bytes, place: int) -> tuple[int, int]:
    """The number after the first character of a line, and where the next line begins."""
    end = content.index(b"\r\n", place)
    return int(content[place + 1 : end]), end + 2
