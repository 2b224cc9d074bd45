"""Dictionaries saved by the libraries themselves, for tests of the importers.

Needs what the package does not: SAELens, sparsify, dictionary_learning, circuit-tracer and
Llamascopium, each imported only when its turn comes. In the environment of `tools/peers.py`:

    /somewhere/peers/bin/python tools/make_format_fixtures.py tests/data/formats

Every fixture is a folder: `dictionary/` as the library wrote it, and `expected.safetensors` with a
batch `x`, its `code` and its `reconstruction` as the library computed them. Weights, biases and
thresholds are random, from a seed; nothing is tied, zero or normalised.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

D, WIDTH, TOKENS, LAYERS = 16, 24, 12, 2
K = 4


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def randomise(module: Any, seed: int = 0) -> None:
    """Random parameters; thresholds positive, and low enough that latents fire."""
    for i, (name, parameter) in enumerate(sorted(module.named_parameters())):
        values = 0.4 * draw(*parameter.shape, seed=100 * seed + i)
        parameter.copy_(values.abs() + 0.1 if "threshold" in name else values)


def record(folder: Path, x: Tensor, code: Tensor, reconstruction: Tensor) -> None:
    shares = (code != 0).float().mean()
    assert 0.05 < shares < 0.95, f"{folder.name}: {shares:.0%} of the latents are active"
    tensors = {"x": x, "code": code, "reconstruction": reconstruction}
    save_file(
        {name: t.detach().float().contiguous() for name, t in tensors.items()},
        folder / "expected.safetensors",
    )


def saelens(root: Path) -> None:
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    x = draw(TOKENS, D, seed=1)

    def config(kind: Any, hook: str, out: str | None = None, **more: Any) -> Any:
        names = {"hook_name": hook} | ({"hook_name_out": out} if out else {})
        metadata = SAEMetadata(model_name="tiny", **names)
        return kind(d_in=D, d_sae=WIDTH, metadata=metadata, **more)

    from sae_lens.saes import transcoder

    resid, mid, normalised = (
        "blocks.1.hook_resid_pre",
        "blocks.0.hook_resid_mid",
        "blocks.1.ln2.hook_normalized",
    )
    dictionaries = {
        "standard": sae_lens.StandardSAE(config(sae_lens.StandardSAEConfig, resid)),
        "topk": sae_lens.TopKSAE(
            config(sae_lens.TopKSAEConfig, mid, k=K, rescale_acts_by_decoder_norm=True)
        ),
        "jumprelu": sae_lens.JumpReLUSAE(
            config(sae_lens.JumpReLUSAEConfig, normalised, apply_b_dec_to_input=False)
        ),
        "abstopk": sae_lens.AbsTopKSAE(config(sae_lens.AbsTopKSAEConfig, mid, k=K)),
        "layer_norm": sae_lens.TopKSAE(
            config(sae_lens.TopKSAEConfig, mid, k=K, normalize_activations="layer_norm")
        ),
        "gated": sae_lens.GatedSAE(config(sae_lens.GatedSAEConfig, "blocks.0.hook_mlp_out")),
        "transcoder": sae_lens.Transcoder(
            config(
                transcoder.TranscoderConfig,
                normalised,
                "blocks.1.hook_mlp_out",
                d_out=D,
                apply_b_dec_to_input=False,
            )
        ),
        "skip_transcoder": sae_lens.SkipTranscoder(
            config(
                transcoder.SkipTranscoderConfig,
                mid,
                "blocks.0.hook_mlp_out",
                d_out=D,
                apply_b_dec_to_input=False,
            )
        ),
        "jumprelu_transcoder": sae_lens.JumpReLUTranscoder(
            config(
                transcoder.JumpReLUTranscoderConfig,
                normalised,
                "blocks.1.hook_mlp_out",
                d_out=D,
                apply_b_dec_to_input=False,
            )
        ),
    }
    for name, sae in dictionaries.items():
        folder = fresh(root / f"saelens-{name}")
        randomise(sae, 2)
        sae.save_model(folder / "dictionary")
        record(folder, x, sae.encode(x), sae(x))

    folder = fresh(root / "saelens-batchtopk")
    training = sae_lens.BatchTopKTrainingSAE(
        config(sae_lens.BatchTopKTrainingSAEConfig, resid, k=K, rescale_acts_by_decoder_norm=True)
    )
    randomise(training, 3)
    training.topk_threshold = torch.tensor(0.9, dtype=torch.double)
    training.save_inference_model(folder / "dictionary")
    loaded = sae_lens.SAE.load_from_disk(folder / "dictionary")
    code = loaded.encode(x)
    record(folder, x, code, loaded.decode(code))

    folder = fresh(root / "saelens-batchtopk-training")  # the same function, never folded
    training = sae_lens.BatchTopKTrainingSAE(
        config(sae_lens.BatchTopKTrainingSAEConfig, resid, k=K, rescale_acts_by_decoder_norm=True)
    )
    randomise(training, 3)
    training.topk_threshold = torch.tensor(0.9, dtype=torch.double)
    training.save_model(folder / "dictionary")
    record(folder, x, code, loaded.decode(code))


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
    import json

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


def circuit_tracer(root: Path) -> None:
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
    from circuit_tracer.transcoder.single_layer_transcoder import (
        SingleLayerTranscoder,
        TranscoderSet,
        load_gemma_scope_transcoder,
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

    # Gemma Scope's files have no library of their own; circuit-tracer reads them.
    folder = fresh(root / "gemma_scope-transcoder")
    target = folder / "dictionary" / "layer_1"
    target.mkdir(parents=True)
    shapes = {"W_enc": (D, WIDTH), "W_dec": (WIDTH, D), "b_enc": (WIDTH,), "b_dec": (D,)}
    tensors = {n: 0.4 * draw(*shape, seed=9 + i) for i, (n, shape) in enumerate(shapes.items())}
    tensors["threshold"] = draw(WIDTH, seed=20).abs()
    arrays: dict[str, Any] = {name: t.numpy() for name, t in tensors.items()}
    np.savez(target / "params.npz", **arrays)
    gemma = load_gemma_scope_transcoder(str(target / "params.npz"), 1, device=cpu)
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


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


MAKERS: tuple[Callable[[Path], None], ...] = (
    saelens,
    sparsify,
    dictionary_learning,
    circuit_tracer,
    llamascopium,
)


def main() -> None:
    root = Path(sys.argv[1])
    chosen = sys.argv[2:]
    for maker in MAKERS:
        if not chosen or maker.__name__ in chosen:
            maker(root)
            print(f"{maker.__name__}: done")


if __name__ == "__main__":
    main()
