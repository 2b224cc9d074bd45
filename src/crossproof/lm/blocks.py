"""The parts of one block, told by what a forward pass shows.

Attentions and MLPs are known by the names that people give them; norms, and what belongs to what,
by the tensors that one module gives and another takes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from crossproof.lm.sites import Site
from crossproof.lm.tracing import Trace, adds_up, carries

_COMPONENTS = {
    "attn": (
        "attn.attention",
        "attention.self > attention.output.dense",
        "norm_attn_norm.attn",
        "self_attn",
        "self_attention",
        "attention",
        "attn",
        "multi_head_attention",
        "linear_attn",
    ),
    "mlp": (
        "mlp",
        "feed_forward",
        "ffn",
        "block_sparse_moe",
        "fc1 > fc2",
        "intermediate.dense > output.dense",
    ),
}
"""Paths in a block, the first that is there counts; "a > b" reads where a does, writes where b."""
_CLASSES = {"attn": "attention", "mlp": "mlp|feedforward|ffn|moe"}
"""What the class of the one child is called that serves where no path is there."""
_OUT_PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj", "Wo")
_PROJECTIONS = {
    "attn.q.hook_in": ("q_proj", "query"),
    "attn.k.hook_in": ("k_proj", "key"),
    "attn.v.hook_in": ("v_proj", "value"),
    "attn.hook_z": _OUT_PROJECTIONS,
    "attn.o.hook_out": _OUT_PROJECTIONS,
    "mlp.gate.hook_in": ("gate_proj", "w1"),
    "mlp.in.hook_in": ("up_proj", "c_fc", "fc1", "fc_in", "dense_h_to_4h", "w3", "Wi", "dense"),
    "mlp.out.hook_out": (
        "down_proj",
        "c_proj",
        "fc2",
        "fc_out",
        "dense_4h_to_h",
        "w2",
        "Wo",
        "dense",
    ),
}


@dataclass(frozen=True)
class Component:
    """An attention, an MLP, or what a block has beside them: from one module to another."""

    paths: tuple[str, str]
    first: nn.Module
    last: nn.Module

    @property
    def input(self) -> Site:
        """Where it reads."""
        return Site(self.first, at_input=True)

    @property
    def output(self) -> Site:
        """Where it writes."""
        return Site(self.last, at_input=False)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, in either of transformers' layouts."""
    return isinstance(module, nn.Linear | Conv1D)


