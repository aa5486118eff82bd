"""Listing of a folder or zip: what is used, and in words what is not.

People's folders come from phones, Macs, Windows and microscopes. Nothing is left out silently:
`Listing.notes` counts it.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

#: Names that operating systems and network drives leave behind, beside those with a dot.
SYSTEM_NAMES = (
    "__MACOSX", "@eaDir", "Thumbs.db", "ehthumbs.db", "desktop.ini", "$RECYCLE.BIN",
    "System Volume Information", "lost+found", "#recycle", "@Recycle",
)  # fmt: skip
#: A part of a name that is hidden, or one of those.
HIDDEN = re.compile(
    rf"(?:^|[/\\])(?:\.(?!\.?(?:[/\\]|$))|(?:{'|'.join(map(re.escape, SYSTEM_NAMES))})(?:[/\\]|$))",
    re.IGNORECASE,
)
HEIC = {".heic", ".heif"}  # photos of iPhones
SHOWN_KINDS = 8  # kinds of files that are named in a note


@dataclass(frozen=True)
class Listing:
    """Files below a folder or in a zip.

    Attributes:
        names: relative names of the files to use, sorted.
        hidden: those of hidden files and of what operating systems leave behind.
        problems: {what, with {s} for the plural: names} of everything else that is left out.
    """

    names: list[str]
    hidden: list[str]
    problems: dict[str, list[str]] = field(default_factory=dict)

    def notes(self, read: Collection[str | None]) -> list[str]:
        """Return one line per kind of file that is left out; `read` are the names in use."""
        notes = []
        if self.hidden:
            notes.append(f"skipped {counted(self.hidden, 'hidden or system file{s}')}")
        notes += [f"not read: {counted(names, what)}" for what, names in self.problems.items()]
        kinds = Counter(suffix(name) for name in self.names if name not in read)
        if kinds:
            order = sorted(kinds.items(), key=lambda pair: (-pair[1], not pair[0], pair[0]))
            text = [f"{n} {kind or 'without extension'}" for kind, n in order]
            more = len(text) - SHOWN_KINDS
            rest = [f"{more} more kinds"] if more > 0 else []
            remedy = "; .heic needs: pip install 'sg3[heic]'" if kinds.keys() & HEIC else ""
            notes.append(f"not read: {', '.join(text[:SHOWN_KINDS] + rest)}{remedy}")
        return notes


def counted(names: list[str], what: str) -> str:
    """`(["a", "b"], "hidden file{s}")` → `2 hidden files, first a`."""
    if len(names) == 1:
        return f"1 {what.format(s='')}: {names[0]}"
    return f"{len(names)} {what.format(s='s')}, first {names[0]}"


def suffix(name: str) -> str:
    """`cats/A.PNG` → `.png`."""
    return posixpath.splitext(name)[1].lower()


def canonical(name: str) -> str:
    r"""Return a name as every tool means it: `.\cats\a.png` → `cats/a.png`, letters composed.

    Windows writes back slashes, also into zips; macOS decomposes letters: é becomes two characters.
    """
    if "\\" in name:
        name = name.replace("\\", "/")
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    if name.startswith(("./", "/")) or "/./" in name or "//" in name:
        name = "/".join(part for part in name.split("/") if part not in ("", "."))
    return name


def top_folder(name: str) -> str | None:
    """Return the first-level folder of a file, its class in a set without `dataset.json`."""
    top, slash, _ = canonical(name).partition("/")
    return top if slash and top != ".." else None


def is_hidden(name: str) -> bool:
    """Whether a part of `name` is hidden (`.x`) or left behind by an operating system."""
    return HIDDEN.search(name) is not None


def list_zip(archive: zipfile.ZipFile) -> Listing:
    """List the files of a zip."""
    entries = [name for name in archive.namelist() if not name.endswith(("/", "\\"))]
    names = set(entries)
    problems = {}
    if len(names) < len(entries):
        twice = [name for name, count in Counter(entries).items() if count > 1]
        problems["repeated name{s}, of which the last counts"] = twice
    return _sorted_out(names, problems)


def list_folder(root: Path) -> Listing:
    """List the files below a folder.

    Links to folders are followed, but every folder is listed once, whatever leads to it, so that
    loops end. Folders that lie below `root` are listed where they are.
    """
    walk = _Walk()
    walk.folder(os.fspath(root), "")
    while walk.links:
        # Sorted: which of two links to the same folder is followed does not depend on the disk.
        links, walk.links = sorted(walk.links), []
        for name in links:
            walk.folder(os.path.join(root, name), name + "/", linked=True)
    return _sorted_out(walk.names, walk.problems)


class _Walk:
    """Folders that were listed, and what was found in them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.links: list[str] = []
        self.problems: dict[str, list[str]] = {}
        self._seen: set[tuple[int, int]] = set()

    def folder(self, path: str, prefix: str, linked: bool = False) -> None:
        """List a folder and those in it; links to folders wait in `links`."""
        pending = [(path, prefix)]
        while pending:
            path, prefix = pending.pop()
            try:
                stat = os.stat(path)
                if (stat.st_dev, stat.st_ino) in self._seen:
                    if linked:
                        self._leave_out("link{s} to folders that are listed already", prefix[:-1])
                    continue
                self._seen.add((stat.st_dev, stat.st_ino))
                with os.scandir(path) as entries:
                    pending += [
                        (entry.path, prefix + entry.name + "/")
                        for entry in entries
                        if self._add(entry, prefix + entry.name)
                    ]
            except OSError:
                if not prefix:
                    raise
                self._leave_out("folder{s} that cannot be opened", prefix[:-1])

    def _add(self, entry: os.DirEntry, name: str) -> bool:
        """Note a file or link; return whether `entry` is a folder to enter now."""
        if entry.is_file():
            self.names.append(name)
        elif entry.is_dir():
            if not entry.is_symlink():
                return True
            self.links.append(name)
        elif entry.is_symlink():
            self._leave_out("broken link{s}", name)
        return False

    def _leave_out(self, what: str, name: str) -> None:
        self.problems.setdefault(what, []).append(name)


def _sorted_out(names: Iterable[str], problems: dict[str, list[str]]) -> Listing:
    hidden: list[str] = []
    used: list[str] = []
    for name in sorted(names):
        (hidden if is_hidden(name) else used).append(name)
    return Listing(used, hidden, {what: sorted(found) for what, found in problems.items()})
