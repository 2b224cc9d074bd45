# %% [markdown]
# # Somebody else's SAE
#
# You have a dictionary that another library saved, and want to know where its latents meet. Here it
# is a folder of SAELens, made first so that this page runs offline; with yours, begin at *Import*.
# Folders of sparsify, dictionary_learning, crosscode, Gemma Scope, circuit-tracer and Llama Scope
# work alike, and so do names of the Hub ([what is read exactly](../importing.md)).

# %%
from pathlib import Path

import crossproof

model = crossproof.load_model("bundled")
config = crossproof.RunConfig(
    hookpoints=("blocks.1.hook_resid_pre",),
    crosscoder=crossproof.CrosscoderConfig(n_latents=512, k=16),
    objective=crossproof.Objective(),  # reconstruction alone, as most dictionaries are trained
    batch_tokens=512,
    context=128,
    steps=200,
)
trained = crossproof.train(config).crosscoder("unpenalised")
(folder,) = crossproof.export(trained, "their-sae", "saelens", model_name="bundled")
print(sorted(path.as_posix() for path in Path("their-sae").rglob("*") if path.is_file()))

# %% [markdown]
# ## Import
#
# The files say of which library they are, and where in the model the dictionary reads. What
# crossproof cannot compute exactly as the other library does is refused, with the reason.

# %%
sae, provenance = crossproof.import_dictionary(folder, model)
print(sae.hookpoints.names, sae.config.n_latents, "latents, rule:", sae.config.sparsity)

# %% [markdown]
# Does it compute what it did? Here we can compare with the one it was made from:

# %%
text = crossproof.read_sequences("bundled", model, context=128, split="held_out")[:24]
x = model.activations(text[:4], sae.hookpoints.names)[:, 1:].flatten(0, 1)
gap = (sae.encode(x).dense() - trained.encode(x).dense()).abs().max()
print(f"largest difference of a latent's activation: {float(gap):.1e}")

# %% [markdown]
# ## Measure
#
# The SAE stands in the residual stream before block 1, so its latents are read by block 1's MLP,
# through the norm before it. `measure` counts at every neuron how much every latent contributes.

# %%
measured = crossproof.measure(model, sae, text)
print(measured)

# %% [markdown]
# *Interaction I* is what a neuron would lose if it kept its dominant latent alone; *J* leaves out
# what merely adds up; *dominated neurons* is the share where one latent makes more than nine tenths
# of the input. Compare them with the scale of what the MLP puts out, not with another model's.
#
# ## The top pairs
#
# A pair has a figure for how much it interacts *per token at which both are active*, and the second
# difference: how far the two are really from adding up, with all others in place.

# %%
for pair in measured.top_pairs[:6]:
    forms = "  ".join(f"{form} {value:.2f}" for form, value in pair.per_coactive_token.items())
    print(f"{pair.latents}: both {pair.coactive} times; {forms}; δ² {pair.second_difference:.2f}")

# %% [markdown]
# What are these latents? Read where each is strongest, and where the two meet.


# %%
def shown(context) -> str:
    """A context with its peak in brackets."""
    words = [f"[{t}]" if i == context.peak else t for i, t in enumerate(context.tokens)]
    return "".join(words[max(0, context.peak - 7) : context.peak + 3]).replace("\n", " ")


pair = measured.top_pairs[0]
for latent, contexts in zip(pair.latents, pair.latent_contexts, strict=True):
    print(f"latent {latent}")
    for context in contexts[:3]:
        print("   ", shown(context))
print("both")
for context in pair.contexts[:3]:
    print("   ", shown(context))

# %% [markdown]
# ## Does it matter?
#
# `evaluate` asks the language model: what becomes of its loss if every neuron of block 1 keeps only
# its largest latent, or its 2, 4, 8 largest?

# %%
figures = crossproof.evaluate(model, sae, text)
keep = figures.fidelity("keep-largest")
low, high = keep.ci
print(f"Φ(keep-largest) {keep.mean:.3f}, 95% interval {low:.3f} to {high:.3f}")
own = float(model.token_losses(text).mean())
with crossproof.spliced(model, sae):
    spliced = float(model.token_losses(text).mean())
print(f"loss {own:.3f}, with the SAE's reconstruction in the stream's place {spliced:.3f}")

# %% [markdown]
# From a shell: `crossproof import their-sae --model bundled --text bundled --out runs/imported`,
# then `crossproof measure runs/imported`. If latents meet more than you like, train with the
# penalty: [in your own trainer](saelens-penalty.md), or [here](own-model.md).
