# %% [markdown]
# # A certificate, made and verified
#
# A *certificate* is a file that says how good a network is, and that somebody who trusts neither
# you nor crossproof can check: a verifier of plain arithmetic (numpy alone) derives the bound again
# from the weights and the proof. Here we train a small network, prove what its accuracy is at least
# on inputs made of sparse features, and then try to cheat.

# %%
import json
from pathlib import Path

import torch

import crossproof
from crossproof.proof.bounds import Network, SparseDomain

torch.manual_seed(0)

# %% [markdown]
# ## A network and what it is about
#
# Twelve features in ten dimensions, two of them active at a time, each with a strength from ¼ to 1.
# A linear rule names the class. The network sees only the sum of the features' vectors.

# %%
features, width, classes = 12, 10, 4
decoder = torch.nn.functional.normalize(torch.randn(features, width, dtype=torch.float64), dim=1)
domain = SparseDomain(
    decoder=decoder.float().double(),
    bias=torch.zeros(width, dtype=torch.float64),
    low=torch.full((features,), 0.25, dtype=torch.float64),
    high=torch.ones(features, dtype=torch.float64),
    active_sets=torch.combinations(torch.arange(features), 2),
    readout=torch.randn(features, classes, dtype=torch.float64).float().double(),
)
net = torch.nn.Sequential(torch.nn.Linear(width, 48), torch.nn.ReLU(), torch.nn.Linear(48, classes))
adam = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.1)
for _ in range(1500):
    activations, labels = domain.sample(512)
    loss = torch.nn.functional.cross_entropy(net(domain.inputs(activations).float()), labels)
    adam.zero_grad()
    loss.backward()
    adam.step()
print(f"loss {loss.item():.3f}")

# %% [markdown]
# ## Prove
#
# `prove` searches for a bound on a thousand points, writes a folder, and verifies it at once. The
# proof may use the features: a neuron's output is bounded by the latent that dominates it, and by
# how much the others can add ([the theorem](../theory/dominant.md)).

# %%
network = Network.of_module(net)
result = crossproof.prove(
    network, "certificate", crossproof.ProverOptions(points=1000), domain=domain
)
print(result)

# %% [markdown]
# Read three numbers beside each other: what is *certified*, what is *true* on the same points, and
# what guessing would give. Certified is never more than true; how much less says how much the
# features interact.
#
# ## Verify
#
# Anybody can. The folder is two files; nothing in it is believed.

# %%
print(sorted(path.name for path in Path("certificate").iterdir()))
verdict = crossproof.verify("certificate")
print(verdict.verdict)

# %% [markdown]
# Is it about *your* network, and not about an easier one? Pin its hash.

# %%
pinned = crossproof.verify("certificate", network=network.hash)
print("holds, about this network:", pinned.holds)

# %% [markdown]
# ## Cheat
#
# Claim a little more than was proven:

# %%
path = Path("certificate/certificate.json")
honest = path.read_text()
lie = json.loads(honest)
lie["claim"]["accuracy"] = min(1.0, lie["claim"]["accuracy"] + 0.01)
path.write_text(json.dumps(lie))
print("holds:", crossproof.verify("certificate").holds)
path.write_text(honest)

# %% [markdown]
# Or pass it off as a certificate of another network:

# %%
with torch.no_grad():
    net[2].bias[0] += 0.5
other = Network.of_module(net)
try:
    crossproof.verify("certificate", network=other.hash)
except crossproof.CrossproofError as error:
    print(error.code, "-", error)

# %% [markdown]
# Certificates of networks that add modulo p, of an attention layer, and of language models (with
# stated confidence, or at listed contexts) are made by `crossproof prove` alike:
# [certificates](../certificates.md). What they do not say:
# [what crossproof proves](../theory/what-crossproof-proves.md).
