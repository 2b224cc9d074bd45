# %% [markdown]
# # Your own model and text
#
# Any causal language model that `transformers` loads will do: a folder, an id of the Hub, a GGUF
# file, or a model that is already in memory. This page makes a folder and a text file first, so
# that it runs anywhere. With yours at hand, begin at *Load*.

# %%
from pathlib import Path

import torch
import transformers

import crossproof

torch.manual_seed(0)
tokenizer = crossproof.load_model("bundled").tokenizer
config = transformers.LlamaConfig(
    vocab_size=len(tokenizer),
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=tokenizer.bos_token_id,
    eos_token_id=tokenizer.eos_token_id,
)
transformers.LlamaForCausalLM(config).save_pretrained("my-model")
tokenizer.save_pretrained("my-model")

rows = crossproof.read_sequences("bundled", crossproof.load_model("bundled"), 256, split="train")
stories = [tokenizer.decode(row, skip_special_tokens=True) for row in rows[:400].tolist()]
Path("my-text.txt").write_text("<|endoftext|>".join(stories), encoding="utf-8")
print(sorted(path.name for path in Path("my-model").iterdir()))

# %% [markdown]
# (Its weights are random: nothing below says anything about language. The steps are the same.)
#
# ## Load
#
# crossproof finds out by itself where the blocks, MLPs and norms are. What cannot be read exactly
# is refused in a sentence, never guessed.

# %%
model = crossproof.load_model("./my-model")
print(f"{model.name}: {model.n_blocks} blocks, width {model.d_model}, context {model.context}")
print("\n".join(model.available_hookpoints()[:8]), "...")

# %% [markdown]
# MLPs here are *gated*, as in Llama, Gemma or Qwen: a neuron's output is a product of two sums
# over latents, and the measure knows it ([theory](../theory/gated.md)).
#
# ## Text
#
# `read_sequences` turns a file into rows of tokens. `<|endoftext|>` parts documents in a text file;
# .jsonl, .csv, .parquet and packed tokens work alike ([texts](../texts.md)). The last twentieth is
# held out, and training never sees it.

# %%
train = crossproof.read_sequences("my-text.txt", model, context=64, split="train")
held_out = crossproof.read_sequences("my-text.txt", model, context=64, split="held_out")
print(len(train), "rows to train on,", len(held_out), "held out, of", train.shape[1], "tokens")

# %% [markdown]
# ## Where should the dictionary read?
#
# * Everything at once: leave `hookpoints` out, and one code explains all blocks.
# * One block: `hookpoints=("blocks.1.*",)`, a good start on a large model.
# * One place of the residual stream, a plain SAE: `hookpoints=("blocks.1.hook_resid_pre",)`; the
#   MLP behind it is the one in which latents must not meet.
# * From the MLP's input to its output, a transcoder: `read=(...)`, `write=(...)`.
#
# We take the SAE. `baseline=False` saves the time of the unpenalised twin.

# %%
settings = crossproof.RunConfig(
    model="./my-model",
    text="my-text.txt",
    hookpoints=("blocks.1.hook_resid_pre",),
    crosscoder=crossproof.CrosscoderConfig(n_latents=256, k=8),
    objective=crossproof.Objective(keep_largest=200.0),
    baseline=False,
    context=64,
    batch_tokens=512,
    steps=120,
    log_every=40,
)
training = crossproof.train(
    settings,
    out="runs/mine",
    report=lambda step: print(f"step {step.step} of {step.steps}, {step.seconds_left:.0f} s left"),
)
sae = training.crosscoder("penalised")
print(sae.hookpoints.names, sae.config.n_latents, "latents")

# %% [markdown]
# ## Figures
#
# For a dictionary of the stream, Φ of all latents is 1 with the exact rest of the stream, whatever
# the latents are; the rows with the *mean rest* say what they explain themselves. (This model's
# weights are random, so its loss hardly depends on anything: Φ divides by nearly nothing, and the
# intervals say so. Read FVU and L0.)

# %%
print(crossproof.evaluate(model, sae, held_out[:16]))

# %% [markdown]
# The run folder is complete: `crossproof measure runs/mine`, `crossproof evaluate runs/mine` and
# the other commands find model and text in it by themselves. The crosscoder alone is a folder too.

# %%
print(sorted(str(path) for path in Path("runs/mine/penalised/crosscoder").iterdir()))
again = crossproof.Crosscoder.from_pretrained("runs/mine/penalised/crosscoder")
print(again.provenance.model, again.config == sae.config)

# %% [markdown]
# The same from a shell:
#
# ```
# crossproof train --model ./my-model --text my-text.txt --out runs/mine \
#     --hookpoints blocks.1.hook_resid_pre --n-latents 256 --k 8 --no-baseline
# ```
#
# Next: [choosing an objective](../guide/choosing-an-objective.md), [at scale](../guide/scale.md),
# [on a GPU](../guide/gpu.md).
