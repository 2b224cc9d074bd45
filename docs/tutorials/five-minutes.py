# %% [markdown]
# # Five minutes
#
# A dictionary explains a language model only if its latents act independently. Here two
# crosscoders are trained on the same activations of a small model that ships with the package: one
# to reconstruct, and one that also keeps latents from meeting inside MLP neurons. Then we compare
# them and look at what still interacts.

# %%
import crossproof

model = crossproof.load_model("bundled")
print(model.name, model.n_blocks, "blocks of width", model.d_model)

# %% [markdown]
# ## Train
#
# `RunConfig` holds every setting that `crossproof train` has. The defaults train for several
# minutes; one block and few steps will do to see the effect. With
# `baseline=True`, the default, an unpenalised twin is trained beside the penalised crosscoder:
# same seed, same batches.

# %%
config = crossproof.RunConfig(
    hookpoints=("blocks.2.*",),
    crosscoder=crossproof.CrosscoderConfig(n_latents=256, k=16),
    objective=crossproof.Objective(keep_largest=200.0, all_latents=50.0, interaction=5.0),
    steps=120,
    batch_tokens=512,
    context=128,
    log_every=40,
)
training = crossproof.train(
    config,
    out="runs/five-minutes",
    report=lambda step: print(f"step {step.step} of {step.steps}, {step.seconds_left:.0f} s left"),
)
print(training)

# %% [markdown]
# ## Compare
#
# Φ says how much of the MLP's work survives a change: 1 if the language model's loss stays as it
# is, 0 if the latents might as well be gone. *Keep-largest* lets every neuron keep only the latent
# that contributes most. If one latent a neuron is enough, latents act alone.

# %%
text = crossproof.read_sequences("bundled", model, context=128, split="held_out")[:32]
figures = {}
for name in training.runs:
    figures[name] = crossproof.evaluate(model, training.crosscoder(name), text)
    keep = figures[name].fidelity("keep-largest")
    everything = figures[name].fidelity("none")
    print(f"{name:12s}  keep-largest {keep.mean:.3f}   all latents {everything.mean:.3f}")

# %% [markdown]
# The penalised crosscoder keeps more with one latent a neuron, and its full reconstruction pays
# little for it. All figures, each with a 95% interval over sequences:

# %%
print(figures["penalised"])

# %% [markdown]
# ## Look
#
# Which latents still meet, and on what text? `measure` sums the interaction of every pair over
# every token and neuron, exactly.

# %%
measured = crossproof.measure(model, training.crosscoder("penalised"), text)
print(measured)

# %% [markdown]
# The strongest pairs come with the places where they meet; the brackets mark the token.

# %%
for pair in measured.top_pairs[:5]:
    where = pair.contexts[0]
    before = "".join(where.tokens[max(0, where.peak - 8) : where.peak])
    after = "".join(where.tokens[where.peak + 1 : where.peak + 4])
    print(pair.latents, repr(f"{before}[{where.tokens[where.peak]}]{after}"))

# %% [markdown]
# Next: [your own model and text](own-model.md), or what all these numbers mean
# ([which number answers which question](../guide/which-number.md)). On the command line the same is
# `crossproof demo`, which writes a report as well.
