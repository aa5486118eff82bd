"""What is found out about a set of images while it is prepared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sg3.data.duplicates import NearDuplicates
from sg3.data.listing import counted
from sg3.data.prepare_image import Outcome, Prepared
from sg3.data.report import Report

TWELVE_BITS = 4095  # largest value of cameras and microscopes that store 12 bits in 16


class Teller:
    """Sends lines to the caller and to the report."""

    def __init__(self, tell: Callable[[str], object], page: Report):
        self._tell, self._page = tell, page

    def __call__(self, notes: Sequence[str]) -> None:
        for note in notes:
            self._tell(note)
            self._page.notes.append(note)


class DropCounts:
    """Counts of the images dropped."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first = ""

    def add(self, item: Prepared, outcome: Outcome, page: Report) -> None:
        assert item.reason is not None  # it was dropped
        self._counts[item.reason] += 1
        self._first = self._first or f"first {item.source}: {item.detail}"
        page.add(item.reason, item.source, item.detail, outcome.picture)

    def text(self) -> str:
        """`2 too small; first a.png: 3x4 pixels`."""
        counts = ", ".join(f"{count} {reason}" for reason, count in self._counts.items())
        return f"{counts}; {self._first}"


class Twins:
    """Images that look like an earlier one: `how` is 'report', 'drop' or None, not to look."""

    def __init__(self, how: str | None):
        self._how, self._seen = how, NearDuplicates()
        self._found: list[str] = []

    def judge(self, item: Prepared, outcome: Outcome, page: Report) -> Prepared:
        """Return `item`, dropped if it has a twin and twins are dropped."""
        if outcome.look is None:
            return item
        twin = self._seen.find(outcome.look)
        if twin is None:
            self._seen.add(item.source, outcome.look)
            return item
        detail = f"looks like {twin}"
        if self._how == "drop":
            return Prepared(
                item.index, item.total, item.source, reason="near-duplicate", detail=detail
            )
        self._found.append(f"{item.source} {detail}")
        page.add("near-duplicate, kept", item.source, detail, outcome.picture)
        return item

    def notes(self) -> list[str]:
        """Return a line about those found and kept."""
        return [counted(self._found, "image{s} with a near-duplicate")] if self._found else []


@dataclass
class Deep:
    """The images with 16 bits per channel among those kept."""

    count: int = 0
    brightest: int = 0

    def add(self, outcome: Outcome) -> None:
        self.count += outcome.deep
        self.brightest = max(self.brightest, outcome.brightest)

    def notes(self) -> list[str]:
        """Return a line if the images seem to have fewer bits than 16."""
        if not self.count or self.brightest > TWELVE_BITS:
            return []
        return [
            f"{self.count} images of 16 bits never exceed {self.brightest}: if they have "
            f"{max(self.brightest, 1).bit_length()} bits, they are too dark; scale them to 65535 "
            "first"
        ]
