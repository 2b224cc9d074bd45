"""A place in a Hugging Face model: the input or output of a module, to be read or replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

Visit = Callable[[Tensor], Tensor | None]
"""Called with a hookpoint's value; what it returns, unless None, takes the value's place."""

_INPUT_NAMES = ("hidden_states", "x", "input", "inputs_embeds", "inputs", "hidden_state")


Shape = tuple[int, ...]


@dataclass(frozen=True)
class Columns:
    """Some columns of a wider (or narrower) value, with zeros behind them up to the model's width.

    So the concatenated outputs of heads, which need not be as wide as the model, are hookpoints.
    """

    start: int
    stop: int
    width: int

    def visited(self, visit: Visit, value: Tensor) -> Tensor | None:
        """Shows the columns to `visit`; what takes their place is put into the whole value."""
        part = value[..., self.start : self.stop]
        new = visit(functional.pad(part, (0, self.width - part.shape[-1])))
        if new is None:
            return None
        whole = value.clone()
        whole[..., self.start : self.stop] = new[..., : part.shape[-1]]
        return whole


@dataclass(frozen=True)
class Site:
    """The input or the output of a module; where either holds several tensors, the first."""

    module: nn.Module
    at_input: bool
    columns: Columns | None = None
    """Which of the value's numbers; all, if None."""

    def attach(self, visit: Visit, shape: Shape) -> RemovableHandle:
        """Call `visit` at every forward pass of tokens of that shape, until the handle is removed.

        Some modules see the tokens of all sequences in one row (OPT's MLP): their values are shown
        to `visit`, and taken back, as [S,T,D].
        """
        if self.columns is not None:
            visit = partial(self.columns.visited, visit)
        if self.at_input:
            hook = partial(_at_input, visit, shape)
            return self.module.register_forward_pre_hook(hook, with_kwargs=True)
        return self.module.register_forward_hook(partial(_at_output, visit, shape))


@contextmanager
def attached(visits: Mapping[Site, Visit], shape: Shape) -> Iterator[None]:
    """Attach the visits to passes of [S,T] tokens, and remove them however the block ends."""
    handles: list[RemovableHandle] = []
    try:
        for site, visit in visits.items():
            handles.append(site.attach(visit, shape))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _at_input(
    visit: Visit, shape: Shape, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if args and isinstance(args[0], Tensor):
        new = _visited(visit, shape, args[0])
        return None if new is None else ((new, *args[1:]), kwargs)
    key = next((key for key in _INPUT_NAMES if isinstance(kwargs.get(key), Tensor)), None)
    if key is None:
        return None
    new = _visited(visit, shape, kwargs[key])
    return None if new is None else (args, {**kwargs, key: new})


def _at_output(visit: Visit, shape: Shape, _module: nn.Module, _args: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return _visited(visit, shape, output)
    if not isinstance(output, tuple | list) or not output or not isinstance(output[0], Tensor):
        return None
    new = _visited(visit, shape, output[0])
    return None if new is None else type(output)([new, *output[1:]])


def _visited(visit: Visit, shape: Shape, value: Tensor) -> Tensor | None:
    if value.dim() != 2 or len(value) != shape[0] * shape[1]:
        return visit(value)
    new = visit(value.unflatten(0, shape))  # a view: writing into it reaches the model
    return None if new is None else new.flatten(0, 1)
