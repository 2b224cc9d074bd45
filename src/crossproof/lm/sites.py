"""A place in a Hugging Face model: the input or output of a module, to be read or replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Visit = Callable[[Tensor], Tensor | None]
"""Called with a hookpoint's value; what it returns, unless None, takes the value's place."""

_INPUT_NAMES = ("hidden_states", "x", "input", "inputs_embeds", "inputs", "hidden_state")


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
            key = next((key for key in _INPUT_NAMES if isinstance(kwargs.get(key), Tensor)), None)
            if key is None:
                return None
            new = visit(kwargs[key])
            return None if new is None else (args, {**kwargs, key: new})

        return self.module.register_forward_pre_hook(hook, with_kwargs=True)

    def _attach_output(self, visit: Visit) -> RemovableHandle:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, Tensor):
                return visit(output)
            if not isinstance(output, tuple | list) or not output:
                return None
            new = visit(output[0]) if isinstance(output[0], Tensor) else None
            return None if new is None else type(output)([new, *output[1:]])

        return self.module.register_forward_hook(hook)


@contextmanager
def attached(visits: Mapping[Site, Visit], shape: tuple[int, ...]) -> Iterator[None]:
    """Attach the visits, and remove every one of them however the block ends.

    `shape` is that of the tokens, [S,T]. Some modules see the tokens of all sequences in one row
    (OPT's MLP): their values are shown to `visit`, and taken back, as [S,T,D].
    """
    handles: list[RemovableHandle] = []
    try:
        for site, visit in visits.items():
            handles.append(site.attach(_by_sequence(visit, shape)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_sequence(visit: Visit, shape: tuple[int, ...]) -> Visit:
    def shaped(value: Tensor) -> Tensor | None:
        if value.dim() != 2 or len(value) != shape[0] * shape[1]:
            return visit(value)
        new = visit(value.unflatten(0, shape))  # a view: writing into it reaches the model
        return None if new is None else new.flatten(0, 1)

    return shaped
