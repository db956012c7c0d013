"""What a component accepts is read from its signature, and tried out without memory."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import pytest
import torch
from hydra.errors import InstantiationException
from torch import nn

from bench import components, config
from bench.build import attempt
from bench.config import RunConfig
from bench.errors import UserError

made: list[torch.device] = []


def check(run: RunConfig) -> RunConfig:
    """What bench.config does with a run's components."""
    groups = ("model", "dataset", "optimizer", "schedule", "tracker")
    checked = components.check({group: getattr(run, group) for group in groups})
    return run.model_copy(update=checked)


class Open(nn.Linear):
    """Takes any option; remembers where it was built."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int, **more: Any) -> None:
        super().__init__(in_channels * image_size**2, num_classes)
        made.append(self.weight.device)


class Huge(nn.Linear):
    """A terabyte of weights, were they allocated."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int) -> None:
        super().__init__(500_000, 500_000)


class Typed(nn.Linear):
    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        *,
        rate: float = 0.5,
        pair: tuple[float, float] = (0.9, 0.99),
        kind: Literal["a", "b"] = "a",
        names: Sequence[str] = (),
        switch: bool = False,
        anything=None,  # no annotation
        layer: nn.Module | None = None,  # a type that pydantic cannot check
        note: Annotated[str | None, "x"] = None,
    ) -> None:
        super().__init__(3, num_classes)


class ForCheckersOnly(nn.Linear):
    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        size: NotImported = 3,  # type: ignore[name-defined]  # noqa: F821
    ) -> None:
        super().__init__(3, num_classes)


def refusing(in_channels: int, num_classes: int, image_size: int, how: str = "value") -> nn.Module:
    errors = {"value": ValueError, "type": TypeError, "file": FileNotFoundError, "bug": KeyError}
    raise errors[how]("first line\nsecond line")


def warning(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    warnings.warn("said at the trial", stacklevel=1)
    return nn.Linear(3, num_classes)


def swallowed(inner: float = 1.0, deep: Any = None) -> float:
    return inner


@pytest.fixture(scope="module")
def base() -> RunConfig:
    return config.load(["tracker=none"])


@pytest.fixture
def check_model(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """``check_model("Typed", rate=1)`` checks a component of this file in the model's place."""
    module = types.ModuleType("bench_test_components")
    vars(module).update({key: value for key, value in globals().items() if key[0] != "_"})
    monkeypatch.setitem(sys.modules, "bench_test_components", module)
    made.clear()

    def run(name: str, **options: Any) -> dict[str, Any]:
        component = {"_target_": f"bench_test_components.{name}", **options}
        return check(base.model_copy(update={"model": component})).model

    return run


Check = Callable[..., dict[str, Any]]


def test_values_get_the_types_of_the_signature(check_model: Check) -> None:
    found = check_model("Typed", rate=1, pair=[0, 1], names=["x"], anything={"a": 1}, note="n")
    assert isinstance(found["rate"], float)
    assert found["pair"] == [0.0, 1.0]  # JSON's list, not a tuple
    assert all(isinstance(value, float) for value in found["pair"])
    assert (found["names"], found["anything"], found["note"]) == (["x"], {"a": 1}, "n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate": "fast"}, "model.rate: input should be a valid number"),
        ({"rate": True}, "model.rate: a number or a text is expected, not true"),
        ({"pair": [0.9]}, "model.pair: "),
        ({"pair": [0.9, "x"]}, "model.pair: input should be a valid number"),
        ({"kind": "c"}, "model.kind: input should be 'a' or 'b', not 'c'"),
        ({"names": 3}, "model.names: "),
        ({"switch": "perhaps"}, "model.switch: input should be a valid boolean"),
        ({"rat": 1}, "did you mean rate?"),
    ],
)
def test_values_of_other_types_are_refused(
    check_model: Check, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_model("Typed", **options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_has_no_type_passes_as_it_is(check_model: Check) -> None:
    assert check_model("Typed", anything=True)["anything"] is True
    assert check_model("ForCheckersOnly", size="any")["size"] == "any"
    assert check_model("Open", depth=[1, "two"], switch=True)["depth"] == [1, "two"]


def test_a_switch_stays_a_switch(check_model: Check) -> None:
    assert check_model("Typed", switch=True)["switch"] is True


def test_unknown_keys_name_only_what_can_be_set(check_model: Check) -> None:
    with pytest.raises(UserError) as caught:
        check_model("refusing", whow="value")
    assert str(caught.value).endswith("did you mean how? choices: how")


def test_components_inside_components_are_checked(check_model: Check) -> None:
    inner = "bench_test_components.swallowed"
    found = check_model("Open", part={"_target_": inner, "inner": 3})
    assert found["part"]["inner"] == 3.0
    with pytest.raises(UserError, match=r"model\.part\.iner: .* did you mean inner\?"):
        check_model("Open", part={"_target_": inner, "iner": 3})
    deep = {"_target_": inner, "deep": {"_target_": inner, "inner": "x"}}
    with pytest.raises(UserError, match=r"^model\.part\.deep\.inner: "):
        check_model("Open", part=deep)


def test_only_our_own_defaults_are_written_out(check_model: Check, base: RunConfig) -> None:
    assert set(check_model("Typed")) == {"_target_"}
    assert "amsgrad" not in base.optimizer  # torch's
    assert "width" in base.model
    ours = {"_target_": "bench.models.mlp.MLP"}
    checked = check(base.model_copy(update={"model": ours}))
    assert checked.model == {**ours, "hidden": [256, 128]}  # JSON's list, not a tuple


def test_the_trial_costs_no_memory(check_model: Check) -> None:
    check_model("Huge")
    check_model("Open")
    assert made == [torch.device("meta")]


def test_the_trial_leaves_the_random_state_alone(check_model: Check) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    check_model("Open")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_trial_is_silent(check_model: Check) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_model("warning")


@pytest.mark.parametrize("how", ["value", "type", "file"])
def test_what_a_component_refuses_is_one_line(check_model: Check, how: str) -> None:
    with pytest.raises(UserError, match=r"^model: first line$"):
        check_model("refusing", how=how)


def test_an_unusual_error_of_a_component_is_named(check_model: Check) -> None:
    with pytest.raises(UserError, match=r"^model: KeyError: ") as caught:
        check_model("refusing", how="bug")
    assert isinstance(caught.value.__cause__, InstantiationException)
    assert isinstance(caught.value.__cause__.__cause__, KeyError)  # for those who debug


def test_the_checked_config_is_a_copy(base: RunConfig) -> None:
    before = base.model_dump()
    checked = check(base)
    assert checked == base
    assert base.model_dump() == before
    assert checked is not base


def test_a_reading_error_says_where() -> None:
    def build() -> None:
        raise ValueError("no good\nmore")

    with pytest.raises(UserError, match=r"^here: no good$"):
        attempt("here", build)
    assert attempt("here", lambda: 3) == 3
