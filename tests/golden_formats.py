"""Where each fixture of tests/data/formats lies in a tiny model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FIXTURES = Path(__file__).parent / "data" / "formats"


@dataclass(frozen=True)
class Golden:
    """Where a fixture must lie in the model, and what the user must say for it."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    given: tuple[str, ...] | None = None
    model: str = "gpt-neo"
    normalised: bool = False
    """The library saw the norm's output before its weight and bias."""


MLP_1 = ("blocks.1.mlp.hook_in",), ("blocks.1.mlp.hook_out",)
POST_1 = ("blocks.1.hook_resid_post",)
PRE_1 = ("blocks.1.hook_resid_pre",)
MIDS = ("blocks.0.hook_resid_mid", "blocks.1.hook_resid_mid")
OUTS = ("blocks.0.mlp.hook_out", "blocks.1.mlp.hook_out")
GOLDEN = {
    "saelens-standard": Golden(PRE_1, PRE_1),
    "saelens-topk": Golden(MIDS[:1], MIDS[:1]),
    "saelens-abstopk": Golden(MIDS[:1], MIDS[:1]),
    "saelens-layer_norm": Golden(MIDS[:1], MIDS[:1]),
    "saelens-skip_transcoder": Golden(MIDS[:1], OUTS[:1]),
    "saelens-jumprelu": Golden(MLP_1[0], MLP_1[0], normalised=True),
    "saelens-gated": Golden(OUTS[:1], OUTS[:1]),
    "saelens-batchtopk": Golden(PRE_1, PRE_1),
    "saelens-batchtopk-training": Golden(PRE_1, PRE_1),
    "saelens-transcoder": Golden(*MLP_1, normalised=True),
    "saelens-jumprelu_transcoder": Golden(*MLP_1, normalised=True),
    "sparsify-sae": Golden(POST_1, POST_1, model="llama"),
    "sparsify-groupmax": Golden(OUTS[:1], OUTS[:1], model="llama"),
    "sparsify-transcoder": Golden(*MLP_1, model="llama"),
    "sparsify-skip": Golden(("blocks.0.mlp.hook_in",), OUTS[:1], model="llama"),
    "dictionary_learning-AutoEncoder": Golden(POST_1, POST_1),
    "dictionary_learning-AutoEncoderNew": Golden(POST_1, POST_1),
    "dictionary_learning-GatedAutoEncoder": Golden(POST_1, POST_1),
    "dictionary_learning-JumpReluAutoEncoder": Golden(POST_1, POST_1),
    "dictionary_learning-AutoEncoderTopK": Golden(POST_1, POST_1),
    "dictionary_learning-BatchTopKSAE": Golden(POST_1, POST_1),
    "dictionary_learning-MatryoshkaBatchTopKSAE": Golden(POST_1, POST_1),
    "circuit_tracer-plt": Golden(MIDS, OUTS),
    "circuit_tracer-plt_skip": Golden(MIDS, OUTS),
    "circuit_tracer-clt": Golden(MIDS, OUTS),
    "llamascopium-sae": Golden(MIDS[:1], MIDS[:1]),
    "llamascopium-transcoder": Golden(MIDS[:1], OUTS[:1]),
    "llamascopium-crosscoder": Golden(MIDS, MIDS),
    "llamascopium-clt": Golden(MIDS, OUTS),
    "llamascopium-clt_topk": Golden(MIDS, OUTS),
    "gemma_scope-transcoder": Golden(
        *MLP_1, given=("blocks.*.ln2.hook_normalized", "blocks.*.hook_mlp_out"), normalised=True
    ),
}
