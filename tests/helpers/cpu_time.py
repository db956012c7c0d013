"""CPU seconds of whole processes, and what they are worth on the machine as it is now.

Other work on a machine lengthens CPU seconds too (processors share caches and execution units), so
a limit is in seconds of a quiet machine, or in times of a known piece of work, done just then.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

QUIET_IMPORT = 2.0  # seconds of `import torch` on the machine on which limits were set


def run(
    words: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    given: str | None = None,
) -> tuple[str, float]:
    """Run Python with ``words`` to its end; return what it printed, and its CPU seconds.

    ``given`` is its standard input.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def slowness(folder: Path) -> float:
    """How many times as long work takes now as on that machine when quiet; 1 at least."""
    return max(1.0, run(["-c", "import torch"], folder)[1] / QUIET_IMPORT)
