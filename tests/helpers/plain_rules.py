"""A network stepped by the plain rules of optimizers/reference.py, group by group."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from contract import content
from torch import Tensor, nn

from optimizers import reference
from optimizers.partition import weight_layers

ZERO = torch.zeros((), dtype=torch.float64)


def name_of(target: str) -> str:
    """The name that a class has in common with its rule: ``a.b.ScrambledMuon``, scrambled_muon."""
    return target.rpartition(".")[2].replace("_", "").lower()


RULES: dict[str, Callable[..., Any]] = {
    name_of(name): rule
    for name, rule in vars(reference).items()
    if inspect.isfunction(rule)
    and (rule is reference.paired or "lr" in inspect.signature(rule).parameters)
}


class Plain:
    """Steps copies of a network's weights by the rules, with the hyperparameters of its groups."""

    def __init__(self, file: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.config, self.groups, self.steps = content(file), optimizer.param_groups, 0
        self.rule = RULES[name_of(self.config.get("matrix", self.config)["_target_"])]
        self.names = {id(param): name for name, param in model.named_parameters()}
        self.weights = {n: p.detach().clone().double() for n, p in model.named_parameters()}
        self.dtype = next(model.parameters()).dtype
        self.states: dict[str, Any] = {}
        self.factors: dict[str, float] = {}
        if self.rule is reference.scalar_spectral_adam:
            s = {layer: 1.0 + 0.25 * i for i, layer in enumerate(weight_layers(model))}
            chosen = {key: self.config[key] for key in ("beta", "mode", "seed")}
            self.factors = reference.scalar_spectral_factors(s, **chosen)
        self.layers: dict[str, reference.KfacLayer] = {}

    def options(self, rule: Callable[..., Any], group: dict[str, Any], i: int) -> dict[str, Any]:
        """The arguments of a rule for the group's i-th parameter."""
        values = {**group, "scale": group.get("scale", group.get("adjust_lr_fn"))}
        if rule is reference.adamw and "adamw_betas" in group:
            values |= {"betas": group["adamw_betas"], "eps": group["adamw_eps"]}
        elif rule is reference.spectral_newton:
            values["alpha"] = group["alphas"][i]
        elif rule is reference.scrambled_muon:
            name = self.names[id(group["params"][i])]
            values["stream"] = reference.draw(group["seed"], name, self.steps)
            values["eps"] = torch.finfo(self.dtype).eps
        elif rule is reference.scalar_spectral_adam:
            values |= {"lr": self.config["lr"], "factor": self.factors.get(group["layer"], 1.0)}
        accepted = inspect.signature(rule).parameters
        return {key: value for key, value in values.items() if key in accepted}

    def step(self, gradients: dict[str, Tensor], rows: dict[str, tuple[Tensor, Tensor]]) -> None:
        """One step of all; ``rows`` are the inputs and errors of the layers of K-FAC."""
        kfac = []
        for group in self.groups:
            rule = reference.paired(group.get("algorithm") != "adamw", self.rule, reference.adamw)
            if rule is reference.kfac:
                kfac.append(group)
                continue
            for i, param in enumerate(group["params"]):
                name = self.names[id(param)]
                moments = rule in (reference.adamw, reference.scalar_spectral_adam)
                start = (ZERO, ZERO, 0) if moments else torch.zeros_like(self.weights[name])
                self.weights[name], self.states[name] = rule(
                    self.weights[name],
                    gradients[name],
                    self.states.get(name, start),
                    **self.options(rule, group, i),
                )
        if kfac:
            self.step_kfac(kfac, gradients, rows)
        self.steps += 1

    def step_kfac(
        self,
        groups: list[dict[str, Any]],
        gradients: dict[str, Tensor],
        rows: dict[str, tuple[Tensor, Tensor]],
    ) -> None:
        for group in groups:
            start = reference.KfacLayer.start(
                self.joined(group, self.weights), len(group["params"]) == 2
            )
            self.layers.setdefault(group["layer"], start)
        reference.kfac(
            list(self.layers.values()),
            [self.joined(group, gradients) for group in groups],
            [rows[layer] for layer in self.layers],
            self.steps,
            **self.options(reference.kfac, groups[0], 0),
        )
        for group in groups:
            matrix = self.layers[group["layer"]].W
            names = [self.names[id(param)] for param in group["params"]]
            columns = self.weights[names[0]][0].numel()
            for name, part in zip(names, (matrix[:, :columns], matrix[:, columns:]), strict=False):
                self.weights[name] = part.reshape(self.weights[name].shape)

    def joined(self, group: dict[str, Any], values: dict[str, Tensor]) -> Tensor:
        """[W, bias] of a layer of K-FAC."""
        parts = [values[self.names[id(param)]] for param in group["params"]]
        return torch.cat([part.reshape(len(part), -1).double() for part in parts], 1)
