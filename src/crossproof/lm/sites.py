"""Where each hookpoint lies in the Hugging Face model: the input or output of one module.

The bridge names the hookpoints, but running it costs up to twice the bare model's forward pass
(it recomputes attention and norms to expose their insides). So crossproof runs the bare model,
and reads and replaces activations at the modules that the bridge's hookpoints belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformer_lens.model_bridge import TransformerBridge

Visit = Callable[[Tensor], Tensor | None]
"""Called with a hookpoint's value; what it returns, unless None, takes the value's place."""

_INPUT_NAMES = ("hidden_states", "x", "input", "inputs_embeds")


@dataclass(frozen=True)
class Site:
    """The input or the output of a module; where either holds several tensors, the first."""

    module: nn.Module
    at_input: bool

    def attach(self, visit: Visit) -> RemovableHandle:
        """Call `visit` at every forward pass, until the handle is removed."""
        return self._attach_input(visit) if self.at_input else self._attach_output(visit)

    def _attach_input(self, visit: Visit) -> RemovableHandle:
        def hook(
            _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if args and isinstance(args[0], Tensor):
                new = visit(args[0])
                return None if new is None else ((new, *args[1:]), kwargs)
            key = next((key for key in _INPUT_NAMES if key in kwargs), None)
            if key is None:
                return None
            new = visit(kwargs[key])
            return None if new is None else (args, {**kwargs, key: new})

        return self.module.register_forward_pre_hook(hook, with_kwargs=True)

    def _attach_output(self, visit: Visit) -> RemovableHandle:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, Tensor):
                return visit(output)
            if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
                new = visit(output[0])
                return None if new is None else (new, *output[1:])
            return None

        return self.module.register_forward_hook(hook)


@contextmanager
def attached(visits: Mapping[Site, Visit]) -> Iterator[None]:
    """Attach the visits, and remove every one of them however the block ends."""
    handles: list[RemovableHandle] = []
    try:
        for site, visit in visits.items():
            handles.append(site.attach(visit))
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_sites(
    bridge: TransformerBridge, bare: nn.Module, twins: Mapping[int, nn.Module]
) -> dict[str, Site]:
    """The sites of the bridge's hookpoints in the bare model, by name, in forward order.

    `twins` takes the id of each module the bridge wraps to the bare model's. Kept are the
    hookpoints of width d_model that one short forward pass shows to carry, at that site, what
    they carry in the bridge.
    """
    candidates = _candidates(bridge, twins)
    device = next(bare.parameters()).device
    # Two sequences, so that what has no sequence dimension (position embeddings) drops out.
    tokens = torch.arange(8, device=device).remainder(bridge.cfg.d_vocab).view(2, 4)
    seen = _record(bare, set(candidates.values()), tokens)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(tokens)
    wanted = (*tokens.shape, bridge.cfg.d_model)
    order = {site: position for position, site in enumerate(seen)}
    names = [
        name
        for name, site in candidates.items()
        if name in cache and site in seen and _same(seen[site], cache[name], wanted)
    ]
    return {name: candidates[name] for name in sorted(names, key=lambda n: order[candidates[n]])}


def _candidates(bridge: TransformerBridge, twins: Mapping[int, nn.Module]) -> dict[str, Site]:
    spellings: dict[int, list[str]] = {}
    for name, hook in bridge.hook_dict.items():
        spellings.setdefault(id(hook), []).append(name)
    sites = {}
    for names in spellings.values():
        found = (_site(bridge, name, twins) for name in names)
        site = next((site for site in found if site is not None), None)
        if site is not None:
            sites.update(dict.fromkeys(names, site))
    return sites


def _site(bridge: TransformerBridge, name: str, twins: Mapping[int, nn.Module]) -> Site | None:
    path, _, side = name.rpartition(".")
    if side not in ("hook_in", "hook_out"):
        return None
    component = reduce(_child, path.split("."), bridge)
    if getattr(component, "name", None) is None:
        return None  # a container of the bridge's own: its "original" is its parent's module
    twin = twins.get(id(getattr(component, "original_component", None)))
    return None if twin is None else Site(twin, at_input=side == "hook_in")


def _child(parent: Any, name: str) -> Any:
    return parent[int(name)] if name.isdecimal() else getattr(parent, name)


def _record(bare: nn.Module, sites: set[Site], tokens: Int[Tensor, "S T"]) -> dict[Site, Tensor]:
    seen: dict[Site, Tensor] = {}

    def recorder(site: Site) -> Visit:
        def visit(value: Tensor) -> None:
            seen[site] = value.clone()

        return visit

    with attached({site: recorder(site) for site in sites}), torch.no_grad():
        bare(input_ids=tokens, use_cache=False)
    return seen


def _same(mine: Tensor, bridges: Any, shape: tuple[int, ...]) -> bool:
    if not isinstance(bridges, Tensor) or not mine.shape == bridges.shape == shape:
        return False
    # Attention is summed in another order in the bridge; half precision shows it.
    tolerance = 1e-3 if mine.dtype in (torch.float32, torch.float64) else 0.1
    # A model whose weights hold NaN keeps its hookpoints: harvesting says where the NaN is.
    theirs = bridges.float().nan_to_num()
    gap = (mine.float().nan_to_num() - theirs).abs().max()
    return bool(gap <= tolerance * theirs.abs().max())
