"""One save of another library: its configuration, its tensors, and the dictionary they make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from reprlib import repr as short
from typing import Any

import torch
from torch import Tensor

from crossproof.crosscoder.formats.files import Config, read_weights
from crossproof.crosscoder.formats.foreign import ForeignDictionary, at_hooks
from crossproof.errors import CrossproofError

_AXES = "mhpde"
_SKIPS = "W_skip", "W_skip_XdXd", "affine_skip_connection"
_WIDTHS = "d_in", "d_out", "d_model", "activation_dim"
_LATENTS = "d_sae", "dict_size", "num_latents"
"""What configurations call the sizes of tensors; nought is left to the tensors."""
_FACTORS = "scaling_factor", "finetuning_scaling_factor"
_GATES = "b_gate", "b_mag", "r_mag", "gate_bias", "mag_bias"


class Save:
    """The tensors of a file, and the configuration that belongs to them (none if not given)."""

    def __init__(self, path: Path, file: Path, config: Config | None = None) -> None:
        """`path`, what messages and the provenance name, holds or is `file`; raises as
        `read_weights`."""
        self.path, self.file = path, file
        self.config = Config({}, path) if config is None else config
        self.tensors = read_weights(file)
        self._taken: set[str] = set()

    def take(self, *names: str) -> list[Tensor]:
        """The named tensors. "W_dec d h" gives the axes in the file too, and it comes [H, D].

        Axes: m models, h latents, p hookpoints, d width, e width of what is written; results have
        them in this order. Raises CrossproofError for missing tensors, axes of another number or
        size, and weights that are not floating.
        """
        missing = [name.split()[0] for name in names if name.split()[0] not in self.tensors]
        if missing:
            held = [name for name in sorted(self.tensors) if name.isprintable()]
            raise CrossproofError(
                f"{self.file} lacks {', '.join(missing)} (it holds {', '.join(held[:20])}): it is "
                f"not the dictionary its configuration describes."
            )
        sizes: dict[str, int] = {}
        return [self._ordered(sizes, *name.split()) for name in names]

    def _ordered(self, sizes: dict[str, int], name: str, *axes: str) -> Tensor:
        tensor = self.tensors[name]
        self._taken.add(name)
        if not axes:
            return tensor
        shape, where = list(tensor.shape), f"{name} in {self.file}"
        if not tensor.is_floating_point():
            raise CrossproofError(f"{where} holds {tensor.dtype}: give unquantised weights.")
        if len(shape) != len(axes):
            raise CrossproofError(f"{where} has {len(shape)} dimensions, not {len(axes)}.")
        expected = [sizes.setdefault(axis, size) for axis, size in zip(axes, shape, strict=True)]
        if shape != expected:
            raise CrossproofError(
                f"The tensors in {self.file} do not fit each other: {name} has shape {shape}, not "
                f"{expected}."
            )
        return tensor.permute(*(axes.index(axis) for axis in _AXES if axis in axes))

    def optional(self, name: str) -> Tensor | None:
        """The tensor as it is in the file; None if it is not there."""
        self._taken.add(name)
        return self.tensors.get(name)

    def whole(self, name: str) -> int:
        """The one whole number in a tensor; CrossproofError as `scalar`."""
        number = self.scalar(name)
        if number != int(number):
            raise CrossproofError(f"{name} in {self.file} is {number:g}, not a whole number.")
        return int(number)

    def scalar(self, name: str) -> float:
        """The one finite number in a tensor; CrossproofError if it is missing or holds another."""
        (tensor,) = self.take(name)
        if tensor.numel() != 1 or not bool(tensor.isfinite()):
            raise CrossproofError(f"{name} in {self.file} is not one finite number.")
        return float(tensor)

    def dictionary(
        self,
        hooks: tuple[str | None, ...],
        architecture: str,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        *,
        less_decoder_bias: bool = False,
        **fields: Any,
    ) -> ForeignDictionary:
        """A dictionary at `hooks`: W_enc and W_dec [H, P, D], or [H, D] of an SAE (one hook) or a
        transcoder (its input and its output).

        With `less_decoder_bias` it encodes x - b_dec: the subtraction moves into b_enc. `fields`
        are those of `ForeignDictionary`, which checks the shapes. Raises CrossproofError for a
        linear skip that `fields` do not hold, and for a factor that nothing explains.
        """
        source = str(self.path)
        self.refuse_more("skips" in fields)
        if W_enc.dim() == 2:
            W_enc, W_dec, b_dec = at_hooks(source, len(hooks), W_enc, W_dec, b_dec)
        about = {"architecture": architecture, "config": dict(self.config)}
        made = ForeignDictionary(source, hooks, W_enc, W_dec, b_enc, b_dec, **fields, about=about)
        self._refuse_other_sizes(made)
        if not less_decoder_bias:
            return made
        return replace(made, b_enc=b_enc - torch.einsum("hpd,pd->h", made.W_enc, made.b_dec))

    def skip(self, name: str, hooks: int) -> dict[str, Any]:
        """The field `skips` of an SAE (one hook) or a transcoder (two) whose skip `name` is.

        `name` gives the axes as those of `take`, d read and e written; nothing if it is not there.
        """
        if name.split()[0] not in self.tensors:
            return {}
        (weights,) = self.take(name)
        return {"skips": {(0, hooks - 1): weights}} if bool(weights.any()) else {"skips": {}}

    def _refuse_other_sizes(self, made: ForeignDictionary) -> None:
        """A configuration that gives other sizes belongs to other weights."""
        actual = dict.fromkeys(_WIDTHS, made.b_dec.shape[-1])
        actual |= dict.fromkeys(_LATENTS, made.n_latents)
        trainer = self.config.get("trainer")
        said = self.config | (trainer if isinstance(trainer, dict) else {})
        config = Config(said, self.config.source)
        for name, size in actual.items():
            given = config.whole(name) or size
            if given != size:
                raise CrossproofError(
                    f"{config.source} gives {name} as {given}, and the tensors in {self.file} have "
                    f"{size}: put the configuration and the weights of one dictionary together."
                )

    def refuse_more(self, skips_read: bool) -> None:
        """Raises CrossproofError for tensors that change what is computed and were not taken."""
        self._refuse_other_rules()
        unread = (n for n in _SKIPS if n in self.tensors and bool(self.tensors[n].any()))
        if not skips_read and (name := next(unread, None)):
            raise CrossproofError(
                f"{self.path} holds a linear skip connection, {name}, that dictionaries of its "
                f"kind do not have: what it is added to is not known."
            )
        for name in _FACTORS:
            self.refuse_scale(self.tensors.get(name))

    def _refuse_other_rules(self) -> None:
        """Thresholds and gates belong to a rule that the configuration does not name."""
        unread = (name for name in sorted(self.tensors) if name not in self._taken)
        name = next((n for n in unread if "threshold" in n or n in _GATES), None)
        if name is not None:
            raise CrossproofError(
                f"{self.file} holds {short(name)}, which dictionaries of the kind that its "
                f"configuration names do not have: put the configuration and the weights of one "
                f"dictionary together."
            )

    def refuse_scale(self, factor: Tensor | float | None) -> None:
        """Raises CrossproofError for a factor that is saved with the weights and is not one."""
        if factor is not None and not torch.allclose(
            torch.as_tensor(factor).float(), torch.ones(())
        ):
            raise CrossproofError(
                f"{self.path} holds a scaling_factor that is not one, and its configuration does "
                f"not say what it scales: fold it into the weights, or correct the configuration."
            )
