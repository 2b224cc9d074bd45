"""The penalties in anybody's training step: latents, decoder and an MLP in, a scalar out."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.model import LanguageModel
from crossproof.lm.norms import Norm
from crossproof.lm.stream import mlp_input, second_norm
from crossproof.training.objective import Objective
from crossproof.training.objectives import about_mlps, mlp_terms
from crossproof.training.step import BlockStep, StreamReading, TargetMLP


class MLPPenalty:
    """What a dictionary's latents do to each other inside one MLP, for another library's trainer.

    Call it in the training step with the batch's latents and the decoder as they are there, and
    add what it returns to the loss; gradients reach both. It needs neither a crosscoder nor
    crossproof's trainer. Latents are [tokens, latents], the decoder [latents, width], activations
    [tokens, width]; shapes that do not fit are said. All is in the language model's own units:
    where a trainer scales activations, divide decoder vectors and reconstructions by its factor.

        penalty = MLPPenalty.of(model, block=1, objective=Objective(keep_largest=1.0))
        x = ...  # the batch's activations at blocks.0.hook_resid_post
        loss = loss + penalty.in_stream(latents, sae.W_dec, stream, error=x - reconstruction)
    """

    def __init__(
        self,
        mlp: MLPWeights,
        objective: Objective,
        norm: Norm | None = None,
        second: Norm | None = None,
    ) -> None:
        """`norm`: what the MLP reads the residual stream through, for `in_stream`. `second`: what
        its output passes before the stream takes it, where there is such a norm (Gemma 2).

        Raises CrossproofError if the objective has no term about MLPs.
        """
        if not about_mlps(objective):
            raise CrossproofError(
                "The objective has no term about an MLP, so there is nothing to add to a loss: "
                "give one such as Objective(keep_largest=1.0)."
            )
        self.objective = objective
        self._mlp, self._norm, self._second = mlp, norm, second
        self._target = lru_cache(maxsize=4)(self._built)

    @classmethod
    def of(cls, model: LanguageModel, block: int, objective: Objective) -> MLPPenalty:
        """Of a model's own MLP and the norms around it; errors as those of `model.mlp`."""
        mlp, second = model.mlp(block), second_norm(model, block)
        norms = mlp_input(model, block).norm, None if second is None else second.norm
        return cls(mlp, objective, *norms)

    def at_input(
        self,
        latents: Float[Tensor, "B H"] | SparseLatents,
        decoder: Float[Tensor, "H D"],
        bias: Float[Tensor, " D"],
        x: Float[Tensor, "B D"],
    ) -> Tensor:
        """The weighted terms of a dictionary of the MLP's input, x ≈ latents @ decoder + bias."""
        return self._weighted(self.terms_at_input(latents, decoder, bias, x))

    def in_stream(
        self,
        latents: Float[Tensor, "B H"] | SparseLatents,
        decoder: Float[Tensor, "H D"],
        stream: Float[Tensor, "B D"],
        error: Float[Tensor, "B D"] | None = None,
    ) -> Tensor:
        """The weighted terms of a dictionary of the residual stream, upstream of the MLP's norm.

        `stream` is what the norm reads: with latents of an earlier place, it holds what the model
        added since. `error`: what the reconstruction leaves out, for terms that charge for it.
        """
        return self._weighted(self.terms_in_stream(latents, decoder, stream, error))

    def terms_at_input(
        self,
        latents: Float[Tensor, "B H"] | SparseLatents,
        decoder: Float[Tensor, "H D"],
        bias: Float[Tensor, " D"],
        x: Float[Tensor, "B D"],
    ) -> dict[str, Tensor]:
        """Each term's own value, for logs: means over tokens."""
        latents, decoder, bias, x = self._checked(latents, decoder, bias, x)
        sparse = _sparse(latents)
        target = self._target(decoder.device, decoder.dtype, False)
        x_hat = sparse.dense() @ decoder + bias
        return mlp_terms(self.objective, BlockStep(target, sparse, x, x_hat, decoder, bias))

    def terms_in_stream(
        self,
        latents: Float[Tensor, "B H"] | SparseLatents,
        decoder: Float[Tensor, "H D"],
        stream: Float[Tensor, "B D"],
        error: Float[Tensor, "B D"] | None = None,
    ) -> dict[str, Tensor]:
        """Each term's own value, for logs; CrossproofError if no norm was given."""
        given = stream if error is None else error
        latents, decoder, given, stream = self._checked(latents, decoder, given, stream)
        target = self._target(decoder.device, decoder.dtype, True)
        left = None if error is None else given
        step = BlockStep.in_stream(target, _sparse(latents), decoder, stream, left)
        return mlp_terms(self.objective, step)

    def _checked(
        self,
        latents: Float[Tensor, "..."] | SparseLatents,
        decoder: Float[Tensor, "..."],
        beside: Float[Tensor, "..."],
        x: Float[Tensor, "..."],
    ) -> tuple[Float[Tensor, "..."] | SparseLatents, Tensor, Tensor, Tensor]:
        """The same in the decoder's dtype, float32 at least: half precision is too coarse for sums.

        `beside` is a bias or as large as `x`. Raises CrossproofError for shapes that do not fit,
        and for too few tokens to have a variance.
        """
        if isinstance(latents, SparseLatents):
            code: tuple[int, ...] = (latents.n_tokens, latents.n_latents)
        else:
            code = tuple(latents.shape)
        width = self._mlp.d_model
        fits = len(code) == 2 and tuple(decoder.shape) == (code[1], width)
        if (
            not fits
            or tuple(x.shape) != (code[0], width)
            or beside.shape not in (x.shape, x.shape[1:])
        ):
            raise CrossproofError(
                f"Latents {list(code)}, decoder {list(decoder.shape)}, activations "
                f"{list(x.shape)} and what is given beside them, {list(beside.shape)}, do not fit: "
                f"give latents [tokens, latents], decoder [latents, {width}], a bias [{width}] or "
                f"an error and activations [tokens, {width}], sequences flattened."
            )
        if len(x) < 2:
            raise CrossproofError(
                f"The penalty is measured against the variance of a batch, and this one has "
                f"{len(x)} tokens: give two or more."
            )
        dtype = torch.promote_types(decoder.dtype, torch.float32)
        return latents.to(dtype), decoder.to(dtype), beside.to(dtype), x.to(dtype)

    def _built(self, device: torch.device, dtype: torch.dtype, in_stream: bool) -> TargetMLP:
        mlp = self._mlp.to(device, dtype)
        if not in_stream:
            return TargetMLP.build(0, mlp, seed=0, second=self._second)
        if self._norm is None:
            raise CrossproofError(
                "This penalty knows no norm before its MLP, so it cannot read the residual stream: "
                "make it with MLPPenalty.of(model, block, objective), or give `norm`."
            )
        reading = StreamReading((0,), self._norm, 0, self._second)
        return TargetMLP.build(0, mlp, seed=0, upstream=reading)

    def _weighted(self, terms: dict[str, Tensor]) -> Tensor:
        strengths = self.objective.strengths()
        return torch.stack([strengths[name] * value for name, value in terms.items()]).sum()


def _sparse(latents: Float[Tensor, "B H"] | SparseLatents) -> SparseLatents:
    return latents if isinstance(latents, SparseLatents) else SparseLatents.from_dense(latents)
