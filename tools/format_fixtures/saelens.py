"""SAELens: every architecture that it trains, and one that batchtopk becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tools.format_fixtures.drawing import TOKENS, WIDTH, D, K, draw, fresh, randomise, record

RESID, MID, NORMALISED = (
    "blocks.1.hook_resid_pre",
    "blocks.0.hook_resid_mid",
    "blocks.1.ln2.hook_normalized",
)


def saelens(root: Path) -> None:
    """Trained dictionaries of every architecture, and one that batchtopk becomes."""
    x = draw(TOKENS, D, seed=1)
    for name, sae in (_saes() | _transcoders()).items():
        folder = fresh(root / f"saelens-{name}")
        randomise(sae, 2)
        sae.save_model(folder / "dictionary")
        record(folder, x, sae.encode(x), sae(x))
    _batchtopk(root, x)


def _config(kind: Any, hook: str, out: str | None = None, **more: Any) -> Any:
    from sae_lens.saes.sae import SAEMetadata

    names = {"hook_name": hook} | ({"hook_name_out": out} if out else {})
    metadata = SAEMetadata(model_name="tiny", **names)
    return kind(d_in=D, d_sae=WIDTH, metadata=metadata, **more)


def _saes() -> dict[str, Any]:
    import sae_lens

    return {
        "standard": sae_lens.StandardSAE(_config(sae_lens.StandardSAEConfig, RESID)),
        "topk": sae_lens.TopKSAE(
            _config(sae_lens.TopKSAEConfig, MID, k=K, rescale_acts_by_decoder_norm=True)
        ),
        "jumprelu": sae_lens.JumpReLUSAE(
            _config(sae_lens.JumpReLUSAEConfig, NORMALISED, apply_b_dec_to_input=False)
        ),
        "abstopk": sae_lens.AbsTopKSAE(_config(sae_lens.AbsTopKSAEConfig, MID, k=K)),
        "layer_norm": sae_lens.TopKSAE(
            _config(sae_lens.TopKSAEConfig, MID, k=K, normalize_activations="layer_norm")
        ),
        "gated": sae_lens.GatedSAE(_config(sae_lens.GatedSAEConfig, "blocks.0.hook_mlp_out")),
    }


def _transcoders() -> dict[str, Any]:
    import sae_lens
    from sae_lens.saes import transcoder

    raw = {"d_out": D, "apply_b_dec_to_input": False}
    out = "blocks.1.hook_mlp_out"
    return {
        "transcoder": sae_lens.Transcoder(
            _config(transcoder.TranscoderConfig, NORMALISED, out, **raw)
        ),
        "skip_transcoder": sae_lens.SkipTranscoder(
            _config(transcoder.SkipTranscoderConfig, MID, "blocks.0.hook_mlp_out", **raw)
        ),
        "jumprelu_transcoder": sae_lens.JumpReLUTranscoder(
            _config(transcoder.JumpReLUTranscoderConfig, NORMALISED, out, **raw)
        ),
    }


def _batchtopk(root: Path, x: Tensor) -> None:
    """As it is saved for inference, a JumpReLU, and as its training saves it, never folded."""
    import sae_lens

    folder = fresh(root / "saelens-batchtopk")
    _training().save_inference_model(folder / "dictionary")
    loaded = sae_lens.SAE.load_from_disk(folder / "dictionary")
    code = loaded.encode(x)
    record(folder, x, code, loaded.decode(code))

    folder = fresh(root / "saelens-batchtopk-training")  # the same function
    _training().save_model(folder / "dictionary")
    record(folder, x, code, loaded.decode(code))


def _training() -> Any:
    import sae_lens

    made = sae_lens.BatchTopKTrainingSAE(
        _config(sae_lens.BatchTopKTrainingSAEConfig, RESID, k=K, rescale_acts_by_decoder_norm=True)
    )
    randomise(made, 3)
    made.topk_threshold = torch.tensor(0.9, dtype=torch.double)
    return made
