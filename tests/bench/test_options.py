"""The command-line helper: typed values, the help page, and one clear line for each mistake."""

import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator, model_validator
from rich.table import Table

from bench.options import Options, UserError, help_page, parse, run, show


class Dtype(Enum):
    """Two precisions."""

    single = "float32"
    double = "float64"


class Demo(Options):
    """One field of each kind that commands use."""

    source: str = Field(description="A folder, offline:<folder> or wandb:<entity>/<project>.")
    directions: int = Field(20, ge=1, le=100, description="Directions a layer.")
    damping: float = Field(0.1, gt=0, description="Damping.")
    force: bool = Field(False, description="Measure again.")
    out: Path | None = Field(None, description="Where to write.")
    dtype: Dtype = Field(Dtype.single, description="Precision.")
    format: Literal["text", "markdown", "csv"] = Field("text", description="Output format.")
    metrics: list[str] = Field(["test/accuracy"], description="Summary keys.")
    widths: list[int] = Field([], description="Widths.")
    limit: int | Literal["all"] | None = Field(None, description="Rows.")

    @field_validator("source")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if value.startswith("ftp:"):
            raise ValueError("use a folder, offline:<folder> or wandb:<entity>/<project>")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Demo":
        if self.force and self.out is None and self.limit == "all":
            raise ValueError("force=true with limit=all needs out=<path>")
        return self


def demo(*argv: str) -> Demo:
    return parse(Demo, argv, prog="spectral-bench demo", description="Shows.")


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        demo(*argv)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_and_every_kind_of_value() -> None:
    assert demo("source=runs") == Demo(source="runs")
    options = demo(
        "source=runs",
        "directions=7",
        "damping=1e-3",
        "force=true",
        "out=a/b",
        "dtype=float64",
        "format=csv",
        "metrics=test/accuracy,train/loss",
        "widths=[64, 128]",
        "limit=all",
    )
    assert (options.directions, options.damping, options.force) == (7, 1e-3, True)
    assert options.out == Path("a/b")
    assert options.dtype is Dtype.double
    assert options.format == "csv"
    assert options.metrics == ["test/accuracy", "train/loss"]
    assert options.widths == [64, 128]
    assert options.limit == "all"
    assert demo("source=runs", "limit=5").limit == 5


@pytest.mark.parametrize(
    "text",
    ["offline:runs/x", "wandb:entity/project", "runs/lr=0.1/seed=2", "123", "true", "null", "1e5"],
)
def test_text_stays_text(text: str) -> None:
    assert demo(f"source={text}").source == text


def test_null_quotes_and_empty_values() -> None:
    assert demo("source=x", "out=null", "limit=~").out is None
    assert demo("source='null'").source == "null"
    assert demo("source=x", "metrics=").metrics == []
    assert demo("source=").source == ""


@given(value=st.integers(1, 100), damping=st.floats(1e-9, 1e9), force=st.booleans())
@settings(max_examples=30, deadline=None)
def test_printed_values_read_back(value: int, damping: float, force: bool) -> None:
    options = demo("source=x", f"directions={value}", f"damping={damping}", f"force={force}")
    assert (options.directions, options.damping, options.force) == (value, damping, force)


def test_unknown_option_names_the_nearest() -> None:
    assert "unknown option 'direction'; did you mean 'directions='?" in refused(
        "source=x", "direction=3"
    )
    assert "did you mean 'dtype='" in refused("source=x", "--dtype=float64")
    assert "valid options: source, directions" in refused("source=x", "zzz=3")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("directions=abc", "directions=abc is not valid: expected integer >= 1 and <= 100"),
        ("directions=0", "expected integer >= 1 and <= 100"),
        ("directions=true", "directions=true is not valid"),
        ("directions=2.5", "directions=2.5 is not valid"),
        ("directions=", "expected integer"),
        ("damping=-1", "damping=-1 is not valid: expected number > 0"),
        ("force=perhaps", "expected true or false"),
        ("format=markdwn", "expected text | markdown | csv; did you mean 'markdown'?"),
        ("dtype=float46", "expected float32 | float64; did you mean 'float64'?"),
        ("widths=1,b", "widths=1,b is not valid: expected integer, comma-separated"),
        ("limit=al", "expected integer or all or null; did you mean 'all'?"),
    ],
)
def test_wrong_values_say_what_is_expected(argument: str, expected: str) -> None:
    assert expected in refused("source=x", argument)


def test_missing_repeated_and_malformed_arguments() -> None:
    assert refused().startswith("option 'source' is required: source=<text>. A folder")
    assert "option 'force' is given twice" in refused("source=x", "force=true", "force=false")
    assert "argument 'runs/x' has no '='" in refused("runs/x")
    assert "as in source=..." in refused("runs/x")
    assert "as in directions=..." in refused("--directions", "5")


def test_validators_of_the_command_speak_for_themselves() -> None:
    assert refused("source=ftp:x").startswith("source=ftp:x: use a folder, offline:<folder>")
    assert refused("source=x", "force=true", "limit=all").startswith("force=true with limit=all")


def test_help_page_lists_everything(capsys: pytest.CaptureFixture[str]) -> None:
    page = help_page(
        Demo, prog="spectral-bench demo", description="Shows.\n\nMore.", examples=["source=x"]
    )
    assert page.startswith("usage: spectral-bench demo source=... [option=value ...]")
    assert "  source=<text>   [required]" in page
    assert "  directions=<integer >= 1 and <= 100>   [default: 20]" in page
    assert "  dtype=<float32 | float64>   [default: float32]" in page
    assert "[default: test/accuracy]" in page
    assert "[default: (empty)]" in page
    assert "[default: null]" in page
    assert "[default: false]" in page
    assert "      Measure again." in page
    assert page.endswith("examples:\n  spectral-bench demo source=x")
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as left:
            demo("nonsense", flag)
        assert left.value.code == 0
        assert "options:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("two\n  lines"), 2, "error: two lines\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_run_turns_mistakes_into_exit_codes(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        run(fail)
    assert left.value.code == code
    assert capsys.readouterr().err == text


def test_run_passes_arguments_and_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "a=1"])
    seen: list[list[str]] = []
    for returned, code in ((None, 0), (3, 3)):
        with pytest.raises(SystemExit) as left:
            run(lambda argv, returned=returned: seen.append(argv) or returned)
        assert left.value.code == code
    assert seen == [["a=1"], ["a=1"]]


def test_a_bug_keeps_its_traceback() -> None:
    def broken(argv: list[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(broken)


def test_an_error_is_one_line_that_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str]) -> None:
        raise UserError("a\nb\x1b[2Jc")

    with pytest.raises(SystemExit) as left:
        run(main)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: a b?[2Jc\n"


def test_a_reader_that_leaves_early_ends_it_quietly() -> None:
    script = "from bench.options import run\nrun(lambda argv: print('line\\n' * 200_000))"
    pipe = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert pipe.stdout is not None
    assert pipe.stderr is not None
    pipe.stdout.readline()
    pipe.stdout.close()
    assert pipe.wait(timeout=60) == 141
    assert pipe.stderr.read() == b""
    pipe.stderr.close()


def test_show_cuts_nothing_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    table = Table(*(f"column {i}" for i in range(12)))
    table.add_row(*(f"1.23456789{i}" for i in range(12)))
    show(table)
    out = capsys.readouterr().out
    assert all(f"1.23456789{i}" in out for i in range(12))
    assert any(all(f"column {i}" in line for i in range(12)) for line in out.splitlines())
