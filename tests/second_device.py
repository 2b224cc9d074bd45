"""A second device without hardware: tensors that live on the CPU and say that they do not.

Importing this makes a device `second:0` known to the whole process, by PyTorch's Python backends
(PrivateUse1): for processes of their own, not for the test session. What runs on it runs on the
CPU, so figures are the CPU's; but an operation that meets tensors of both devices raises, as it
would on a GPU, and every operation that would make the CPU wait for the device is counted. Unlike
fake tensors these hold values, so that whole commands run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

SYNCS: Counter[str] = Counter()
"""Operations since `SYNCS.clear()` that a GPU's host would have waited for, by name."""
WAITING = {
    *("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"),
    *("unique_dim", "_unique2", "unique_consecutive", "bincount"),
}
"""Operations whose result's value or shape the host needs."""
_ANY_DEVICE = {"copy_", "_copy_from", "_copy_from_and_resize", "set_"}
_REGISTERED: list[torch.library.Library] = []


class _Module(_DummyBackendModule):
    """What PyTorch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, _device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, _device: Any = None) -> None:
        torch.set_rng_state(state)


_setup_privateuseone_for_python_backend("second", _Module())
SECOND = torch.device("second", 0)


class OnSecond(torch.Tensor):
    """A tensor of the second device; `inner` holds its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnSecond:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=SECOND,
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def __getitem__(self, index: Any) -> torch.Tensor:
        return super().__getitem__(_on_device(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_on_device(index), value)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnSecond:
        if id(self) not in memo:
            copied = OnSecond(self.inner.clone()).requires_grad_(self.requires_grad)
            copied.__dict__ |= {k: v for k, v in self.__dict__.items() if k != "inner"}
            memo[id(self)] = copied
        found: OnSecond = memo[id(self)]
        return found

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def new_tensor(self, data: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=SECOND)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnSecond({self.inner})"

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _MATMULS and any(side.dim() == 1 for side in args):
                return _vector_product(*args)
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _run(func, *args, **(kwargs or {}))


_MATMULS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)


def _vector_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The product with a vector, which PyTorch forms by changing shapes in place."""
    rows = left[None] if left.dim() == 1 else left
    columns = right[:, None] if right.dim() == 1 else right
    product = rows @ columns
    product = product[..., 0] if right.dim() == 1 else product
    if left.dim() > 1:
        return product
    return product[..., 0] if right.dim() == 1 else product[..., 0, :]


def register() -> None:
    """Gives the device its operations, and PyTorch's functions what they lack for it."""
    library = torch.library.Library("_", "IMPL", "PrivateUse1")
    library.fallback(_run)
    _REGISTERED.append(library)
    for name in ("tensor", "as_tensor", "arange", "eye", "randperm", "linspace"):
        setattr(torch, name, _moved(getattr(torch, name)))  # no operation of the device makes them
    # Views of wrappers in inference mode are refused; no_grad is the same but for speed.
    torch.inference_mode = _no_grad  # type: ignore[assignment, misc]
    torch.Tensor.tolist = _tolist(torch.Tensor.tolist)  # type: ignore[method-assign]


def _on_device(index: Any) -> Any:
    """Lists among indices become tensors of the device, which a GPU's host waits for."""
    if isinstance(index, tuple):
        return tuple(_on_device(list(i) if isinstance(i, tuple) else i) for i in index)
    if not isinstance(index, list):
        return index
    return torch.tensor(index, dtype=None if index else torch.int64, device=SECOND)


def _no_grad(mode: bool = True) -> AbstractContextManager[None]:
    return torch.no_grad() if mode else torch.enable_grad()


def _moved(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        there = device is not None and torch.device(device).type == SECOND.type
        if not there:
            return make(*args, device=device, **kwargs)
        if "tensor" in make.__name__:
            SYNCS["from host"] += 1
        tensor = make(*args, **kwargs)
        return tensor if isinstance(tensor, OnSecond) else OnSecond(tensor.detach().clone())

    return made


def _tolist(plain: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    def listed(tensor: torch.Tensor) -> Any:  # PyTorch refuses it for subclasses
        if isinstance(tensor, OnSecond):
            SYNCS["tolist"] += 1
            return plain(tensor.inner)
        return plain(tensor)

    return listed


def _run(func: Any, *args: Any, **kwargs: Any) -> Any:
    name = func.name().split("::")[1].split(".")[0]
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    devices = {t.device.type for t in tensors if t.dim() or t.device.type != "cpu"}
    if len(devices) > 1 and name not in _ANY_DEVICE and not _index(name, args):
        shapes = [f"{t.device.type}{list(t.shape)}" for t in tensors]
        raise RuntimeError(f"{func.name()} meets tensors of two devices: {', '.join(shapes)}")
    given = kwargs.get("device")
    target = given if given is not None else (SECOND if SECOND.type in devices else None)
    there = target is not None and torch.device(target).type == SECOND.type
    if SECOND.type in devices and _waits(name, args, kwargs):
        SYNCS[name] += 1
    if there and given is not None:
        kwargs["device"] = torch.device("cpu")
    if name == "histc" and there:  # of whole numbers, which CPUs refuse
        args = (args[0].float(), *args[1:])
    result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if func._schema.is_mutable:
        return _written(func, args, kwargs, result, there)
    return tree_map(_wrapped, result) if there else result


def _waits(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a GPU's host would wait for the result, or for a copy of unpinned memory."""
    if name == "_to_copy":
        return kwargs.get("device") is not None and not kwargs.get("non_blocking")
    if name in ("copy_", "_copy_from"):
        return len({t.device.type for t in args[:2] if isinstance(t, torch.Tensor)}) > 1
    if name.startswith("index"):  # by masks, whose entries are counted first; or of the CPU
        indices = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, torch.Tensor)]
        return any(i.dtype == torch.bool or i.device != SECOND for i in indices)
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    return name in WAITING


def _index(name: str, args: Sequence[Any]) -> bool:
    """Whether CPU indices index a tensor of a device, which PyTorch allows (and copies)."""
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    rest = [leaf for leaf in tree_leaves((args[0], args[2:])) if isinstance(leaf, torch.Tensor)]
    return {t.device.type for t in rest if t.dim()} == {SECOND.type}


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnSecond) else value


def _wrapped(value: Any) -> Any:
    plain = isinstance(value, torch.Tensor) and not isinstance(value, OnSecond)
    return OnSecond(value) if plain else value


def _written(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, there: bool
) -> Any:
    """What an operation that writes into its arguments returns: those arguments themselves."""
    arguments = func._schema.arguments
    outs = [
        kwargs[a.name] if a.name in kwargs else args[i]
        for i, a in enumerate(arguments)
        if a.is_write and (a.name in kwargs or i < len(args))
    ]
    for out in outs:
        if isinstance(out, OnSecond) and out.shape != out.inner.shape:
            raise RuntimeError(f"{func.name()} changed a tensor's shape in place")
    returned = func._schema.returns
    if not returned:
        return None
    aliased = [r.alias_info is not None for r in returned]
    if all(aliased) and len(returned) == len(outs):
        return outs[0] if len(outs) == 1 else tuple(outs)
    return tree_map(_wrapped, result) if there else result


def syncs_of(call: Callable[[], Any]) -> Counter[str]:
    """The operations that a GPU's host would have waited for during the call."""
    SYNCS.clear()
    call()
    return Counter(SYNCS)
