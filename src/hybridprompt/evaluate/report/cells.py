"""What tables are made of: text in cells, which HTML and Markdown draw alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mood = Literal["", "gain", "loss", "note"]


@dataclass(frozen=True)
class Cell:
    """One cell.  mood: how it is coloured; the text says the same without."""

    text: str
    mood: Mood = ""


@dataclass(frozen=True)
class Table:
    """A table.  The first ``labels`` columns are texts, all others numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    labels: int = 1
