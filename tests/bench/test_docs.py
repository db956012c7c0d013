"""README and docs: their links lead somewhere, and the commands that they show exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.main import split

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists(page: Path) -> None:
    shown = re.findall(r"(?:^(?:\$ | {4})|`)spectral-bench ([a-z][^`\n]*)", page.read_text(), re.M)
    unknown = [line for line in shown if split(line.split())[0] is None]
    assert [line for line in unknown if line.split()[0] != "help"] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    files = list((ROOT / "tests").rglob("test_*.py"))
    known = {file.name for file in files}
    for file in files:
        known |= set(re.findall(r"def (test_\w+)", file.read_text()))
    named = re.findall(r"`(?:[\w/]*/)?(test_\w+(?:\.py)?)`", page.read_text())
    assert [name for name in named if name not in known] == []
