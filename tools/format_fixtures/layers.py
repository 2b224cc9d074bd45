"""circuit-tracer and Llamascopium, which save a set of layers or what writes across them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tools.format_fixtures.drawing import (
    LAYERS,
    TOKENS,
    WIDTH,
    D,
    K,
    draw,
    fresh,
    randomise,
    record,
)


def circuit_tracer(root: Path) -> None:
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
    from circuit_tracer.transcoder.single_layer_transcoder import (
        SingleLayerTranscoder,
        TranscoderSet,
    )

    x = draw(LAYERS, TOKENS, D, seed=4)
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    cpu = torch.device("cpu")
    for skip in (False, True):  # with a skip, some thresholds are negative too
        folder = fresh(root / f"circuit_tracer-plt{'_skip' if skip else ''}")
        how = {"device": cpu, "dtype": torch.float32, "skip_connection": skip}
        layers = {
            i: SingleLayerTranscoder(D, WIDTH, JumpReLU(torch.ones(WIDTH)), i, **how)
            for i in range(LAYERS)
        }
        for i, layer in layers.items():
            randomise(layer, 6 + i)
            if skip:
                layer.activation_function.threshold.data -= 0.6
        plt = TranscoderSet(layers, **hooks)
        plt.to_safetensors(str(folder / "dictionary"))
        written = {"model_name": "tiny", "model_kind": "transcoder_set", **hooks}
        (folder / "dictionary" / "config.yaml").write_text(yaml.safe_dump(written))
        code = plt.encode(x)
        record(folder, x, code, plt.decode(code, x))

    folder = fresh(root / "circuit_tracer-clt")
    clt = CrossLayerTranscoder(
        LAYERS, WIDTH, D, "jump_relu", lazy_decoder=False, device=cpu, dtype=torch.float32, **hooks
    )
    randomise(clt, 8)
    (folder / "dictionary").mkdir()
    clt.to_safetensors(str(folder / "dictionary"))
    written = {"model_name": "tiny", "model_kind": "cross_layer_transcoder", **hooks}
    (folder / "dictionary" / "config.yaml").write_text(yaml.safe_dump(written))
    code = clt.encode(x)
    record(folder, x, code, clt.decode(code.to_sparse()))


def gemma_scope(root: Path) -> None:
    """Its files have no library of their own; circuit-tracer reads them."""
    from circuit_tracer.transcoder.single_layer_transcoder import load_gemma_scope_transcoder

    x = draw(LAYERS, TOKENS, D, seed=4)
    folder = fresh(root / "gemma_scope-transcoder")
    target = folder / "dictionary" / "layer_1"
    target.mkdir(parents=True)
    shapes = {"W_enc": (D, WIDTH), "W_dec": (WIDTH, D), "b_enc": (WIDTH,), "b_dec": (D,)}
    tensors = {n: 0.4 * draw(*shape, seed=9 + i) for i, (n, shape) in enumerate(shapes.items())}
    tensors["threshold"] = draw(WIDTH, seed=20).abs()
    arrays: dict[str, Any] = {name: t.numpy() for name, t in tensors.items()}
    np.savez(target / "params.npz", **arrays)
    gemma = load_gemma_scope_transcoder(str(target / "params.npz"), 1, device=torch.device("cpu"))
    code = gemma.encode(x[0])
    record(folder, x[0], code, gemma.decode(code))


def llamascopium(root: Path) -> None:
    from llamascopium.models.clt import CLTConfig, CrossLayerTranscoder
    from llamascopium.models.crosscoder import Crosscoder, CrosscoderConfig
    from llamascopium.models.sae import SAEConfig, SparseAutoEncoder

    mids, outs = (
        [f"blocks.{layer}.{hook}" for layer in range(LAYERS)]
        for hook in ("hook_resid_mid", "mlp.hook_out")
    )
    sizes = {"d_model": D, "expansion_factor": WIDTH / D, "top_k": K}
    kinds = {
        "sae": (SparseAutoEncoder, SAEConfig, "jumprelu", mids[:1], mids[:1]),
        "transcoder": (SparseAutoEncoder, SAEConfig, "topk", mids[:1], outs[:1]),
        "crosscoder": (Crosscoder, CrosscoderConfig, "jumprelu", mids, mids),
        "clt": (CrossLayerTranscoder, CLTConfig, "jumprelu", mids, outs),
        "clt_topk": (CrossLayerTranscoder, CLTConfig, "topk", mids, outs),
    }
    for kind, (model, config, act, reads, writes) in kinds.items():
        hooks: dict[str, Any] = {"hook_point_in": reads[0], "hook_point_out": writes[0]}
        if kind == "crosscoder":
            hooks = {"hook_points": reads}
        elif kind.startswith("clt"):
            hooks = {"hook_points_in": reads, "hook_points_out": writes}
        made = model(config(act_fn=act, **sizes, **hooks))
        randomise(made, 10)
        names = [*reads, *(hook for hook in writes if hook not in reads)]
        made.set_dataset_average_activation_norm({n: 2.5 + i for i, n in enumerate(names)})
        folder = fresh(root / f"llamascopium-{kind}")
        made.save_pretrained(folder / "dictionary")
        made.cfg.save_hyperparameters(folder / "dictionary")
        if kind == "transcoder":  # its other form of file
            (folder / "dictionary" / "sae_weights.safetensors").unlink()
            made.save_checkpoint(folder / "dictionary" / "sae_weights.pt")
        x = draw(len(reads), TOKENS, D, seed=5)
        batch = dict(zip(reads, x, strict=True))
        scaled, factors = made.normalize_activations(batch, return_scale_factor=True)
        stacked, *_ = made.prepare_input(scaled)
        code = made.encode(stacked)
        out = made.decode(code, batch_first=True) if kind.startswith("clt") else made.decode(code)
        whole = factors | {n: made.compute_norm_factor(x, n) for n in names}
        parts = out.unbind(1) if out.dim() == 3 else [out]
        written = torch.stack([p / whole[n] for p, n in zip(parts, writes, strict=True)])
        if kind == "transcoder":  # crossproof's latents are what is compared: times this norm
            code = code * made.decoder_norm()
        if kind == "clt_topk":
            code = code * made.decoder_norm_per_feature()
        code = code.transpose(0, 1) if code.dim() == 3 else code  # [layers or places, T, F]
        record(folder, x, code, written)
