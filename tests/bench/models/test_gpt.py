"""The language model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.gpt import GPT
from optimizers.partition import label_parameters, weight_layers

SMALL = {"dim": 768, "layers": 12, "heads": 12}  # GPT-2 small
TINY = {"dim": 8, "layers": 2, "heads": 2}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_gpt2_small_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        assert count(GPT(50257, 1024, 50257, tied=True, **SMALL)) == 124_439_808
        assert count(GPT(50257, 1024, 50257, **SMALL)) == 124_439_808 + 50257 * 768


def test_gpt_mini_by_hand() -> None:
    """A block of width d has 12 d^2 + 13 d parameters."""
    d, vocabulary, context = 384, 256, 128
    expected = 6 * (12 * d**2 + 13 * d) + (2 * vocabulary + context) * d + 2 * d
    with torch.device("meta"):
        assert count(GPT(vocabulary, context, vocabulary)) == expected
        classes = GPT(vocabulary, context, 2, task="classification")
        assert count(classes) == expected - (vocabulary - 2) * d


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("task", ["lm", "classification"])
def test_forward_against_torchs_layers_in_float64(
    norm: str,
    task: str,
    reference_blocks: Callable[..., Tensor],
    randomise: Callable[[nn.Module], nn.Module],
) -> None:
    model = GPT(11, 7, 3, task=task, norm=norm, **TINY)
    randomise(model).eval()
    for length in (7, 4):
        inputs = torch.randint(11, (5, length))
        one_hot = F.one_hot(inputs, 11).double()
        tokens = one_hot @ model.token_embedding.weight + model.position_embedding.weight[:length]
        tokens = reference_blocks(model.blocks, tokens, norm, nn.GELU("tanh"), causal=True)
        if norm == "pre":
            tokens = F.layer_norm(tokens, (8,), model.norm.weight, model.norm.bias)
        if task == "classification":
            tokens = tokens[:, length - 1]
        expected = tokens @ model.head.weight.T
        assert expected.shape == ((5, length, 11) if task == "lm" else (5, 3))
        torch.testing.assert_close(model(inputs), expected, rtol=1e-10, atol=1e-12)


def test_a_prediction_does_not_see_what_it_predicts() -> None:
    torch.manual_seed(0)
    model = GPT(11, 8, 11, **TINY)
    inputs = torch.randint(11, (1, 8))
    changed = inputs.clone()
    changed[0, 5] = (inputs[0, 5] + 1) % 11
    before, after = model(inputs), model(changed)
    assert torch.equal(before[0, :5], after[0, :5])
    assert not torch.isclose(before[0, 5:], after[0, 5:]).all(dim=1).any()


def test_names_and_types_of_the_parameters() -> None:
    labels = label_parameters(GPT(11, 7, 11, dim=8, layers=1, heads=2))
    assert {name: label.layer_type for name, label in labels.items()} == {
        "token_embedding.weight": "embedding",
        "position_embedding.weight": "embedding",
        "blocks.0.norm1.weight": "norm",
        "blocks.0.norm1.bias": "norm",
        "blocks.0.attention.qkv.weight": "attention_qkv",
        "blocks.0.attention.qkv.bias": "bias",
        "blocks.0.attention.output.weight": "attention_output",
        "blocks.0.attention.output.bias": "bias",
        "blocks.0.norm2.weight": "norm",
        "blocks.0.norm2.bias": "norm",
        "blocks.0.mlp.up.weight": "mlp_up",
        "blocks.0.mlp.up.bias": "bias",
        "blocks.0.mlp.down.weight": "mlp_down",
        "blocks.0.mlp.down.bias": "bias",
        "norm.weight": "norm",
        "norm.bias": "norm",
        "head.weight": "head",
    }


def test_a_tied_head_is_the_embedding() -> None:
    model = GPT(11, 7, 11, tied=True, **TINY)
    assert model.head.weight is model.token_embedding.weight
    assert "head.weight" not in dict(model.named_parameters())
    assert weight_layers(model)["head"] is model.token_embedding.weight
    assert not label_parameters(model)["token_embedding.weight"].hidden
    untied = GPT(11, 7, 11, **TINY)
    assert untied.head.weight is not untied.token_embedding.weight
    again = GPT(11, 7, 11, tied=True, **TINY)
    again.load_state_dict(model.state_dict())
    assert again.head.weight is again.token_embedding.weight


def test_initial_scale() -> None:
    """GPT-2's: 0.02, where a residual branch ends 0.02 / sqrt(2 layers); biases zero."""
    torch.manual_seed(0)
    for layers in (2, 8):
        model = GPT(256, 128, 256, dim=128, layers=layers, heads=4)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                ends = name.endswith(("attention.output.weight", "mlp.down.weight"))
                std = 0.02 / (2 * layers) ** 0.5 if ends else 0.02
                assert parameter.std().item() == pytest.approx(std, rel=0.04), name
            elif name.endswith("bias"):
                assert not parameter.any(), name
            else:
                assert (parameter == 1).all(), name


def test_what_a_config_chooses_reaches_the_blocks() -> None:
    model = GPT(11, 7, 11, mlp_ratio=2, activation="relu", dropout=0.25, **TINY)
    for block in model.blocks:
        assert isinstance(block.mlp.activation, nn.ReLU)
        assert (block.attention.heads, block.mlp.up.out_features) == (2, 16)
        assert block.attention.causal
    rates = {m.p for m in model.modules() if isinstance(m, nn.Dropout)}
    assert rates == {0.25} == {block.attention.dropout for block in model.blocks}
    bare = GPT(11, 7, 11, layer_norm=False, **TINY)
    assert not any("norm" in name for name, _ in bare.named_parameters())


def test_dropout_of_the_embedded_tokens() -> None:
    torch.manual_seed(0)
    model = GPT(11, 16, 11, dropout=0.5, **TINY)
    seen: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    model(torch.randint(11, (32, 16)))
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_it_learns_to_copy() -> None:
    """The token of two positions before: only attention can tell it."""
    torch.manual_seed(0)
    model = GPT(8, 16, 8, dim=32, layers=2, heads=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        inputs = torch.randint(8, (32, 16))
        loss = F.cross_entropy(model(inputs)[:, 2:].flatten(0, 1), inputs[:, :-2].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2  # a guess has ln 8 = 2.08


def test_a_longer_sequence_is_refused() -> None:
    model = GPT(11, 7, 11, **TINY)
    with pytest.raises(ValueError, match="8 tokens is longer than the context of 7"):
        model(torch.zeros(1, 8, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vocab_size": 0}, "vocab_size of gpt must be an integer of 1 or more, not 0"),
        ({"context_length": 0}, "context_length of gpt"),
        ({"num_classes": 0}, "num_classes of gpt"),
        ({"layers": 0}, "layers of gpt"),
        ({"heads": 3}, "heads of gpt must divide dim: 3 does not divide 8"),
        ({"task": "regression"}, "task of gpt must be lm or classification, not regression"),
        ({"task": "classification", "tied": True}, "tied of gpt needs task=lm"),
    ],
)
def test_impossible_options_are_refused_in_one_line(changed: dict, message: str) -> None:
    arguments = {"vocab_size": 11, "context_length": 7, "num_classes": 11} | TINY | changed
    with pytest.raises(ValueError, match=message) as caught:
        GPT(**arguments)
    assert "\n" not in str(caught.value)
