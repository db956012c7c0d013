"""What a component accepts is read from its signature, and tried out without memory."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import torch
from hydra.errors import InstantiationException
from torch import nn

from bench import components, config
from bench.build import CONTENT, ImageShape, TokenShape, taken_kinds
from bench.config import RunConfig
from bench.errors import UserError

made: list[torch.device] = []


def check(run: RunConfig) -> RunConfig:
    """What bench.config does with a run's components."""
    groups = ("model", "dataset", "optimizer", "schedule", "tracker")
    chosen = {group: getattr(run, group) for group in groups}
    checked = components.check(chosen, {"model": "given", "dataset": "chosen"})
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


class Reader(nn.Linear):
    """A model of tokens that asks for what it is given."""

    seen: ClassVar[list[TokenShape]] = []

    def __init__(
        self, vocab_size: int, context_length: int, num_classes: int, task: str = "lm"
    ) -> None:
        super().__init__(vocab_size, num_classes)
        self.seen.append(TokenShape(vocab_size, context_length, num_classes))


def shapeless(rows: int = 3) -> nn.Module:
    return nn.Linear(rows, rows)


class texts:  # noqa: N801 (in a module's place)
    """A dataset of tokens; the target is ``texts.load``, so that ``shape`` stands beside it."""

    @staticmethod
    def load(root: Any, seed: int, *, length: int = 9, task: str = "lm") -> None: ...

    @staticmethod
    def shape(length: int = 9, task: str = "lm") -> TokenShape:
        if length < 1:
            raise ValueError("length must be 1 or more")
        return TokenShape(20, length, 2 if task == "classification" else 20)


class unknown:  # noqa: N801
    """A dataset that does not say its shape."""

    @staticmethod
    def load(root: Any, seed: int) -> None: ...


def swallowed(inner: float = 1.0, deep: Any = None) -> float:
    return inner


class Swallowing(torch.optim.Optimizer):
    """As some packages' optimizers: other keys land in the groups, where nobody looks at them."""

    def __init__(self, params: Any, lr: float = 0.1, rho: float = 0.5, **more: Any) -> None:
        super().__init__(params, {"lr": lr, "rho": rho, **more})


class Forwarding(Swallowing):
    def __init__(self, params: Any, sigma: float = 1.0, **more: Any) -> None:
        super().__init__(params, **more)


class Inherited(Forwarding):
    pass


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

    def run(name: str, data: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        component = {"_target_": f"bench_test_components.{name}", **options}
        update: dict[str, Any] = {"model": component}
        if data is not None:
            here = str(data["_target_"])
            update["dataset"] = {**data, "_target_": f"bench_test_components.{here}"}
        return check(base.model_copy(update=update)).model

    return run


Check = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("name", "key", "says"),
    [
        ("Swallowing", "rh", "has no such option; did you mean rho? choices: lr, rho"),
        ("Forwarding", "rh", "did you mean rho? choices: lr, rho, sigma"),
        ("Forwarding", "more", "choices: lr, rho, sigma"),
        ("Forwarding", "self", "choices: lr, rho, sigma"),
        ("Inherited", "sigm", "did you mean sigma? choices: lr, rho, sigma"),
    ],
)
def test_an_optimizer_that_swallows_any_key_is_held_to_those_it_names(
    base: RunConfig, check_model: Check, name: str, key: str, says: str
) -> None:
    optimizer = {"_target_": f"bench_test_components.{name}", "_partial_": True}
    assert check(base.model_copy(update={"optimizer": {**optimizer, "rho": 0.1, "lr": 1.0}}))
    with pytest.raises(UserError) as caught:
        check(base.model_copy(update={"optimizer": {**optimizer, key: 0.1}}))
    assert str(caught.value).startswith(f"optimizer.{key}: bench_test_components.{name} has no")
    assert str(caught.value).endswith(says)


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


# -- a model and the data it is to take -----------------------------------------------------------

TEXTS = {"_target_": "texts.load"}


def test_the_kind_of_a_model_is_read_from_its_signature() -> None:
    assert set(CONTENT) == {ImageShape, TokenShape}
    assert taken_kinds(Typed) == [ImageShape]
    assert taken_kinds(Reader) == [TokenShape]
    assert taken_kinds(Open) == [ImageShape, TokenShape]  # **more
    assert taken_kinds(shapeless) == []
    assert components.models_for(ImageShape)[:1] == ["convnet"]


def test_a_model_is_tried_with_the_shape_that_its_data_declare(check_model: Check) -> None:
    Reader.seen.clear()
    check_model("Reader", {**TEXTS, "length": 5})
    assert Reader.seen == [TokenShape(20, 5, 20)]
    check_model("Open")  # the digits, 8x8


def test_a_model_on_data_of_unknown_shape_is_tried_with_a_usual_one(check_model: Check) -> None:
    Reader.seen.clear()
    check_model("Reader", {"_target_": "unknown.load"})
    assert Reader.seen == [TokenShape(256, 64, 256)]
    check_model("Typed", {"_target_": "unknown.load"})


def test_a_model_that_cannot_take_the_data_is_refused_in_one_line(
    check_model: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(components, "models_for", lambda kind: [f"one of {kind.__name__}", "two"])
    with pytest.raises(UserError) as caught:
        check_model("Typed", TEXTS)
    assert str(caught.value) == (
        "model=given takes images, dataset=chosen gives tokens; choose model=one of TokenShape, two"
    )
    with pytest.raises(UserError, match=r"^model=given takes tokens, dataset=chosen gives images"):
        check_model("Reader")


def test_a_model_that_takes_no_shape_is_refused(check_model: Check) -> None:
    with pytest.raises(UserError, match=r"^model\._target_: .*shapeless takes no arguments named"):
        check_model("shapeless")


def test_what_the_bench_gives_a_model_is_not_an_option(check_model: Check) -> None:
    for name, key in (("Typed", "image_size"), ("Reader", "vocab_size"), ("Open", "num_classes")):
        with pytest.raises(UserError, match=rf"^model\.{key}: the bench sets this itself"):
            check_model(name, TEXTS if name == "Reader" else None, **{key: 3})


def test_a_dataset_may_refuse_its_options_before_it_is_read(check_model: Check) -> None:
    with pytest.raises(UserError, match=r"^dataset: length must be 1 or more$"):
        check_model("Reader", {**TEXTS, "length": 0})


def test_model_and_data_must_have_the_same_task(check_model: Check) -> None:
    Reader.seen.clear()
    check_model("Reader", {**TEXTS, "task": "classification"}, task="classification")
    assert Reader.seen == [TokenShape(20, 9, 2)]
    with pytest.raises(UserError, match=r"^model\.task=lm does not fit dataset\.task=classific"):
        check_model("Reader", {**TEXTS, "task": "classification"}, task="lm")


def test_a_broken_model_file_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    for name, text in (
        ("a", "_target_: bench.models.mlp.MLP"),
        ("b", "_target_: no.such.thing"),
        ("c", "width: 3"),
        ("d", "_target_: bench.models.convnet.ConvNet"),
    ):
        (tmp_path / "model" / f"{name}.yaml").write_text(text)
    monkeypatch.setattr("bench.files.conf_dir", lambda: tmp_path)
    assert components.models_for(ImageShape) == ["a", "d"]
    assert components.models_for(TokenShape) == []
