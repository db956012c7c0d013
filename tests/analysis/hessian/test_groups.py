import itertools

import torch
from tiny_transformers import tiny_gpt, tiny_vit
from torch import nn

from analysis.hessian.groups import Group, by_parameter, by_role


def test_groups_of_a_vit_are_its_parameters_once_each() -> None:
    model = tiny_vit(layers=2)
    groups = by_parameter(model)
    spans = [span for group in groups for span in group.spans]
    total = sum(parameter.numel() for parameter in model.parameters())
    assert spans[0][0] == 0 and spans[-1][1] == total
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    joined = torch.cat([parameter.flatten() for parameter in model.parameters()])
    by_name = {group.name: group for group in groups}
    qkv = model.blocks[1].attention.qkv
    for part, weight, bias in zip(
        ("query", "key", "value"), qkv.weight.chunk(3), qkv.bias.chunk(3), strict=True
    ):
        of_weight = by_name[f"blocks.1.attention.qkv.weight.{part}"]
        of_bias = by_name[f"blocks.1.attention.qkv.bias.{part}"]
        assert of_weight.take(joined).equal(weight.flatten()) and of_weight.role == part
        assert of_bias.take(joined).equal(bias) and of_bias.role == "bias"
    up = model.blocks[0].mlp.up
    assert by_name["blocks.0.mlp.up.weight"].take(joined).equal(up.weight.flatten())


def test_roles_join_the_blocks_and_keep_every_entry() -> None:
    model = tiny_vit(layers=2)
    roles = {group.name: group for group in by_role(by_parameter(model))}
    assert list(roles) == [
        "position_embedding", "patch_embedding", "bias", "norm", "query", "key", "value",
        "output", "mlp_up", "mlp_down", "head",
    ]  # fmt: skip
    assert roles["key"].size == 2 * 16 and len(roles["key"].spans) == 2
    assert roles["norm"].size == 2 * 2 * 2 * 4  # weights and biases of a norm are one role
    assert sum(role.size for role in roles.values()) == sum(p.numel() for p in model.parameters())
    joined = torch.cat([parameter.flatten() for parameter in model.parameters()])
    keys = [block.attention.qkv.weight[4:8].flatten() for block in model.blocks]
    assert roles["key"].take(joined).equal(torch.cat(keys))


def test_a_gpt_has_its_embeddings_by_name_and_a_tied_weight_once() -> None:
    roles = {group.name for group in by_role(by_parameter(tiny_gpt()))}
    assert {"token_embedding", "position_embedding", "head", "query"} <= roles
    tied = by_role(by_parameter(tiny_gpt(tied=True)))
    assert "head" not in {group.name for group in tied}
    assert sum(g.size for g in tied) == sum(p.numel() for p in tiny_gpt(tied=True).parameters())


def test_separate_projections_are_told_by_their_names() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.k_proj = nn.Linear(4, 4), nn.Linear(4, 4)
            self.qkv = nn.Linear(4, 8)  # not three of the inputs' width: not taken apart

    model = nn.Sequential()
    model.attention = Attention()
    model.head = nn.Linear(4, 2)
    roles = {group.name: group.role for group in by_parameter(model)}
    assert roles["attention.query.weight"] == "query"
    assert roles["attention.k_proj.weight"] == "key"
    assert roles["attention.qkv.weight"] == "attention_qkv"
    assert roles["attention.query.bias"] == "bias"


def test_put_is_the_transpose_of_take() -> None:
    group = Group("g", "g", ((1, 3), (5, 6)))
    assert group.size == 3
    joined = group.put(torch.tensor([7.0, 8.0, 9.0]), 7)
    assert joined.tolist() == [0, 7, 8, 0, 0, 9, 0]
    assert group.take(joined).tolist() == [7, 8, 9]
    assert group.take(torch.stack([joined, 2 * joined])).shape == (2, 3)
