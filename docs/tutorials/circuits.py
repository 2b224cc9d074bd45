# %% [markdown]
# # Circuits: which pairs break an attribution graph's linearity
#
# An attribution graph draws an edge from one latent to what it causes, and adds edges up. That is
# exact where everything between is linear. Inside an MLP neuron it is not: what latent A does there
# may depend on whether latent B is active. This page finds such pairs, for one prompt, and checks
# by running the model that they do what the measure says.

# %%
import torch

import crossproof
from crossproof.evaluation import language_model_game
from crossproof.interactions import shapley_taylor

model = crossproof.load_model("bundled")
BLOCK = 2
config = crossproof.RunConfig(
    hookpoints=(f"blocks.{BLOCK}.mlp.hook_in",),
    crosscoder=crossproof.CrosscoderConfig(n_latents=512, k=8),
    objective=crossproof.Objective(),
    batch_tokens=512,
    context=128,
    steps=200,
)
dictionary = crossproof.train(config).crosscoder("unpenalised")

# %% [markdown]
# With eight active latents a token there are 28 pairs. First over much text: which pairs meet most?

# %%
text = crossproof.read_sequences("bundled", model, context=128, split="held_out")[:24]
measured = crossproof.measure(model, dictionary, text)
for pair in measured.top_pairs[:6]:
    whole, additive = (pair.per_coactive_token[form] for form in ("I", "J"))
    delta = pair.second_difference
    figures = f"I {whole:.2f}, J {additive:.2f}, δ² {delta:.2f} ({delta / whole:.0%} of I)"
    print(f"{pair.latents}: {figures}")

# %% [markdown]
# Three numbers, three questions. *I*: would it matter if the smaller of the two were dropped? *J*:
# do they fail to add up, at worst? The *second difference*: do they fail to add up here, f(A and B)
# − f(A) − f(B) + f(neither), with all other latents in place? An edge of an attribution graph is
# wrong by what the second difference says, and a pair with a large I and a small second difference
# is no trouble for a graph.
#
# ## One prompt
#
# Take the place where the pair that breaks linearity most is strongest.

# %%
pair = max(measured.top_pairs, key=lambda each: each.second_difference)
context = pair.contexts[0]
print(pair.latents, "".join(context.tokens[: context.peak + 1])[-80:].replace("\n", " "))

x = model.activations(text, dictionary.hookpoints.names)
codes = dictionary.encode(x.flatten(0, 1)).dense().unflatten(0, text.shape)
both = codes[:, 1:-1, list(pair.latents)].amin(dim=-1)
row, position = divmod(int(both.argmax()), both.shape[1])
position += 1
prompt = text[row]
print(f"sequence {row}, position {position}: both are active, {both.max():.2f} at least")

# %% [markdown]
# ## What the model says
#
# `language_model_game` runs the model with the output of this block's MLP at this position replaced
# by what a set of latents makes of it; everything behind it is the model's own. Its players are the
# active latents, its value the loss of the next token.

# %%
game = language_model_game(model, dictionary, prompt, position, BLOCK)
print(game.name)
players = game.players.tolist()
a, b = (players.index(latent) for latent in pair.latents)


def value(*absent: int) -> float:
    """The loss with some players absent."""
    present = torch.ones(1, len(players), dtype=torch.bool)
    present[0, list(absent)] = False
    return float(game.value(present))


alone = value(a) - value(), value(b) - value()
together = value(a, b) - value()
print(f"without A {alone[0]:+.4f} nats, without B {alone[1]:+.4f}, sum {sum(alone):+.4f}")
print(f"without both {together:+.4f}: the sum is off by {together - sum(alone):+.4f}")

# %% [markdown]
# That difference is what an attribution graph cannot draw: it belongs to neither edge.
#
# ## All pairs at once
#
# The Shapley–Taylor index of order two shares the value of all players out to latents and to
# pairs. What it gives to pairs is what no sum of edges has.

# %%
indices = shapley_taylor(game)
strongest = indices.matrix.abs().triu(1).flatten().topk(5)
for size, at in zip(strongest.values.tolist(), strongest.indices.tolist(), strict=True):
    i, j = divmod(at, len(players))
    print(f"latents {players[i]} and {players[j]}: {size:.4f} nats")

# %% [markdown]
# Such pairs are where to add a node of their own to the graph, or where to train the dictionary
# with the penalty so that they part ([the penalty in SAELens](saelens-penalty.md)). For the whole
# model, block by block: `crossproof attribute` ([attribution](../attribution.md)).
