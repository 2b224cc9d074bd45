"""The terms of the loss, one small function each (`training.terms` registers them).

Every term is a mean over tokens (and MLPs); the loss is their sum, weighted by `Objective`.
Reconstruction is the squared error summed over hookpoints and dimensions of scaled activations,
as in the paper, so that strengths compare with its λ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from crossproof.crosscoder.sparsity import CountsLatents
from crossproof.errors import CrossproofError
from crossproof.interactions import penalty
from crossproof.lm.constants import LIPSCHITZ
from crossproof.training import distributed
from crossproof.training.objective import Objective as Objective
from crossproof.training.passages import TextStep
from crossproof.training.shards import LatentShard
from crossproof.training.step import BlockStep, Step, spread
from crossproof.training.terms import OBJECTIVES


def reconstruction(step: Step) -> Tensor:
    """Σ_p ‖x_p - x̂_p‖², mean over tokens, scaled: what every crosscoder is trained for."""
    return step.error.pow(2).sum((1, 2)).mean()


def interaction(block: BlockStep, weights: str = "uniform") -> Tensor:
    """Σ_h |p_nh| - max_h |p_nh|, mean over tokens and neurons n (the paper's penalty).

    p_nh = a_h ⟨w_n, d_h⟩ are contributions to pre-activations; for gated MLPs theorem T3's bound
    over both paths. `weights` weighs neurons equally ("uniform", as the paper trains) or by ‖o_n‖
    over its mean ("output_norm", as its measure I is defined).
    """
    by_size = weights == "output_norm"
    norms = torch.ones_like(block.target.mlp.b_in)
    if by_size:
        norms = block.view.output_norms
        norms = norms / (block.over_neurons(norms.sum()) / block.n_neurons)
    summed = penalty.interaction(block.view, block.latents, block.dominance, norms)
    summed = block.over_neurons(summed)
    if by_size and block.weight is not None:  # ‖o_n‖ is each token's own
        summed = summed * (block.weight / distributed.mean_over_rows(block.weight.mean()))
    return summed.mean() / block.n_neurons


def rotated(block: BlockStep) -> Tensor:
    """`interaction` of neurons with randomly rotated input weights: the form, wrong neurons."""
    return interaction(replace(block, target=block.target.rotated()))


def keep_largest(block: BlockStep) -> Tensor:
    """‖MLP(x) - MLP_dom‖² over the variance of MLP(x): the error of one latent per neuron.

    MLP_dom replaces every pre-activation by β_n + p_{n,i(n)}, i(n) being the dominant latent: the
    left-hand side of theorem T1, squared. Outputs are as the stream takes them, here and below.
    """
    output = block.view.output(block.dominance.value, block.dominance.gate)
    return block.relative_error(block.over_neurons(output))


def all_latents(block: BlockStep) -> Tensor:
    """‖MLP(x) - MLP(x̂)‖² over the variance of MLP(x)."""
    return block.relative_error(block.over_neurons(block.target.mlp(block.x_hat)))


def keep_largest_kl(text: TextStep) -> Tensor:
    """KL(model ‖ model with MLP_dom in the MLP's place) over KL(model ‖ model without the MLP)."""
    block = text.block
    return text.divergence(block.view.output(block.dominance.value, block.dominance.gate))


def all_latents_kl(text: TextStep) -> Tensor:
    """KL(model ‖ model with MLP(x̂) in the MLP's place) over KL(model ‖ model without the MLP)."""
    return text.divergence(text.block.target.mlp(text.block.x_hat))


def certified(block: BlockStep) -> Tensor:
    """(R + L·I) over the standard deviation of MLP(x): the right-hand side of theorem T1."""
    bound = penalty.interaction(block.view, block.latents, block.dominance)
    if not block.target.mlp.gated:  # the gated form carries its constant inside
        bound = bound * LIPSCHITZ[block.target.mlp.activation]
    lost = penalty.residual(block.view, block.x, block.x_hat)
    return block.weighed(block.over_neurons(lost + bound)).mean() / block.variance.sqrt()


def dominant_share(block: BlockStep) -> Tensor:
    """1 - |p_{n,i(n)}| / Σ_h |p_nh|, mean over tokens and neurons: dimensionless, in [0, 1]."""
    shares = penalty.dominant_share(block.view, block.latents, block.dominance)
    if block.shard.count == 1:
        return 1 - shares.mean()
    return 1 - block.over_neurons(shares.sum(1)).mean() / block.n_neurons


def mlp_in(block: BlockStep) -> Tensor:
    """‖x - x̂‖² at the MLP's input over the variance of x there."""
    return block.once((block.x - block.x_hat).pow(2).sum(1).mean()) / spread(block.x)


def l1(step: Step) -> Tensor:
    """Σ_h a_h ‖d_h‖, mean over tokens, ‖d_h‖ over all hookpoints, scaled."""
    norms = step.crosscoder.W_dec.flatten(1).norm(dim=1)
    latents = step.encoding.latents
    total: Tensor = (latents.values.abs() * norms[latents.indices]).sum()
    return step.shard.sum(total) / latents.n_tokens


def l0(step: Step) -> Tensor:
    """Active latents a token, where the sparsity rule makes them differentiable; else zero."""
    sparsity = step.crosscoder.sparsity
    if not isinstance(sparsity, CountsLatents):
        return step.x.new_zeros(())
    return step.shard.sum(sparsity.l0(step.encoding.entries))


def about_mlps(objective: Objective) -> bool:
    """Whether any of the objective's terms needs the MLPs."""
    return any(OBJECTIVES.get(name).per != "step" for name in objective.strengths())


def about_text(objective: Objective) -> bool:
    """Whether any of the objective's terms needs the language model and whole sequences."""
    return any(OBJECTIVES.get(name).per == "text" for name in objective.strengths())


def check_sharded(objective: Objective, shard: LatentShard) -> None:
    """Raises CrossproofError for a term that processes which share out latents cannot take."""
    if shard.count == 1:
        return
    for name in objective.strengths():
        if not OBJECTIVES.get(name).sharded:
            raise CrossproofError(
                f"The objective '{name}' cannot be computed by processes that share out latents "
                f"(it is not registered with sharded=True): leave it or --latent-processes out.",
                code="CP-OPTION",
            )


def mlp_terms(objective: Objective, block: BlockStep) -> dict[str, Tensor]:
    """The value of each of the objective's terms about MLPs, at one MLP."""
    terms = {}
    for name in objective.strengths():
        term = OBJECTIVES.get(name)
        if term.per == "mlp":
            terms[name] = term.function()(block, **objective.options(term))
    return terms


def penalties(
    objective: Objective, step: Step, texts: Sequence[TextStep] = ()
) -> Iterator[tuple[str, float, Tensor]]:
    """(name, strength, value) of every term with a strength; those about MLPs as means over them.

    `texts` are the step's sequences for terms about predictions. Raises CrossproofError for a term
    that is not registered (any more).
    """
    for name, strength in objective.strengths().items():
        term = OBJECTIVES.get(name)
        parts: Sequence[Step | BlockStep | TextStep] = texts
        if term.per != "text":
            parts = [step] if term.per == "step" else step.blocks
        if parts:
            function, options = term.function(), objective.options(term)
            values = [function(part, **options) for part in parts]
            yield name, strength, torch.stack(values).mean()
