"""What other libraries compute with the dictionaries that crossproof exported for them.

    python tools/peers.py /somewhere/peers
    /somewhere/peers/bin/python tools/peer_reads.py tests/data/exports

Runs in the environment that `tools/peers.py` makes, which lacks crossproof. Every folder NAME
below the one given holds `dictionary/` and `x.safetensors`. What is written beside them:
`expected.safetensors`, with the library's code and reconstruction, and `resaved.json`, with the
SHA-256 of every file that the library itself writes of the dictionary that it has read (a pickle
excepted, whose bytes are PyTorch's). NAME begins with the library.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

Read = Callable[[Path, Tensor, Path], tuple[Tensor, Tensor]]
"""From an exported folder and x [reads, T, D] to code and reconstruction; what has been read is
saved again into the last folder."""


def saelens(folder: Path, x: Tensor, again: Path) -> tuple[Tensor, Tensor]:
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder)
    sae.save_model(again)
    return sae.encode(x[0]), sae(x[0])


def dictionary_learning(folder: Path, x: Tensor, again: Path) -> tuple[Tensor, Tensor]:
    from dictionary_learning.utils import load_dictionary

    dictionary, _ = load_dictionary(str(folder), "cpu")
    return dictionary.encode(x[0]), dictionary(x[0])


def sparsify(folder: Path, x: Tensor, again: Path) -> tuple[Tensor, Tensor]:
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # no GPU is needed here
    from sparsify import SparseCoder

    (module,) = folder.iterdir()
    coder = SparseCoder.load_from_disk(module)
    coder.save_to_disk(again / module.name)
    top = coder.encode(x[0])
    code = torch.zeros(len(x[0]), coder.num_latents).scatter(1, top.top_indices, top.top_acts)
    out = coder.decode(top.top_acts, top.top_indices)
    return code, out if coder.W_skip is None else out + x[0] @ coder.W_skip.mT


def circuit_tracer(folder: Path, x: Tensor, again: Path) -> tuple[Tensor, Tensor]:
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set

    config = yaml.safe_load((folder / "config.yaml").read_text())
    hooks = {name: config[name] for name in ("feature_input_hook", "feature_output_hook")}
    how = {"device": torch.device("cpu"), "dtype": torch.float32, "scan": "", **hooks}
    lazy = {"lazy_encoder": False, "lazy_decoder": False}
    if config["model_kind"] == "cross_layer_transcoder":
        clt = load_clt(str(folder), **how, **lazy)
        clt.to_safetensors(str(again))
        code = clt.encode(x)
        return code, clt.decode(code.to_sparse())
    paths = {i: str(folder / f"layer_{i}.safetensors") for i in range(len(x))}
    layers = load_transcoder_set(paths, **how, **lazy)
    layers.to_safetensors(str(again))
    code = layers.encode(x)
    return code, layers.decode(code, x)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below, by its path."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


READERS: dict[str, Read] = {
    "saelens": saelens,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
    "circuit-tracer": circuit_tracer,
}


@torch.no_grad()
def main() -> None:
    for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        read = READERS[folder.name.rpartition("-")[0]]
        x = load_file(folder / "x.safetensors")["x"]
        with tempfile.TemporaryDirectory() as again:
            code, reconstruction = read(folder / "dictionary", x, Path(again))
            (folder / "resaved.json").write_text(json.dumps(digests(Path(again)), indent=1) + "\n")
        tensors = {"code": code, "reconstruction": reconstruction}
        kept = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
        save_file(kept, folder / "expected.safetensors")
        print(f"{folder.name}: read")


if __name__ == "__main__":
    main()
