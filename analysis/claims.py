"""The paper's claims, one by one, against what was measured here.

spectral-bench claims source=runs
spectral-bench claims source=runs other_data=true format=markdown out=claims.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import Field

from analysis.claim.check import check
from analysis.claim.model import FILE, load_claims
from analysis.command.messages import user_messages, writing
from analysis.page.claims import Form, render, summary
from analysis.run import measured
from analysis.run.frame import nearest
from bench import options as cli
from bench.errors import UserError


class ClaimOptions(cli.Options):
    """Options of ``spectral-bench claims``."""

    source: list[str] = Field(
        ["runs"], min_length=1, description="runs folders, run folders, archives or tables"
    )
    other_data: bool = Field(
        False, description="test claims on whatever datasets there are, not the stated ones alone"
    )
    only: list[str] = Field([], description="only the claims of these ids")
    claims: Path = Field(FILE, description="the claims; the default is the preprint's")
    format: Form = Field("text", description="form of the report")
    out: Path | None = Field(None, description="write the report to this file instead")


def main(argv: list[str]) -> None:
    """Print the report."""
    options = cli.parse(
        ClaimOptions,
        argv,
        prog="spectral-bench claims",
        description="Judge each claim of the preprint: stated, ours, holds / fails / not measured.",
        examples=[
            "source=runs",
            "source=runs other_data=true format=markdown out=claims.md",
            "source=runs/a/exponents.parquet,runs/b/exponents.parquet only=alpha-conv-mean",
        ],
    )
    with user_messages():
        try:
            claims = load_claims(options.claims)
            ids = [claim.id for claim in claims]
            for name in options.only:
                if name not in ids:
                    raise UserError(f"only={name}: no such claim{nearest(name, ids)}")
            measurements = measured.load(options.source)
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}") from error
    chosen = [claim for claim in claims if not options.only or claim.id in options.only]
    results = [check(claim, measurements, other_data=options.other_data) for claim in chosen]
    text = render(results, options.format)
    if options.out is None:
        sys.stdout.write(text)
        return
    with writing(options.out):
        options.out.write_text(text, encoding="utf-8")
    print(f"{options.out}: {summary(results)}")


if __name__ == "__main__":
    cli.run(main)