def layer_weights(layer: Any) -> tuple[Float[Tensor, "I O"], Float[Tensor, " O"]]:
    """Weights and bias of a linear layer, zeros if it has none; views of its own."""
    weights: Tensor = layer.weight.detach()
    if not isinstance(layer, Conv1D):
        weights = weights.T
    bias: Tensor | None = getattr(layer, "bias", None)
    return weights, weights.new_zeros(weights.shape[1]) if bias is None else bias.detach()


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm, by its class."""
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


class Block:
    """The hookpoints of one block by name, without "blocks.N.".

    sites: those that can be read. absent and unreadable: why the others are not there; see
    `Structure`. mid: the site of the stream between attention and MLP, not tried yet. rewrites: the
    sites among mid and post that do not hold the stream before them as a summand.
    """

    def __init__(self, block: nn.Module, seen: Trace) -> None:
        self.seen, self.modules = seen, dict(block.named_modules())
        self.pre, self.post = Site(block, True), Site(block, False)
        self.norms = [m for m in self.modules.values() if is_norm(m) and self._passed(m)]
        self.sites: dict[str, Site] = {}
        self.absent: dict[str, str] = {}
        self.unreadable: dict[str, str] = {}
        self.attention, self.mlp = self._component("attn"), self._component("mlp")
        self.others = self._others()
        self.mid: Site | None = None
        self.rewrites: list[Site] = []
        self._name_sites()

    def drop(self, name: str, reason: str) -> None:
        """Take a hookpoint away because it cannot be read."""
        if self.sites.pop(name, None) is not None:
            self.unreadable[name] = reason

    def _passed(self, module: nn.Module) -> bool:
        return all(Site(module, side) in self.seen for side in (True, False))

    def _children(self) -> dict[str, nn.Module]:
        return {path: m for path, m in self.modules.items() if path and "." not in path}

    def _component(self, kind: str) -> Component | None:
        classes, what = _CLASSES[kind], {"attn": "attention", "mlp": "MLP"}[kind]
        likely = [
            p for p, m in self._children().items() if re.search(classes, type(m).__name__, re.I)
        ]
        found = [*_COMPONENTS[kind], *(likely if len(likely) == 1 else ())]
        ends = [path.split(" > ") for path in found]
        path = next((end for end in ends if all(part in self.modules for part in end)), None)
        names = f"{kind}.hook_in", f"{kind}.hook_out"
        if path is None:
            self.absent |= dict.fromkeys(names, f"the block has no {what}")
            return None
        first, last = path[0], self._last(path[-1])
        component = Component((first, last), self.modules[first], self.modules[last])
        if component.input in self.seen and component.output in self.seen:
            return component
        reason = f"{first} does not take and give one vector of the model's width a token"
        self.unreadable |= dict.fromkeys(names, reason)
        return None

    def _last(self, path: str) -> str:
        """Of a module that adds the stream itself (BLOOM's), the linear layer that ends it."""
        if "residual" not in inspect.signature(self.modules[path].forward).parameters:
            return path
        inside = {
            self.seen[Site(module, False)].order: name
            for name, module in self.modules.items()
            if name.startswith(f"{path}.")
            and is_linear(module)
            and Site(module, False) in self.seen
        }
        return inside[max(inside)] if inside else path

    def _others(self) -> dict[str, Component]:
        """What a block has beside attention and MLP, under its name in the model: a Mamba layer."""
        known = [path for c in (self.attention, self.mlp) if c is not None for path in c.paths]
        return {
            name: Component((name, name), child, child)
            for name, child in self._children().items()
            if self._passed(child)
            and not any(path == name or path.startswith(f"{name}.") for path in known)
            and not is_norm(child)
            and not isinstance(child, nn.Dropout | nn.Identity | nn.Linear)
        }

    def _name_sites(self) -> None:
        attention, mlp = self.attention, self.mlp
        first = attention or next(iter(self.others.values()), None)
        ln1 = self._norm_before(first.input) if first else None
        ln2 = self._norm_before(mlp.input) if mlp else None
        ln1_post = self._norm_behind(attention.output) if attention else None
        ln2_post = self._norm_behind(mlp.output) if mlp else None
        last = self._norm_before(self.post)
        behind = last is not None and last is not ln2_post  # norms behind the sums, as in BERT
        self._find_mid(None if behind else ln2)
        ends = self.mid or self.post, self.post
        if behind and last is not None and ln2 is not None:
            ends = Site(ln2, True), Site(last, True)
            ln1, ln2 = ln2, last
        self._put("hook_in hook_resid_pre", self.pre)
        self._put_norm("ln1", ln1)
        for kind, component in (("attn", attention), *self.others.items()):
            self._put_component(kind, component)
        self._put_norm("ln1_post", ln1_post)
        if attention:
            self._put("hook_attn_out", Site(ln1_post or attention.last, False))
        self._put_norm("ln2", None if ln2 is ln1 else ln2)
        self._put_component("mlp", mlp)
        self._put("hook_resid_mid", self.mid)
        self._put_norm("ln2_post", ln2_post)
        if mlp:
            self._put("hook_mlp_out", Site(ln2_post or mlp.last, False))
        self._put("hook_out hook_resid_post", self.post)
        self._check_sums(ends)

    def _find_mid(self, ln2: nn.Module | None) -> None:
        if self.mlp is None:
            self.absent["hook_resid_mid"] = "the block has no MLP that can be read"
            return
        mid = self.mlp.input if ln2 is None else Site(ln2, True)
        if self._same(mid, self.pre):
            self.absent["hook_resid_mid"] = "attention and MLP run in parallel"
        else:
            self.mid = mid

    def _put(self, names: str, site: Site | None) -> None:
        if site in self.seen:
            self.sites |= dict.fromkeys(names.split(), site)

    def _put_norm(self, name: str, norm: nn.Module | None) -> None:
        if norm is not None:
            self._put(f"{name}.hook_in", Site(norm, True))
            self._put(f"{name}.hook_out", Site(norm, False))

    def _put_component(self, kind: str, component: Component | None) -> None:
        if component is None:
            return
        self._put(f"{kind}.hook_in", component.input)
        for path, module in self.modules.items():
            parent, _, last = path.rpartition(".")
            for name, spellings in _PROJECTIONS.items():
                inside = name.startswith(f"{kind}.") and {path, parent} & set(component.paths)
                if inside and last in spellings:
                    self._put(name, Site(module, not name.endswith("_out")))
        self._put(f"{kind}.hook_out", component.output)

    def _same(self, one: Site, other: Site) -> bool:
        return self.seen[one].is_also(self.seen[other])

    def _norm_before(self, site: Site) -> nn.Module | None:
        return next((n for n in self.norms if self._same(Site(n, False), site)), None)

    def _norm_behind(self, site: Site) -> nn.Module | None:
        return next((n for n in self.norms if self._same(site, Site(n, True))), None)

    def _check_sums(self, ends: tuple[Site, Site]) -> None:
        """Keep hook_attn_out and hook_mlp_out only where just they are added to the stream.

        `ends` hold the sums that end with the attention's and with the MLP's output.
        """
        outputs = [self.sites.get("hook_attn_out"), self.sites.get("hook_mlp_out")]
        written = [*outputs, *(other.output for other in self.others.values())]
        added = [site for site in written if site is not None]
        sums: list[tuple[Site, Sequence[Site], Site]] = [(self.pre, added, ends[1])]
        if self.mid is not None:
            turn = self.seen[self.mid].order
            early = [site for site in added if self.seen[site].order < turn]
            late = [site for site in added if site not in early]
            sums = [(self.pre, early, ends[0]), (self.mid, late, ends[1])]
        wholes = [self.post] if self.mid is None else [self.mid, self.post]
        for (start, parts, _), whole in zip(sums, wholes, strict=True):
            values = [self.seen[site].value for site in parts]
            if values and not carries(self.seen[start].value, values, self.seen[whole].value):
                self.rewrites.append(whole)
        for start, parts, end in sums:
            values = [self.seen[site].value for site in (start, *parts)]
            if not adds_up(values, self.seen[end].value):
                for name, site in zip(("hook_attn_out", "hook_mlp_out"), outputs, strict=True):
                    if site in parts:
                        self.drop(name, "the block scales what it adds to the stream, or adds more")
