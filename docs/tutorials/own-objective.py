# %% [markdown]
# # Write your own objective
#
# A term of the loss is a function from a step of training to one number. Register it, and it is an
# option of the command line, a setting in `config.json`, and a line in the metrics.
#
# ## The idea
#
# crossproof's terms ask how a neuron's input is shared out. Suppose you care about something else:
# that few *neurons* move at all when a latent is present. A smooth stand-in is the mean of the
# square roots of contributions, which is small when a few are large and the rest nothing.

# %%
from torch import Tensor

import crossproof
from crossproof.testing import check_objective
from crossproof.training import BlockStep


def few_neurons(block: BlockStep) -> Tensor:
    """Mean over active latents of Σ_n √|p_n| over √(N Σ_n |p_n|): 1/√N to 1."""
    latents = block.latents
    vectors = block.view.G[latents.indices]  # [active, N]: what a unit of the latent does
    contributions = (latents.values[:, None] * vectors).abs()
    spread = (contributions + 1e-8).sqrt().sum(1)
    most = (contributions.shape[1] * contributions.sum(1) + 1e-8).sqrt()
    return (spread / most).mean() if len(vectors) else block.x_hat.sum() * 0


crossproof.register_objective(
    "few_neurons", few_neurons, "Share of an MLP's neurons that a latent moves."
)

# %% [markdown]
# A `BlockStep` is one MLP's part of a step: `latents` are the batch's active latents, sparse;
# `view.G` [H, N] holds what a unit of each latent adds to each neuron; `x`, `x_hat` [B, D] are the
# MLP's input and its reconstruction. [The contract](../extending/objectives.md#the-contract) has
# shapes, units and what must not happen.
#
# ## Check it
#
# The built-in terms pass these checks, and yours should: gradients equal finite differences, no
# latent active gives no NaN, the order of tokens does not matter, nothing is changed.

# %%
check_objective("few_neurons")
print("few_neurons keeps the contract")

# %% [markdown]
# ## Train with it
#
# The strength is a setting like any other. With `baseline=True` its twin without the term is
# trained on the same batches, so the difference is the term's.

# %%
config = crossproof.RunConfig(
    hookpoints=("blocks.1.*",),
    crosscoder=crossproof.CrosscoderConfig(n_latents=256, k=8),
    objective=crossproof.Objective(few_neurons=400.0),
    steps=120,
    batch_tokens=256,
    context=128,
    log_every=40,
)
training = crossproof.train(config, report=lambda step: print(f"step {step.step} of {step.steps}"))
print(training)

# %% [markdown]
# Did it do what was asked, and what did it cost? Ask the term itself on held-out text, and the
# figures that were not trained on.

# %%
model = crossproof.load_model("bundled")
text = crossproof.read_sequences("bundled", model, context=128, split="held_out")[:16]
for name in training.runs:
    crosscoder = training.crosscoder(name)
    figures = crossproof.evaluate(model, crosscoder, text)
    x = model.activations(text, crosscoder.hookpoints.names)[:, 1:].flatten(0, 1)
    latents = crosscoder.encode(x)
    at = crosscoder.hookpoints.names.index("blocks.1.mlp.hook_in")
    view = crossproof.MLPDictionary.build(
        model.mlp(1), crosscoder.decoder_vectors(at), crosscoder.decoder_bias(at)
    )
    sizes = (latents.values[:, None] * view.G[latents.indices]).abs()
    moved = (sizes > 0.1 * sizes.amax(1, keepdim=True)).float().mean()
    print(f"{name:12s} neurons above a tenth of the largest: {float(moved):.1%}")
    print(figures.tables()[0].to_text(), "\n")

# %% [markdown]
# From a shell, put the function into `my_terms.py` and name the module:
#
# ```
# crossproof train --plugin my_terms --few-neurons 400 --out runs/mine
# ```
#
# A package can register without `--plugin`, through an entry point
# ([Write your own objective](../extending/objectives.md)). Sparsity rules, formats and judges are
# registered alike.
