"""Four processes, 2 × 2: two rows of tokens, two parts of the latents, and the steps of one."""

from __future__ import annotations

import itertools
import os
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from dictionaries import mlp_hookpoints, random_mlp
from hypothesis import given
from hypothesis import strategies as st
from ports import free_port
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.layout import LatentGroup, Layout
from crossproof.crosscoder.side_by_side import SideBySide
from crossproof.crosscoder.sparsity import TopK
from crossproof.errors import CrossproofError
from crossproof.lm import Activation
from crossproof.lm.norms import Norm
from crossproof.training import distributed
from crossproof.training.objective import Objective
from crossproof.training.objectives import check_sharded
from crossproof.training.parts import check_parts, part_of, whole_of
from crossproof.training.selection import cut_above, selection
from crossproof.training.shards import LatentShard, latent_shard
from crossproof.training.step import StreamReading
from crossproof.training.trainer import Optimisation, Trainer

TOKENS, WIDTH, LATENTS = 32, 8, 24
RULES = ("topk", "batch_topk", "relu", "jumprelu")
OBJECTIVES = {
    "relu": Objective(interaction=1.0, keep_largest=20.0, all_latents=5.0, l1=0.05),
    "jumprelu": Objective(interaction=1.0, keep_largest=20.0, all_latents=5.0, l0=0.05),
}
PENALTIES = Objective(
    interaction=1.0, keep_largest=20.0, all_latents=5.0, certified=0.1, dominant_share=1.0,
    mlp_in=1.0, rotated=0.5,
)  # fmt: skip
WEIGHTED = Objective(interaction=1.0, keep_largest=20.0, interaction_weights="output_norm")
CAUSAL = Layout((LatentGroup(8, (0,), (0, 1)), LatentGroup(16, (1,), (1,))), ((0, 1),))
CASES = {
    **{
        f"{rule} {'gated' if gated else 'plain'}": (rule, gated, None)
        for rule, gated in itertools.product(RULES, (False, True))
    },
    "causal": ("batch_topk", False, CAUSAL),
    "stream": ("topk", True, None),
}


