"""Names, groups, exponents and hooks are those of the network, whatever wraps it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from optimizers.partition import (
    LAYER_TYPES,
    by_layer,
    hidden_matrices,
    label_parameters,
    weight_layers,
)


def types_of(model: nn.Module, **kwargs: Any) -> dict[str, str]:
    return {name: label.layer_type for name, label in label_parameters(model, **kwargs).items()}


def names_of(groups: list[dict[str, Any]]) -> list[list[str]]:
    return [[name for name, _ in group["params"]] for group in groups]


def test_conv_net_labels(conv_net: type[nn.Module]) -> None:
    assert types_of(conv_net()) == {
        "temperature": "other",
        "conv1.weight": "conv",
        "conv1.bias": "bias",
        "norm.weight": "norm",
        "norm.bias": "norm",
        "conv2.weight": "conv",
        "hidden.weight": "linear",
        "hidden.bias": "bias",
        "head.weight": "head",
        "head.bias": "bias",
    }
    labels = label_parameters(conv_net())
    assert [n for n, label in labels.items() if label.hidden] == [
        "conv1.weight",
        "conv2.weight",
        "hidden.weight",
    ]
    assert all(label.name == name for name, label in labels.items())
    assert labels["conv1.weight"].layer == "conv1"
    assert labels["temperature"].layer == ""


def test_transformer_labels(transformer: type[nn.Module]) -> None:
    types = types_of(transformer())
    assert types["pos_embed"] == "embedding"
    assert types["tokens.weight"] == "embedding"
    assert types["block.self_attn.in_proj_weight"] == "attention_qkv"
    assert types["block.self_attn.in_proj_bias"] == "bias"
    assert types["block.self_attn.out_proj.weight"] == "attention_output"
    assert types["block.linear2.weight"] == "linear"
    assert types["block.norm1.bias"] == "norm"
    assert types["head.weight"] == "head"


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("blocks.0.attention.qkv", "attention_qkv"),
        ("blocks.0.attention.output", "attention_output"),
        ("blocks.0.mlp.up", "mlp_up"),
        ("blocks.0.mlp.down", "mlp_down"),
        ("h.3.attn.c_attn", "attention_qkv"),  # GPT-2
        ("h.3.attn.c_proj", "attention_output"),
        ("h.3.mlp.c_fc", "mlp_up"),
        ("h.3.mlp.c_proj", "mlp_down"),
        ("blocks.0.attn.proj", "attention_output"),  # timm
        ("layers.7.self_attn.k_proj", "attention_qkv"),  # Llama
        ("layers.7.mlp.up_proj", "mlp_up"),
        ("attention.query", "attention_qkv"),
        ("patch_embedding", "embedding"),
        ("embedding.up", "linear"),  # only its own name counts
        ("mlp.hidden", "linear"),
        ("notattention.qkv", "linear"),
        ("attention.qkv.extra", "linear"),
        ("qkv", "linear"),
    ],
)
def test_the_matrices_of_a_transformer_are_told_by_their_names(layer: str, expected: str) -> None:
    *parents, last = layer.split(".")
    model = nn.Sequential()
    inner: nn.Module = model
    for parent in parents:
        inner.add_module(parent, nn.Module())
        inner = inner.get_submodule(parent)
    inner.add_module(last, nn.Linear(2, 3))
    model.add_module("head", nn.Linear(3, 2))
    assert types_of(model) == {
        f"{layer}.weight": expected,
        f"{layer}.bias": "bias",
        "head.weight": "head",
        "head.bias": "bias",
    }
    assert label_parameters(model)[f"{layer}.weight"].hidden is (expected != "embedding")


def test_a_vector_within_a_linear_is_no_matrix() -> None:
    layer = nn.Linear(2, 3)
    layer.register_parameter("scale", nn.Parameter(torch.ones(3)))
    labels = label_parameters(nn.Sequential(layer, nn.Linear(3, 2)))
    assert (labels["0.scale"].layer_type, labels["0.scale"].hidden) == ("other", False)


def test_a_convolution_that_embeds_patches_is_no_hidden_matrix() -> None:
    model = nn.ModuleDict({"patch_embedding": nn.Conv2d(3, 4, 2), "head": nn.Linear(4, 2)})
    labels = label_parameters(model)
    assert labels["patch_embedding.weight"].layer_type == "embedding"
    assert not labels["patch_embedding.weight"].hidden
    assert labels["patch_embedding.bias"].layer_type == "bias"
    assert list(weight_layers(model)) == ["patch_embedding", "head"]  # but it is measured


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.LayerNorm([4, 2, 2])]
)
def test_every_norm_is_a_norm_whatever_its_shape(norm: nn.Module) -> None:
    assert set(types_of(nn.Sequential(norm)).values()) == {"norm"}


def test_recurrent_and_free_parameters_are_other() -> None:
    model = nn.ModuleDict({"rnn": nn.GRU(3, 4), "out": nn.Linear(4, 2)})
    types = types_of(model)
    assert types["rnn.weight_hh_l0"] == "other"
    assert types["rnn.bias_hh_l0"] == "bias"
    assert not label_parameters(model)["rnn.weight_hh_l0"].hidden


def test_head_tied_to_an_embedding_is_not_hidden(transformer: type[nn.Module]) -> None:
    model = transformer(tied=True)
    labels = label_parameters(model)
    assert labels["tokens.weight"].layer_type == "embedding"
    assert not labels["tokens.weight"].hidden
    assert "head.weight" not in labels
    # The head is still the last Linear, so the one before it stays hidden.
    assert labels["block.linear2.weight"].hidden
    assert weight_layers(model)["head"] is model.tokens.weight


def test_a_hidden_weight_tied_to_a_later_head_is_not_hidden() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[1].weight
    labels = label_parameters(model)
    assert (labels["1.weight"].layer_type, labels["1.weight"].hidden) == ("head", False)
    assert labels["0.weight"].hidden
    two_hidden = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    two_hidden[1].weight = two_hidden[0].weight
    assert label_parameters(two_hidden)["0.weight"].hidden


def test_a_model_without_linear_has_no_head() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ConvTranspose2d(3, 2, 3))
    assert types_of(model)["1.weight"] == "conv"
    assert "head" not in types_of(model).values()


def test_weight_layers_in_definition_order(conv_net: type[nn.Module]) -> None:
    model = conv_net()
    layers = weight_layers(model)
    assert list(layers) == ["conv1", "conv2", "hidden", "head"]
    assert layers["hidden"] is model.hidden.weight
    nn.utils.parametrizations.weight_norm(model.hidden)
    assert list(weight_layers(model)) == ["conv1", "conv2", "head"]


def test_hidden_matrices_groups(conv_net: type[nn.Module]) -> None:
    model = conv_net()
    matrix, adamw = hidden_matrices(model)
    assert (matrix["algorithm"], adamw["algorithm"]) == ("matrix", "adamw")
    assert names_of([matrix]) == [["conv1.weight", "conv2.weight", "hidden.weight"]]
    assert matrix["layer_types"] == ["conv", "conv", "linear"]
    assert len(adamw["layer_types"]) == len(adamw["params"]) == 7
    assert dict(matrix["params"])["conv2.weight"] is model.conv2.weight


def test_frozen_parameters_and_empty_groups_are_left_out(conv_net: type[nn.Module]) -> None:
    model = conv_net()
    for layer in (model.conv1, model.conv2, model.hidden):
        layer.requires_grad_(False)
    groups = hidden_matrices(model)
    assert [group["algorithm"] for group in groups] == ["adamw"]
    assert "hidden.bias" not in names_of(groups)[0]
    assert [group["layer"] for group in by_layer(model)] == ["", "norm", "head"]
    assert "conv1" in weight_layers(model)


def test_by_layer_groups(conv_net: type[nn.Module]) -> None:
    groups = by_layer(conv_net())
    assert [(group["layer"], group["layer_type"]) for group in groups] == [
        ("", "other"),
        ("conv1", "conv"),
        ("norm", "norm"),
        ("conv2", "conv"),
        ("hidden", "linear"),
        ("head", "head"),
    ]
    assert names_of(groups)[1] == ["conv1.weight", "conv1.bias"]


def test_by_layer_takes_the_type_of_the_weight_even_after_a_bias() -> None:
    layer = nn.Linear(2, 2)
    weight = layer.weight
    del layer.weight
    layer.register_parameter("weight", weight)  # now the bias comes first
    groups = by_layer(nn.Sequential(layer, nn.Linear(2, 2)))
    assert names_of(groups)[0] == ["0.bias", "0.weight"]
    assert groups[0]["layer_type"] == "linear"


def test_torch_takes_the_groups_with_their_names(transformer: type[nn.Module]) -> None:
    for groups in (hidden_matrices(transformer()), by_layer(transformer())):
        names = names_of(groups)
        optimizer = torch.optim.AdamW(groups)
        assert [group["param_names"] for group in optimizer.param_groups] == names


def test_overrides_move_and_relabel(transformer: type[nn.Module]) -> None:
    overrides = {
        "block.self_attn.*": "other",
        "block.self_attn.out_proj.weight": "linear",
        "tokens.weight": "matrix",
        "block.linear1.weight": "adamw",
    }
    labels = label_parameters(transformer(), overrides)
    found = {name: (label.layer_type, label.hidden) for name, label in labels.items()}
    assert found["block.self_attn.in_proj_weight"] == ("other", False)
    assert found["block.self_attn.out_proj.weight"] == ("linear", True)
    assert found["tokens.weight"] == ("embedding", True)
    assert found["block.linear1.weight"] == ("linear", False)
    matrix, _ = hidden_matrices(transformer(), overrides)
    assert names_of([matrix]) == [
        ["tokens.weight", "block.self_attn.out_proj.weight", "block.linear2.weight"]
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hiden.weight": "head"}, "no parameter's name matches 'hiden.weight'.*'hidden.weight'"),
        ({"*": "dense"}, "must be one of conv, attention_qkv, .*adamw; got 'dense'"),
        ({"conv1.bias": "matrix"}, "'conv1.bias' is a vector and cannot be 'matrix'"),
        ({"conv1.*": "conv"}, "'conv1.bias' is a vector and cannot be 'conv'"),
    ],
)
def test_bad_overrides_are_refused(
    conv_net: type[nn.Module], overrides: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        hidden_matrices(conv_net(), overrides)


def test_the_assert_catches_a_lost_parameter(
    conv_net: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = conv_net()
    everything = model.named_parameters

    def all_but_the_first(*args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return itertools.islice(everything(*args, **kwargs), 0 if "recurse" in kwargs else 1, None)

    monkeypatch.setattr(model, "named_parameters", all_but_the_first)
    for partition in (hidden_matrices, by_layer):
        with pytest.raises(AssertionError, match="exactly one group"):
            partition(model)


LAYERS = {
    "linear": lambda: nn.Linear(3, 4),
    "conv": lambda: nn.Conv2d(2, 3, 3),
    "norm": lambda: nn.LayerNorm(3),
    "embedding": lambda: nn.Embedding(3, 2),
    "attention": lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True),
    "attention with kdim": lambda: nn.MultiheadAttention(4, 2, kdim=3),
    "bilinear": lambda: nn.Bilinear(2, 3, 4),
    "lstm": lambda: nn.LSTM(2, 3),
    "prelu": nn.PReLU,
}


@given(
    kinds=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=6),
    nested=st.booleans(),
    shared=st.booleans(),
    frozen=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_any_model_is_partitioned(
    kinds: list[str], nested: bool, shared: bool, frozen: int
) -> None:
    modules = [LAYERS[kind]() for kind in kinds]
    model = nn.Sequential(*modules)
    if nested:
        model = nn.Sequential(model, nn.Linear(2, 2))
    if shared:
        model.append(modules[0])
    for parameter in list(model.parameters())[:frozen]:
        parameter.requires_grad_(False)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    for groups in (hidden_matrices(model), by_layer(model)):
        names = [name for group in names_of(groups) for name in group]
        assert sorted(names) == sorted(trainable)
    labels = label_parameters(model)
    assert list(labels) == [name for name, _ in model.named_parameters()]
    assert {label.layer_type for label in labels.values()} <= set(LAYER_TYPES)
    hidden = [p for name, p in model.named_parameters() if labels[name].hidden]
    assert all(parameter.ndim >= 2 for parameter in hidden)
