import pytest

from analysis.command.messages import user_messages
from analysis.run.frame import warn
from bench.errors import UserError


def test_warnings_come_at_the_end_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    with user_messages():
        for _ in range(2):
            warn("a/summary.json: cut short")  # the same one twice: nothing is held back
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "warning: a/summary.json: cut short\n" * 2


@pytest.mark.parametrize(
    ("source", "text", "told"),
    [
        ("", "no runs", "no runs"),
        ("runs", "no runs there", "no runs there"),
        ("study", "no target", "study: no target"),
        ("wandb:me/it ", "wandb:me/it: no such project", "wandb:me/it: no such project"),
    ],
)
def test_an_error_names_the_source_once(
    source: str, text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as raised, user_messages(source):
        warn("before")
        raise ValueError(text)
    assert str(raised.value) == told
    assert isinstance(raised.value.__cause__, ValueError)
    assert capsys.readouterr().err == "warning: before\n"


def test_other_errors_pass() -> None:
    with pytest.raises(OSError, match="disk"), user_messages("runs"):
        raise OSError("disk")