def batches(steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(steps, TOKENS, 3, WIDTH, generator=generator)


def trained(case: str, share: slice, steps: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The whole dictionary after every step on the share's rows of each batch, and the losses."""
    rule, gated, layout = CASES[case]
    generator = torch.Generator().manual_seed(1)
    mlp = random_mlp(Activation.GELU, gated, generator, width=WIDTH, neurons=10, dtype=dtype)
    config = CrosscoderConfig(LATENTS, rule, 3)
    whole = Crosscoder(config, mlp_hookpoints(1), WIDTH, layout)
    whole.initialise(torch.randn(200, 2, WIDTH, generator=generator), seed=0)
    whole.to(dtype)
    shard = latent_shard()
    optimisation = Optimisation(dead_after=100, penalty_warmup=0.1, revive_k=4)
    objective = WEIGHTED if case == "stream" else OBJECTIVES.get(rule, PENALTIES)
    norm = Norm(1 + torch.rand(WIDTH, generator=generator), torch.zeros(WIDTH), 1e-5, True).to(
        mlp.W_in
    )
    streams = [(mlp, StreamReading((0,), norm, 0, second=norm))] if case == "stream" else []
    at_input = {} if streams else {0: mlp}
    terms = objective, optimisation, steps, 0, streams
    trainer = Trainer(part_of(whole, shard), at_input, *terms, layout=whole.layout)
    losses = []
    for batch in batches(steps).to(dtype)[:, :, : 2 + len(streams)]:
        report = trainer.step(batch[share])
        losses.append(torch.stack([report.loss.detach(), report.l0, report.dead.to(dtype)]))
    history = torch.stack(losses)
    distributed.average_([history])
    state = whole_of(trainer.crosscoder, whole.layout, shard).state_dict()
    return {**{name: tensor.contiguous() for name, tensor in state.items()}, "losses": history}


def one_of_several(
    number: int, port: int, folder: Path, shape: tuple[int, int], steps: int, dtype: torch.dtype
) -> None:
    torch.set_num_threads(1)
    rows, columns = shape
    os.environ |= {"WORLD_SIZE": str(rows * columns), "RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with distributed.process_group(latent_processes=columns):
        for case in CASES:
            state = trained(case, slice(number, None, rows * columns), steps, dtype)
            if number % columns == 0:  # the first of each row has it whole
                save_file(state, folder / f"{case}-{number // columns}.safetensors")
        check_cuts(number, rows * columns)
        assert distributed.any_process(number == 1, torch.device("cpu"))
        assert not distributed.any_process(False, torch.device("cpu"))
        with pytest.raises(CrossproofError, match="63 tokens a step cannot be dealt out evenly"):
            distributed.share_of(63)


def check_cuts(number: int, processes: int) -> None:
    everywhere = torch.linspace(0.1, 7, 40)
    generator = torch.Generator().manual_seed(0)
    dealt = everywhere[torch.randperm(40, generator=generator)].tensor_split(processes)[number]
    for wanted in (0, 1, 17, 39, 40, 50):
        above = torch.tensor(int((dealt > cut_above(dealt, wanted)).sum()))
        distributed.sum_(above)
        assert int(above) == min(wanted, 40)


def check_against_one(
    folder: Path, shape: tuple[int, int], steps: int, dtype: torch.dtype, tolerance: float
) -> None:
    # Forked by a server that has imported the library: each would take seconds to import it.
    get_context("forkserver").set_forkserver_preload(["crossproof.training.trainer"])
    arguments, processes = (free_port(), folder, shape, steps, dtype), shape[0] * shape[1]
    start_processes(one_of_several, arguments, processes, start_method="forkserver")
    for case in CASES:
        alone = trained(case, slice(None), steps, dtype)
        of_rows = [load_file(folder / f"{case}-{row}.safetensors") for row in range(shape[0])]
        for name, value in alone.items():
            assert all(torch.equal(of_rows[0][name], other[name]) for other in of_rows), case
            difference = (of_rows[0][name] - value).abs().max() / value.abs().max().clamp_min(1)
            assert difference <= tolerance, (case, name, float(difference))


def test_two_by_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    check_against_one(tmp_path, (2, 2), 10, torch.float64, 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 2), (4, 1), (1, 4)])
def test_meshes_take_two_hundred_steps_of_one(shape: tuple[int, int], tmp_path: Path) -> None:
    check_against_one(tmp_path, shape, 200, torch.float64, 1e-8)


@pytest.mark.parametrize(("processes", "among"), [("1", 2), ("4", 3), ("2", 0)])
def test_processes_that_make_no_mesh_are_refused(
    processes: str, among: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", processes)
    sentence = f"cannot share out latents among {among}: start a multiple"
    with pytest.raises(CrossproofError, match=sentence), distributed.process_group(among):
        pass


def test_what_cannot_be_shared_out_is_refused() -> None:
    half = LatentShard(2, 0)
    with pytest.raises(CrossproofError, match="25 latents cannot be shared out evenly among 2"):
        check_parts(25, half)
    with pytest.raises(CrossproofError, match="chosen by SideBySide cannot be shared out"):
        selection(SideBySide([TopK(2), TopK(2)], [4, 4]), half)
    with pytest.raises(CrossproofError, match="'keep_largest_kl' cannot be computed by processes"):
        check_sharded(Objective(keep_largest_kl=1.0), half)


@given(st.lists(st.floats(2**-140, 2**100, width=32), min_size=1, max_size=60), st.integers(0, 60))
def test_the_cut_is_the_next_largest_value(values: list[float], wanted: int) -> None:
    found = cut_above(torch.tensor(values), wanted)
    ordered = sorted(torch.tensor(values).tolist(), reverse=True)
    assert float(found) == (ordered[wanted] if wanted < len(ordered) else 0.0)


@given(st.integers(1, 9), st.integers(1, 40))
def test_parts_cover_the_whole_once(count: int, whole: int) -> None:
    shards = [LatentShard(count, number) for number in range(count)]
    assert [i for s in shards for i in range(whole)[s.rows(whole)]] == list(range(whole))


@pytest.mark.parametrize("gated", [False, True])
def test_outputs_of_parts_of_an_mlp_add_up(gated: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    mlp = random_mlp(Activation.GELU, gated, generator, width=WIDTH, neurons=11)
    x = torch.randn(5, WIDTH, generator=generator, dtype=mlp.W_in.dtype)
    parts = [LatentShard(3, number).neurons_of(mlp)(x) for number in range(3)]
    torch.testing.assert_close(torch.stack(parts).sum(0), mlp(x))
