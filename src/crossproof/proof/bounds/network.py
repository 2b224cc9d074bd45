"""What a certificate speaks about: a small ReLU network, its domain, and a dictionary.

All tensors are float64, and every value is one that float32 can hold: a claim is about the
real-arithmetic network with exactly these weights (THEORY section 8).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.proof.certificate.format import tensors_hash
from crossproof.proof.certificate.identity import network_tensors
from crossproof.proof.certificate.verifier.products import quotients


class _Hashed:
    """Dataclasses of tensors that can be named, hashed and checked alike."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by field name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over all tensors, as in certificates."""
        return tensors_hash({k: t.detach().cpu().numpy() for k, t in self.tensors().items()})

    def _check_finite(self, what: str) -> None:
        for name, tensor in self.tensors().items():
            if not torch.isfinite(tensor).all():
                raise CrossproofError(
                    f"{name} of the {what} holds NaN or infinity: a certificate needs numbers."
                )


@dataclass(frozen=True, eq=False)
class Network(_Hashed):
    """logits = x skip + relu(x W_in + b_in) W_out + b_out; the unembedding is folded into W_out.

    Raises CrossproofError if a weight is NaN or infinite.
    """

    W_in: Float[Tensor, "D N"]
    b_in: Float[Tensor, " N"]
    W_out: Float[Tensor, "N V"]
    b_out: Float[Tensor, " V"]
    skip: Float[Tensor, "D V"]

    def __post_init__(self) -> None:
        self._check_finite("network")

    @classmethod
    def of_module(cls, module: torch.nn.Module) -> Network:
        """Two linear layers with a ReLU between, such as a `torch.nn.Sequential`, in float64.

        Raises CrossproofError if the module's tensors are no such network, or if it computes
        something else from random inputs.
        """
        state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
        tensors = network_tensors({name: t.double().numpy() for name, t in state.items()})
        network = cls(**{name: torch.from_numpy(t.copy()) for name, t in tensors.items()})
        x = torch.randn(16, len(network.W_in), generator=torch.Generator().manual_seed(0))
        like = next(module.parameters())
        with torch.no_grad():
            theirs = module(x.to(like)).double().cpu()
        if not torch.allclose(theirs, network.logits(x.double()), rtol=1e-2, atol=1e-2):
            raise CrossproofError(
                f"{type(module).__name__} does not compute relu(x W_in + b_in) W_out + b_out: only "
                f"such networks are certified."
            )
        return network

    def logits(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        """The logits of B inputs."""
        hidden = torch.relu(x @ self.W_in + self.b_in)
        return x @ self.skip + hidden @ self.W_out + self.b_out

    def double(self) -> Network:
        """The same weights in float64."""
        return replace(self, **{name: t.double() for name, t in self.tensors().items()})

    @property
    def n_classes(self) -> int:
        """V, the number of classes."""
        return self.W_out.shape[1]


@dataclass(frozen=True, eq=False)
class PairDomain(_Hashed):
    """Addition modulo p: input left[a] + right[b], label (a + b) mod p, all pairs equally likely.

    Raises CrossproofError if an embedding is NaN or infinite.
    """

    left: Float[Tensor, "p D"]
    right: Float[Tensor, "p D"]

    def __post_init__(self) -> None:
        self._check_finite("domain")

    @property
    def p(self) -> int:
        """The modulus; the domain has p² inputs."""
        return self.left.shape[0]

    def inputs(self) -> Float[Tensor, "pairs D"]:
        """All p² inputs; pair (a, b) is row a·p + b."""
        return (self.left[:, None] + self.right[None]).flatten(0, 1)

    def labels(self) -> Int[Tensor, " pairs"]:
        """The label of every pair, in the same order."""
        number = torch.arange(self.p)
        return ((number[:, None] + number[None]) % self.p).flatten()

    def quotients(self) -> Int[Tensor, " pairs"]:
        """a - b modulo p of every pair, in the same order."""
        number = torch.arange(self.p)
        return ((number[:, None] - number[None]) % self.p).flatten()


@dataclass(frozen=True, eq=False)
class GroupDomain(PairDomain):
    """Multiplication in a finite group: input left[a] + right[b], label table[a, b].

    Raises CrossproofError if `table` is not the multiplication table of a group.
    """

    table: Int[Tensor, "p p"]

    def __post_init__(self) -> None:
        self._check_finite("domain")
        quotients(self.table.numpy())

    def labels(self) -> Int[Tensor, " pairs"]:
        """ab of every pair, in the same order."""
        return self.table.flatten()

    def quotients(self) -> Int[Tensor, " pairs"]:
        """ab⁻¹ of every pair, in the same order."""
        return torch.from_numpy(quotients(self.table.numpy())).flatten()


@dataclass(frozen=True, eq=False)
class SparseDomain(_Hashed):
    """Inputs bias + Σ_h a_h d_h over the features h of one active set, a_h in [low_h, high_h].

    Every row of `active_sets` is equally likely, activations are uniform and independent in the
    box. The label is argmax_c Σ_h a_h readout[h, c], so it is constant wherever the linear
    differences keep their signs.

    Raises CrossproofError if a tensor is NaN or infinite, a range is empty, or an active set
    repeats a feature or names one that does not exist.
    """

    decoder: Float[Tensor, "F D"]
    bias: Float[Tensor, " D"]
    low: Float[Tensor, " F"]
    high: Float[Tensor, " F"]
    active_sets: Int[Tensor, "G K"]
    readout: Float[Tensor, "F V"]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names in certificates, where decoder vectors are `atoms`."""
        tensors = super().tensors()
        return {"atoms": tensors.pop("decoder"), **tensors}

    def __post_init__(self) -> None:
        self._check_finite("domain")
        if not (self.low <= self.high).all():
            raise CrossproofError("A feature of the domain has low above high: swap them.")
        ordered = self.active_sets.sort(dim=1).values
        outside = (ordered < 0).any() or (ordered >= len(self.decoder)).any()
        if outside or (ordered.diff(dim=1) == 0).any():
            raise CrossproofError(
                f"active_sets must hold different features between 0 and {len(self.decoder) - 1} "
                f"in every row."
            )

    @property
    def n_sets(self) -> int:
        """G, the number of active sets."""
        return self.active_sets.shape[0]

    def sample(
        self, count: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "T F"], Int[Tensor, " T"]]:
        """Activations and labels of `count` inputs drawn from the domain."""
        rows = torch.randint(self.n_sets, (count,), generator=generator)
        active = self.active_sets[rows]
        unit = torch.rand(active.shape, generator=generator, dtype=self.low.dtype)
        values = self.low[active] + unit * (self.high - self.low)[active]
        activations = self.low.new_zeros(count, len(self.low)).scatter(1, active, values)
        return activations, self.labels(activations)

    def inputs(self, activations: Float[Tensor, "T F"]) -> Float[Tensor, "T D"]:
        """The inputs with these activations."""
        return activations @ self.decoder + self.bias

    def labels(self, activations: Float[Tensor, "T F"]) -> Int[Tensor, " T"]:
        """The labels of these activations."""
        labels: Tensor = (activations @ self.readout).argmax(dim=1)
        return labels


@dataclass(frozen=True, eq=False)
class Dictionary:
    """x ≈ Σ_h a_h d_h + bias with a = encode(x) >= 0; all float64, values that float32 holds.

    Bounds hold for any numbers a: the encoder decides how tight they are, never whether they hold.
    """

    decoder: Float[Tensor, "H D"]
    bias: Float[Tensor, " D"]
    encode: Callable[[Tensor], Tensor] = field(repr=False)
    """Inputs [B, D] to activations [B, H]."""

    @classmethod
    def of_crosscoder(cls, crosscoder: Crosscoder) -> Dictionary:
        """The dictionary of a crosscoder as it stands, whose one hookpoint is the MLP's input.

        Raises CrossproofError if it has several hookpoints.
        """
        if len(crosscoder.hookpoints) != 1:
            raise CrossproofError(
                f"This crosscoder reads {len(crosscoder.hookpoints)} hookpoints: a small network "
                f"is certified through a dictionary of one, its MLP's input."
            )
        double = copy.deepcopy(crosscoder)
        double.fold()
        double = double.double()

        def encode(x: Float[Tensor, "B D"]) -> Float[Tensor, "B H"]:
            return double.encode_dense(x[:, None])

        return cls(double.decoder_vectors(0).detach(), double.decoder_bias(0).detach(), encode)

    def decode(self, activations: Float[Tensor, "B H"]) -> Float[Tensor, "B D"]:
        """The reconstruction x̂ of B inputs."""
        return activations @ self.decoder + self.bias
