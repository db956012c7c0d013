"""What a study's section leaves beside its text: figures, and its answer in short."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Output:
    """Filled while a section is written.

    Args:
        folder: the figures' folder, as links on the page name it.
        figures: the text of each, by file name.
        answers: what the study found, each a few words for the page's first table.
    """

    folder: str
    figures: dict[str, str] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)

    def figure(self, name: str, svg: str, title: str) -> str:
        """Keep a figure, and return the Markdown that shows it."""
        self.figures[name] = svg
        return f"![{title}]({self.folder}/{name})\n"
