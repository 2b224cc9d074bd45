"""Saves in each library's layout, with its forward pass written out from its definition."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D, F, P, K = 16, 20, 3, 4
PLACES = ("blocks.0.hook_resid_mid", "blocks.0.mlp.hook_in", "blocks.1.hook_resid_post")
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""[T, P, D] activations to codes [T, F] and reconstructions [T, P, D], in float64."""


class Draws(dict[str, Tensor]):
    """Random tensors by name and shape; float32, as they are saved."""

    def __init__(self, seed: int, **shapes: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(seed)
        super().__init__(
            {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        )

    def __getattr__(self, name: str) -> Tensor:
        return self[name].double()


@dataclass(frozen=True)
class Layout:
    save: Callable[[Path, int], Forward]
    hookpoints: tuple[str, ...] | None
    places: tuple[str, ...]


def json_to(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def saelens_cfg(folder: Path, kind: str, hook: str, **more: Any) -> None:
    base = {"architecture": kind, "d_in": D, "d_sae": F, "apply_b_dec_to_input": True}
    base |= {"normalize_activations": "none", "metadata": {"hook_name": hook}}
    json_to(folder / "cfg.json", base | more)


def sae_draws(seed: int) -> Draws:
    shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
    return Draws(seed, **shapes)


def top(pre: Tensor, k: int) -> Tensor:
    """relu of the k largest of each row."""
    kept = torch.zeros_like(pre)
    for row, values in zip(kept, pre, strict=True):
        for index in values.argsort(descending=True)[:k]:
            row[index] = max(float(values[index]), 0.0)
    return kept


def saelens_topk_before_version_6(folder: Path, seed: int) -> Forward:
    w = sae_draws(seed)
    save_file(w | {"scaling_factor": torch.ones(F)}, folder / "sae_weights.safetensors")
    json_to(
        folder / "cfg.json",
        {
            "d_in": D,
            "d_sae": F,
            "hook_point": PLACES[0],
            "hook_point_head_index": None,
            "activation_fn_str": "topk",
            "activation_fn_kwargs": {"k": K},
            "normalize_activations": False,
            "finetuning_scaling_factor": False,
        },
    )

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        centred = x[:, 0] - x[:, 0].mean(1, keepdim=True)  # TransformerLens's default of the time
        code = top((centred - w.b_dec) @ w.W_enc + w.b_enc, K)
        return code, (code @ w.W_dec + w.b_dec)[:, None]

    return forward


def saelens_scaled_activations(folder: Path, seed: int) -> Forward:
    w, scale = sae_draws(seed), 0.37
    save_file(w, folder / "sae_weights.safetensors")
    saelens_cfg(folder, "standard", PLACES[0], normalize_activations="expected_average_only_in")
    json_to(folder / "activation_scaler.json", {"scaling_factor": scale})

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        code = ((scale * x[:, 0] - w.b_dec) @ w.W_enc + w.b_enc).relu()
        return code, ((code @ w.W_dec + w.b_dec) / scale)[:, None]

    return forward


def saelens_topk_rescaled(folder: Path, seed: int) -> Forward:
    w = sae_draws(seed)
    save_file(w, folder / "sae_weights.safetensors")
    saelens_cfg(folder, "topk", PLACES[0], k=K, rescale_acts_by_decoder_norm=True)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        norm = w.W_dec.norm(dim=1)
        code = top(((x[:, 0] - w.b_dec) @ w.W_enc + w.b_enc) * norm, K)
        return code, ((code / norm) @ w.W_dec + w.b_dec)[:, None]

    return forward


def saelens_centred_stream(folder: Path, seed: int) -> Forward:
    w = sae_draws(seed)
    save_file(w, folder / "sae_weights.safetensors")
    kwargs = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    saelens_cfg(folder, "standard", PLACES[0], metadata={"hook_name": PLACES[0]} | kwargs)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        centred = x[:, 0] - x[:, 0].mean(1, keepdim=True)
        code = ((centred - w.b_dec) @ w.W_enc + w.b_enc).relu()
        return code, (code @ w.W_dec + w.b_dec)[:, None]

    return forward


def saelens_old_jumprelu_checkpoint(folder: Path, seed: int) -> Forward:
    w = sae_draws(seed) | Draws(seed + 50, log_threshold=(F,))
    save_file(w, folder / "sae_weights.safetensors")
    saelens_cfg(folder, "jumprelu", PLACES[0], apply_b_dec_to_input=False)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        pre = x[:, 0] @ w["W_enc"].double() + w["b_enc"].double()
        code = pre.relu() * (pre > w["log_threshold"].double().exp())
        return code, (code @ w["W_dec"].double() + w["b_dec"].double())[:, None]

    return forward


def saelens_normalised(kind: str) -> Callable[[Path, int], Forward]:
    """Tokens normalised by their own numbers; latents come out times the token's scale."""

    def save(folder: Path, seed: int) -> Forward:
        w = sae_draws(seed)
        save_file(w, folder / "sae_weights.safetensors")
        saelens_cfg(folder, "topk", PLACES[0], k=K, normalize_activations=kind)

        def forward(x: Tensor) -> tuple[Tensor, Tensor]:
            token = x[:, 0]
            mean = token.mean(1, keepdim=True) if kind == "layer_norm" else torch.zeros(1)
            size = token.std(1, keepdim=True)
            divisor = size + 1e-5
            if kind != "layer_norm":
                size = divisor = token.norm(dim=1, keepdim=True) / D**0.5
            code = top(((token - mean) / divisor - w.b_dec) @ w.W_enc + w.b_enc, K)
            out = (code @ w.W_dec + w.b_dec) * size + mean
            return code * size, out[:, None]

        return forward

    return save


def saelens_abstopk(folder: Path, seed: int) -> Forward:
    w = sae_draws(seed)
    save_file(w, folder / "sae_weights.safetensors")
    saelens_cfg(folder, "abstopk", PLACES[0], k=K)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        code = largest((x[:, 0] - w.b_dec) @ w.W_enc + w.b_enc, K)
        return code, (code @ w.W_dec + w.b_dec)[:, None]

    return forward


def largest(pre: Tensor, k: int) -> Tensor:
    """The k of each row that are largest in magnitude, with their signs."""
    kept = torch.zeros_like(pre)
    for row, values in zip(kept, pre, strict=True):
        for index in values.abs().argsort(descending=True)[:k]:
            row[index] = values[index]
    return kept


def saelens_skip_transcoder(folder: Path, seed: int) -> Forward:
    w = Draws(seed, W_skip=(D, D)) | sae_draws(seed + 1)
    save_file(w, folder / "sae_weights.safetensors")
    names = {"hook_name": MLP_0[0], "hook_name_out": MLP_0[1]}
    more = {"apply_b_dec_to_input": False, "metadata": names}
    saelens_cfg(folder, "skip_transcoder", PLACES[0], **more)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        wide = {name: tensor.double() for name, tensor in w.items()}
        code = (x[:, 0] @ wide["W_enc"] + wide["b_enc"]).relu()
        out = code @ wide["W_dec"] + wide["b_dec"] + x[:, 0] @ wide["W_skip"].T
        return code, torch.stack([torch.zeros_like(out), out], 1)

    return forward


def sparsify_signed_with_skip(folder: Path, seed: int) -> Forward:
    """The library's former `signed`: the largest magnitudes. Its skip is of the input itself."""
    shapes = {"encoder.weight": (F, D), "encoder.bias": (F,), "W_dec": (F, D), "b_dec": (D,)}
    w = Draws(seed, **shapes, W_skip=(D, D))
    target = folder / "layers.1"
    target.mkdir()
    save_file(w, target / "sae.safetensors")
    cfg = {"expansion_factor": F / D, "d_in": D, "k": K, "signed": True, "skip_connection": True}
    json_to(target / "cfg.json", cfg)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        pre = (x[:, 0] - w.b_dec) @ w["encoder.weight"].double().T + w["encoder.bias"].double()
        code = largest(pre, K)
        out = code @ w.W_dec + w.b_dec + x[:, 0] @ w.W_skip.T
        return code, out[:, None]

    return forward


def circuit_tracer(activation: str) -> Callable[[Path, int], Forward]:
    """Without ReLU: topk, and a JumpReLU whose thresholds may be negative. With a skip."""

    def save(folder: Path, seed: int) -> Forward:
        shapes = {"W_enc": (F, D), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
        w = Draws(seed, **shapes, W_skip=(D, D))
        w["b_enc"] -= 2.5 * (activation == "topk")  # so that some of the largest are negative
        threshold = Draws(seed + 50, threshold=(F,))["threshold"] - 0.3
        more = {"activation_function.threshold": threshold} if activation != "topk" else {}
        save_file(w | more, folder / "layer_0.safetensors")
        text = "model_kind: transcoder_set\nfeature_input_hook: hook_resid_mid\n"
        text += f"feature_output_hook: mlp.hook_out\nactivation: {activation}\nk: {K}\n"
        (folder / "config.yaml").write_text(text)

        def forward(x: Tensor) -> tuple[Tensor, Tensor]:
            pre = x[:, 0] @ w.W_enc.T + w.b_enc
            if activation == "topk":
                code = torch.zeros_like(pre)
                at = pre.topk(K, dim=1).indices
                code.scatter_(1, at, pre.gather(1, at))
            else:
                code = pre * (pre > threshold.double())
            out = code @ w.W_dec + w.b_dec + x[:, 0] @ w.W_skip.T
            return code, torch.stack([torch.zeros_like(out), out], 1)

        return forward

    return save


def gemma_scope_2_affine(folder: Path, seed: int) -> Forward:
    shapes = {"w_enc": (D, F), "w_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
    w = Draws(seed, **shapes, affine_skip_connection=(D, D))
    save_file(w, folder / "params.safetensors")
    json_to(folder / "config.json", {"architecture": "jump_relu", "affine_connection": True})

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        pre = x[:, 0] @ w.w_enc + w.b_enc
        code = pre.relu() * (pre > w["threshold"].double())
        out = code @ w.w_dec + w.b_dec + x[:, 0] @ w.affine_skip_connection
        return code, torch.stack([torch.zeros_like(out), out], 1)

    return forward


def llama_scope(folder: Path, seed: int) -> Forward:
    """A transcoder of the first series: averages of norms, one threshold of unscaled tokens.

    Its hyperparams.json has the keys of the published files, in their order.
    """
    shapes = {"encoder.weight": (F, D), "encoder.bias": (F,)}
    w = Draws(seed, **shapes, **{"decoder.weight": (D, F), "decoder.bias": (D,)})
    target = folder / "L0TC-8x" / "checkpoints"
    target.mkdir(parents=True)
    save_file(w, target / "final.safetensors")
    norms, theta = {"in": 2.5, "out": 0.7}, 0.2
    hyperparams = {
        **{"device": "cuda:0", "seed": 42, "dtype": "torch.bfloat16"},
        **{"hook_point_in": MLP_0[0], "hook_point_out": MLP_0[1], "use_decoder_bias": True},
        **{"apply_decoder_bias_to_pre_encoder": False, "expansion_factor": F / D},
        **{"d_model": D, "d_sae": F, "bias_init_method": "all_zero", "act_fn": "jumprelu"},
        **{"jump_relu_threshold": theta, "norm_activation": "dataset-wise"},
        **{"dataset_average_activation_norm": norms, "decoder_exactly_fixed_norm": False},
        **{"sparsity_include_decoder_norm": True, "use_glu_encoder": False},
        **{"init_decoder_norm": 0.5, "init_encoder_norm": None},
        **{"init_encoder_with_decoder_transpose": True, "lp": 1, "l1_coefficient": 8e-05},
        **{"l1_coefficient_warmup_steps": 78125, "top_k": 50, "k_warmup_steps": 78125},
        **{"use_batch_norm_mse": True, "use_ghost_grads": False, "tp_size": 1, "ddp_size": 1},
    }
    (target.parent / "hyperparams.json").write_text(json.dumps(hyperparams, indent=4))
    into, out_of = (D**0.5 / norms[side] for side in ("in", "out"))

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        wide = {name: tensor.double() for name, tensor in w.items()}
        pre = (into * x[:, 0]) @ wide["encoder.weight"].T + wide["encoder.bias"]
        norm = wide["decoder.weight"].norm(dim=0)
        code = pre * (pre * norm > theta * into)
        out = (code @ wide["decoder.weight"].T + wide["decoder.bias"]) / out_of
        return code, torch.stack([torch.zeros_like(out), out], 1)

    return forward


def llamascopium_sae(folder: Path, seed: int) -> Forward:
    """Thresholds are compared with activations times the decoder's norm."""
    w = Draws(seed, W_E=(D, F), b_E=(F,), W_D=(F, D), b_D=(D,))
    logs = Draws(seed + 50, log=(F,))["log"]
    extra = {"activation_function.log_jumprelu_threshold": logs}
    extra[f"dataset_average_activation_norm.{PLACES[0]}"] = torch.tensor(2.5)
    save_file(w | extra, folder / "sae_weights.safetensors")
    config = {"sae_type": "sae", "d_model": D, "expansion_factor": F / D, "act_fn": "jumprelu"}
    config |= {"norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True}
    json_to(
        folder / "config.json", config | {"hook_point_in": PLACES[0], "hook_point_out": PLACES[0]}
    )
    scale = D**0.5 / 2.5

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        pre = (scale * x[:, 0]) @ w.W_E + w.b_E
        code = pre * (pre * w.W_D.norm(dim=1) > logs.double().exp())
        return code, ((code @ w.W_D + w.b_D) / scale)[:, None]

    return forward


def llamascopium_crosscoder(act: str) -> Callable[[Path, int], Forward]:
    """Every hookpoint has its own code: with a threshold or a k, one latent a hookpoint."""

    def save(folder: Path, seed: int) -> Forward:
        w = Draws(seed, W_E=(P, D, F), b_E=(P, F), W_D=(P, F, D), b_D=(P, D))
        norms = Draws(seed + 50, norm=(P,))["norm"].abs() + 1
        logs = Draws(seed + 60, log=(P, F))["log"]
        extra = {
            f"dataset_average_activation_norm.{h}": n for h, n in zip(PLACES, norms, strict=True)
        }
        if act == "jumprelu":
            extra["activation_function.log_jumprelu_threshold"] = logs
        torch.save({n: t.clone() for n, t in (w | extra).items()}, folder / "sae_weights.pt")
        config = {"sae_type": "crosscoder", "d_model": D, "act_fn": act, "top_k": K}
        config |= {"norm_activation": "dataset-wise", "hook_points": list(PLACES)}
        json_to(folder / "config.json", config | {"sparsity_include_decoder_norm": True})
        scale = D**0.5 / norms.double()[:, None]

        def forward(x: Tensor) -> tuple[Tensor, Tensor]:
            pre = torch.einsum("tpd,pdf->tf", x * scale, w.W_E) + w.b_E.sum(0)
            scores = pre[:, None] * w.W_D.norm(dim=2)  # [T, P, F]
            if act == "topk":
                kept = torch.stack([top(row, K) for row in scores.unbind(1)], 1) > 0
            else:
                kept = scores > (logs.double().exp() if act == "jumprelu" else 0)
            codes = pre[:, None] * kept
            out = (torch.einsum("tpf,pfd->tpd", codes, w.W_D) + w.b_D) / scale
            if act == "topk":
                codes = codes * w.W_D.norm(dim=2)
            return (codes[:, 0] if act == "relu" else codes.flatten(1)), out

        return forward

    return save


def gemma_scope_sae(folder: Path, seed: int) -> Forward:
    w, threshold = sae_draws(seed), Draws(seed + 50, threshold=(F,))  # some are negative
    target = folder / "layer_1" / "width_20" / "average_l0_4"
    target.mkdir(parents=True)
    arrays = {name: tensor.numpy() for name, tensor in (w | threshold).items()}
    np.savez(target / "params.npz", **arrays)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        pre = x[:, 0] @ w.W_enc + w.b_enc
        code = pre.relu() * (pre > threshold.threshold)
        return code, (code @ w.W_dec + w.b_dec)[:, None]

    return forward


def gemma_scope_2(folder: Path, seed: int) -> Forward:
    w, threshold = sae_draws(seed), Draws(seed + 50, threshold=(F,))
    tensors = {n.replace("W_", "w_"): t for n, t in (w | threshold).items()}
    save_file(tensors, folder / "params.safetensors")
    json_to(folder / "config.json", {"architecture": "jump_relu", "model_name": "tiny"})

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        pre = x[:, 0] @ w.W_enc + w.b_enc
        code = pre.relu() * (pre > threshold.threshold)
        return code, (code @ w.W_dec + w.b_dec)[:, None]

    return forward


def cross_draws(seed: int) -> dict[str, Tensor]:
    names = ("encoder.weight", (P, D, F)), ("encoder.bias", (F,))
    names += ("decoder.weight", (P, F, D)), ("decoder.bias", (P, D))
    return dict(Draws(seed, **dict(names)))


def cross_forward(w: dict[str, Tensor], threshold: Tensor | None, norm: Tensor | None) -> Forward:
    """f = relu(Σ_p x_p W_p + b), kept where f times the code norm exceeds the threshold."""
    w = {name: t.double() for name, t in w.items()}

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        pre = sum(x[:, p] @ w["encoder.weight"][p] for p in range(P)) + w["encoder.bias"]
        code = pre.relu()
        if threshold is not None and norm is not None:
            code = code * (code * norm > threshold)
        parts = [code @ w["decoder.weight"][p] + w["decoder.bias"][p] for p in range(P)]
        return code, torch.stack(parts, 1)

    return forward


def crosscoder_compiled(folder: Path, seed: int) -> Forward:
    w = cross_draws(seed)
    torch.save({f"_orig_mod.{n}": t for n, t in w.items()}, folder / "ae.pt")
    return cross_forward(w, None, None)


def crosscoder_from_the_hub(folder: Path, seed: int) -> Forward:
    w = cross_draws(seed)
    save_file(w | {"code_normalization_id": torch.tensor(4)}, folder / "model.safetensors")
    json_to(folder / "config.json", {"activation_dim": D, "dict_size": F, "num_layers": P})
    return cross_forward(w, None, None)


def batchtopk_crosscoder(identity: int) -> Callable[[Path, int], Forward]:
    def save(folder: Path, seed: int) -> Forward:
        w = cross_draws(seed)
        w["decoder.weight"][:, 3] = 0  # a latent without a decoder
        buffers = {"code_normalization_id": torch.tensor(identity), "k": torch.tensor(K)}
        torch.save(w | buffers | {"threshold": torch.tensor(2.5)}, folder / "ae.pt")
        alphas = {"code_normalization_alpha_sae": 0.7, "code_normalization_alpha_cc": 0.2}
        json_to(folder / "config.json", {"activation_dim": D, "dict_size": F} | alphas)
        rows = w["decoder.weight"].double()
        together = torch.stack([rows[:, h].flatten().norm() for h in range(F)])
        apart = torch.stack([sum(rows[p, h].norm() for p in range(P)) for h in range(F)])
        norms = {1: apart, 2: together, 3: 0.7 * together + 0.2 * apart, 4: torch.ones(F)}
        return cross_forward(w, torch.tensor(2.5), norms[identity])

    return save


def crosscoder_normalised(folder: Path, seed: int) -> Forward:
    w = cross_draws(seed)
    more = Draws(seed + 50, activation_mean=(P, D), activation_std=(P, D))
    more["activation_global_scale"] = torch.tensor([0.3, 1.7, 0.9])
    torch.save(w | more | {"code_normalization_id": torch.tensor(1)}, folder / "ae.pt")
    inner, scale = cross_forward(w, None, None), more.activation_global_scale[:, None]

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        code, normalised = inner((x - more.activation_mean) * scale)
        return code, normalised / (scale + 1e-8) + more.activation_mean

    return forward


def batchtopk_sae_normalised(folder: Path, seed: int) -> Forward:
    """A fork's BatchTopKSAE, which keeps the statistics of its activations."""
    shapes = {"encoder.weight": (F, D), "encoder.bias": (F,), "decoder.weight": (D, F)}
    w = Draws(seed, **shapes, b_dec=(D,), activation_mean=(D,), activation_std=(D,))
    numbers = {"k": torch.tensor(K), "threshold": torch.tensor(0.4)}
    torch.save(w | numbers | {"activation_global_scale": torch.tensor(0.6)}, folder / "ae.pt")
    json_to(folder / "config.json", {"dict_class": "BatchTopKSAE"})
    encoder, decoder = w["encoder.weight"].double(), w["decoder.weight"].double()

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        normalised = (x[:, 0] - w.activation_mean) * 0.6
        pre = (normalised - w.b_dec) @ encoder.T + w["encoder.bias"].double()
        code = pre.relu() * (pre > 0.4)
        out = code @ decoder.T + w.b_dec
        return code, (out / (0.6 + 1e-8) + w.activation_mean)[:, None]

    return forward


def crosscode(name: str, older: bool = False) -> Callable[[Path, int], Forward]:
    def save(folder: Path, seed: int) -> Forward:
        w = Draws(seed, W_enc=(1, P, D, F), W_dec=(F, 1, P, D), b_enc=(F,), b_dec=(1, P, D))
        w["b_enc"] -= 3 * (name in ("TopkActivation", "GroupMaxActivation"))  # some are negative
        names = ("_W_enc_XiDiL", "_W_dec_LXoDo", "b_enc_L", "_b_dec_XoDo")
        if older:
            names = ("W_enc_XDH", "W_dec_HXD", "b_enc_H", "b_dec_XD")
        tensors = dict(zip(names, w.values(), strict=True))
        tensors["is_folded"] = torch.tensor(True)
        log_threshold = Draws(seed + 50, value=(F,))
        if "JumpReLU" in name:
            tensors["_activation_fn.log_threshold_L"] = log_threshold["value"]
        torch.save(tensors, folder / "model.pt")
        if older:
            text = f"crosscoding_dims: !!python/tuple\n- 1\n- {P}\nhidden_activation_classname: "
            (folder / "model_cfg.yaml").write_text(text + f"{name}\nd_model: {D}\n")
        else:
            text = f"n_models: 1\nn_hookpoints: {P}\nactivation_fn:\n  classname: {name}\n"
            text += f"  cfg:\n    {'n_groups' if 'Group' in name else 'k'}: {K}\n"
            (folder / "model_cfg.yaml").write_text(text)

        def forward(x: Tensor) -> tuple[Tensor, Tensor]:
            pre = torch.einsum("tpd,pdf->tf", x, w.W_enc[0]) + w.b_enc
            jump = pre > log_threshold.value.exp() if "JumpReLU" in name else pre > 0
            if name == "TopkActivation":
                jump = torch.zeros_like(pre).scatter(1, pre.topk(K, dim=1).indices, 1)
            if name == "GroupMaxActivation":
                groups = pre.unflatten(1, (K, -1))
                jump = (groups == groups.amax(2, keepdim=True)).flatten(1)
            code = pre * jump
            return code, torch.einsum("tf,fpd->tpd", code, w.W_dec[:, 0]) + w.b_dec[0]

        return forward

    return save


ONE, POST = PLACES[:1], PLACES[2:]
MLP_0 = ("blocks.0.hook_resid_mid", "blocks.0.mlp.hook_out")
LAYOUTS = {
    "saelens topk before version 6": Layout(saelens_topk_before_version_6, None, ONE),
    "saelens topk, norms not folded": Layout(saelens_topk_rescaled, None, ONE),
    "saelens scaled activations": Layout(saelens_scaled_activations, None, ONE),
    "saelens layer_norm": Layout(saelens_normalised("layer_norm"), None, ONE),
    "saelens constant_norm_rescale": Layout(saelens_normalised("constant_norm_rescale"), None, ONE),
    "saelens abstopk": Layout(saelens_abstopk, None, ONE),
    "saelens skip_transcoder": Layout(saelens_skip_transcoder, None, MLP_0),
    "sparsify signed, skip": Layout(sparsify_signed_with_skip, POST, POST),
    "circuit-tracer topk, skip": Layout(circuit_tracer("topk"), None, MLP_0),
    "circuit-tracer negative thresholds": Layout(circuit_tracer("jump_relu"), None, MLP_0),
    "gemma scope 2 affine": Layout(gemma_scope_2_affine, MLP_0, MLP_0),
    "llama scope": Layout(llama_scope, None, MLP_0),
    "llamascopium sae": Layout(llamascopium_sae, None, ONE),
    "llamascopium crosscoder, relu": Layout(llamascopium_crosscoder("relu"), None, PLACES),
    "llamascopium crosscoder, jumprelu": Layout(llamascopium_crosscoder("jumprelu"), None, PLACES),
    "llamascopium crosscoder, topk": Layout(llamascopium_crosscoder("topk"), None, PLACES),
    "crosscode topk": Layout(crosscode("TopkActivation"), PLACES, PLACES),
    "crosscode groupmax": Layout(crosscode("GroupMaxActivation"), PLACES, PLACES),
    "saelens centred stream": Layout(saelens_centred_stream, None, ONE),
    "saelens old jumprelu checkpoint": Layout(saelens_old_jumprelu_checkpoint, None, ONE),
    "gemma scope": Layout(gemma_scope_sae, ("blocks.*.hook_resid_post",), POST),
    "gemma scope 2": Layout(gemma_scope_2, ONE, ONE),
    "crosscoder, compiled": Layout(crosscoder_compiled, PLACES, PLACES),
    "crosscoder, Hub": Layout(crosscoder_from_the_hub, PLACES, PLACES),
    "crosscoder, normalised": Layout(crosscoder_normalised, PLACES, PLACES),
    "batchtopk SAE, normalised": Layout(batchtopk_sae_normalised, ONE, ONE),
    "batchtopk crosscoder, CROSSCODER": Layout(batchtopk_crosscoder(1), PLACES, PLACES),
    "batchtopk crosscoder, SAE": Layout(batchtopk_crosscoder(2), PLACES, PLACES),
    "batchtopk crosscoder, MIXED": Layout(batchtopk_crosscoder(3), PLACES, PLACES),
    "batchtopk crosscoder, NONE": Layout(batchtopk_crosscoder(4), PLACES, PLACES),
    "crosscode relu": Layout(crosscode("ReLUActivation"), PLACES, PLACES),
    "crosscode jumprelu": Layout(crosscode("AnthropicSTEJumpReLUActivation"), PLACES, PLACES),
    "paper": Layout(crosscode("AnthropicJumpReLUActivation", older=True), PLACES, PLACES),
}
