"""sparsify and dictionary_learning, which save dictionaries of one hookpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from tools.format_fixtures.drawing import TOKENS, WIDTH, D, K, draw, fresh, randomise, record


def sparsify(root: Path) -> None:
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # no GPU is needed to make a fixture
    from sparsify import SparseCoder, SparseCoderConfig

    x = draw(TOKENS, D, seed=2)
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "sae": ("layers.1", {}),
        "groupmax": ("layers.0.mlp", {"activation": "groupmax"}),
        "transcoder": ("layers.1.mlp", {"transcode": True}),
        "skip": ("layers.0.mlp", {"transcode": True, "skip_connection": True}),
    }
    for name, (hook, more) in kinds.items():
        folder = fresh(root / f"sparsify-{name}")
        coder = SparseCoder(D, SparseCoderConfig(num_latents=WIDTH, k=K, **more))
        randomise(coder, 4)
        coder.save_to_disk(folder / "dictionary" / hook)
        found = coder.encode(x)
        code = torch.zeros(TOKENS, WIDTH).scatter(1, found.top_indices, found.top_acts)
        out = coder.decode(found.top_acts, found.top_indices)
        skip = 0 if coder.W_skip is None else x @ coder.W_skip.mT
        record(folder, x, code, out + skip)


def dictionary_learning(root: Path) -> None:
    from dictionary_learning import dictionary
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    x = draw(TOKENS, D, seed=3)
    for dictionary_class, sizes in [
        (dictionary.AutoEncoder, (D, WIDTH)),
        (dictionary.AutoEncoderNew, (D, WIDTH)),
        (dictionary.GatedAutoEncoder, (D, WIDTH)),
        (dictionary.JumpReluAutoEncoder, (D, WIDTH)),
        (AutoEncoderTopK, (D, WIDTH, K)),
        (BatchTopKSAE, (D, WIDTH, K)),
        (MatryoshkaBatchTopKSAE, (D, WIDTH, K, [8, 16])),
    ]:
        name = dictionary_class.__name__
        folder = fresh(root / f"dictionary_learning-{name}")
        ae = dictionary_class(*sizes)
        randomise(ae, 5)
        if "threshold" in dict(ae.named_buffers()):
            ae.threshold.fill_(0.5)
        target = folder / "dictionary"
        target.mkdir()
        torch.save(ae.state_dict(), target / "ae.pt")
        trainer = {
            "dict_class": name,
            "activation_dim": D,
            "dict_size": WIDTH,
            "k": K,
            "layer": 1,
            "lm_name": "tiny",
            "submodule_name": "resid_post_layer_1",
        }
        (target / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
        code = ae.encode(x)
        record(folder, x, code, ae.decode(code))
