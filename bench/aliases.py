"""Public names of components that lie elsewhere by now: the name as configs know it -> where it is.

An entry for every moved class or function that a config may name, for as long as runs, archives or
users' files may know the old name: ``"bench.models.old.Net": "bench.models.new.Net"``. The first
name that a component ever had identifies its runs. Moved again, it keeps its first entry, with the
new place; the place between gets an entry below it.
"""

from __future__ import annotations

MOVED: dict[str, str] = {}
