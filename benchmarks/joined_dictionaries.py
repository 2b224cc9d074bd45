"""What measuring joined dictionaries costs against measuring each apart (docs/decisions/0031).

python benchmarks/joined_dictionaries.py

Random TopK SAEs at every MLP's input of the bundled model, imported from SAELens's layout.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import crossproof

WIDTH, K, SEQUENCES = 1024, 16, 8


def save(folder: Path, hook: str, d_model: int, generator: torch.Generator) -> None:
    """One SAE with unit decoder vectors and tied encoders."""
    folder.mkdir()
    rows = torch.nn.functional.normalize(torch.randn(WIDTH, d_model, generator=generator))
    biases = {"b_enc": torch.zeros(WIDTH), "b_dec": torch.zeros(d_model)}
    weights = {"W_enc": rows.T.contiguous(), "W_dec": rows}
    save_file(weights | biases, folder / "sae_weights.safetensors")
    config = {"architecture": "topk", "k": K, "d_in": d_model, "d_sae": WIDTH}
    (folder / "cfg.json").write_text(json.dumps(config | {"metadata": {"hook_name": hook}}))


def main() -> None:
    torch.set_num_threads(1)
    model = crossproof.load_model("bundled")
    sequences = crossproof.read_sequences("bundled", model, 256, "held_out")[:SEQUENCES]
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as root:
        for block in range(model.n_blocks):
            hook = f"blocks.{block}.mlp.hook_in"
            save(Path(root) / f"layer_{block}", hook, model.d_model, generator)
        each = crossproof.import_dictionaries(root, model)
        joined, _ = crossproof.import_dictionary(root, model)
    kinds = {"apart": [crosscoder for crosscoder, _ in each.values()], "joined": [joined]}
    for name, crosscoders in kinds.items():
        crossproof.measure(model, crosscoders[0], sequences[:1])  # compiles
        began = time.process_time()
        found = [crossproof.measure(model, c, sequences).interactions for c in crosscoders]
        seconds, pairs = time.process_time() - began, sum(len(f.pairs) for f in found)
        print(f"{name}: {seconds:.2f} s of CPU, {pairs:,} pairs")


if __name__ == "__main__":
    main()
