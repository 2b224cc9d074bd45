"""Where a Hugging Face model's hookpoints lie: found in one short forward pass, tried in another.

No architecture is known by name. What was found has to hold: a block takes what the one before it
gave, tokens see no later ones, and hook_resid_mid is a cut. For the last, blocks are given another
text's stream, and their own again at hook_resid_mid: they must give what they gave before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn
from transformers import PreTrainedModel

from crossproof.errors import CrossproofError
from crossproof.lm.blocks import Block, is_norm
from crossproof.lm.sites import Columns, Site, Visit
from crossproof.lm.tracing import Trace, is_added, is_close, trace

_LAYER_COUNTS = ("num_hidden_layers", "num_layers", "decoder_layers", "n_layers", "n_layer")


@dataclass(frozen=True)
class Structure:
    """The hookpoints of a model by name, in forward order, and what it lacks.

    absent: hookpoints that the architecture does not have, and why. unreadable: hookpoints that it
    has, but that cannot be read and replaced, and why. rewritten: blocks and whether what leaves
    them (else what their MLP reads) holds no more what the stream was before, as a summand.
    """

    d_model: int
    n_blocks: int
    sites: dict[str, Site]
    absent: dict[str, str]
    unreadable: dict[str, str]
    rewritten: frozenset[tuple[int, bool]] = frozenset()


def find_structure(bare: PreTrainedModel, name: str) -> Structure:
    """The hookpoints of a causal language model.

    Raises CrossproofError when it cannot run on tokens alone, has no list of blocks that each run
    once and hand the residual stream on, or lets tokens see later ones.
    """
    passed, again = trace(bare, name)
    modules = _stack(bare, name, passed, again)
    width = passed[Site(modules[-1], False)].value.shape[2]
    seen = {s: p for s, p in passed.items() if s not in again and p.value.shape[2] == width}
    _check_stream(bare, name, modules, passed)
    blocks = [Block(module, seen) for module in modules]
    _try_mids(bare, name, blocks)
    found = _outside(bare, seen, modules)
    absent: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    if "hook_embed" not in found:
        absent = dict.fromkeys(
            ("embed.hook_out", "hook_embed"), "the embeddings are not of the blocks' width"
        )
    elif not is_added(passed[found["hook_embed"]].value, passed[blocks[0].pre].value):
        del found["hook_embed"]
        unreadable["hook_embed"] = "the model scales its embeddings before the stream takes them"
    for i, block in enumerate(blocks):
        block.sites |= _head_columns(block, passed, width)
        found |= {f"blocks.{i}.{key}": site for key, site in block.sites.items()}
        absent |= {f"blocks.{i}.{key}": why for key, why in block.absent.items()}
        unreadable |= {f"blocks.{i}.{key}": why for key, why in block.unreadable.items()}
    orders = {name: passed[replace(site, columns=None)].order for name, site in found.items()}
    sites = dict(sorted(found.items(), key=lambda item: orders[item[0]]))
    rewritten = {(i, site == b.post) for i, b in enumerate(blocks) for site in b.rewrites}
    return Structure(width, len(blocks), sites, absent, unreadable, frozenset(rewritten))


def _head_columns(block: Block, passed: Trace, width: int) -> dict[str, Site]:
    """attn.hook_z where the heads' outputs together are not as wide as the model.

    Fewer numbers are filled up with zeros; more become attn.hook_z.0, attn.hook_z.1 and so on.
    """
    projected = block.sites.get("attn.o.hook_out")
    heads = None if projected is None else Site(projected.module, True)
    if heads is None or heads not in passed or "attn.hook_z" in block.sites:
        return {}
    whole = passed[heads].value.shape[2]
    pieces = [Columns(at, min(at + width, whole), width) for at in range(0, whole, width)]
    names = (
        ["attn.hook_z"] if len(pieces) == 1 else [f"attn.hook_z.{i}" for i in range(len(pieces))]
    )
    return {n: replace(heads, columns=c) for n, c in zip(names, pieces, strict=True)}


def _stack(
    bare: PreTrainedModel, name: str, seen: Trace, again: frozenset[Site]
) -> list[nn.Module]:
    """The longest outermost list of modules that all take and give one vector a token.

    There are as many as the configuration says layers, if it does.
    """
    config = bare.config.get_text_config()
    counts = {n for name in _LAYER_COUNTS if isinstance(n := getattr(config, name, None), int)}
    stacks: dict[str, list[nn.Module]] = {}
    for path, module in bare.named_modules():
        inner = any(path.startswith(f"{outer}.") for outer in stacks)
        if not isinstance(module, nn.ModuleList) or not len(module) or inner:
            continue
        if counts and len(module) not in counts:
            continue
        if all(Site(item, side) in seen for item in module for side in (True, False)):
            stacks[path] = list(module)
    if not stacks:
        raise _unreadable(bare, name, "keeps no list of blocks that each take and give its stream")
    stack = max(stacks.values(), key=len)
    if any(Site(item, True) in again for item in stack):
        raise _unreadable(bare, name, "runs its blocks more than once a pass")
    return stack


def _check_stream(bare: PreTrainedModel, name: str, modules: list[nn.Module], seen: Trace) -> None:
    given = [seen[Site(module, False)] for module in modules]
    taken = [seen[Site(module, True)] for module in modules[1:]]
    for i, (before, behind) in enumerate(zip(given, taken, strict=False)):
        if not before.is_also(behind):
            raise CrossproofError(
                f"'{name}' changes its residual stream between block {i} and block {i + 1}, so "
                f"the stream has no one value there; choose a model that hands it on."
            )
    rest = (Site(module, True) for module in _outside_modules(bare, modules))
    if not any(site in seen and seen[site].is_also(given[-1]) for site in rest):
        raise _unreadable(bare, name, "makes its logits of more than the last block's stream")
    first, second = given[-1].value[:, :1].split(1)
    if not is_close(first, second):
        raise CrossproofError(
            f"'{name}' lets tokens see those behind them; choose a causal language model (of an "
            f"encoder, one that was trained with is_decoder=True)."
        )


def _try_mids(bare: PreTrainedModel, name: str, blocks: list[Block]) -> None:
    """Drop every hook_resid_mid that does not settle alone what leaves its block."""
    visits: dict[Site, Visit] = {}
    for block in blocks:
        if block.mid is not None:
            visits[block.pre] = partial(_give, block.seen[block.pre].value.flip(0))
            visits[block.mid] = partial(_write, block.seen[block.mid].value)
    if not visits:
        return
    after, _ = trace(bare, name, visits)
    for block in blocks:
        if block.mid is None:
            continue
        before = block.seen[block.post].value
        if block.post not in after or not is_close(after[block.post].value, before):
            block.drop(
                "hook_resid_mid", "more goes into what leaves the block than the stream there"
            )


def _give(new: Tensor, _value: Tensor) -> Tensor:
    return new


def _write(new: Tensor, value: Tensor) -> None:
    value.copy_(new)


def _outside(bare: PreTrainedModel, seen: Trace, blocks: list[nn.Module]) -> dict[str, Site]:
    """Hookpoints before and behind the blocks."""
    sites: dict[str, Site | None] = {}
    embed, head = bare.get_input_embeddings(), bare.get_output_embeddings()
    sites["embed.hook_out"] = sites["hook_embed"] = Site(embed, False)
    first, last = Site(blocks[0], True), Site(blocks[-1], False)
    for module in filter(is_norm, _outside_modules(bare, blocks)):
        read, written = Site(module, True), Site(module, False)
        if read not in seen or written not in seen:
            continue
        if seen[written].is_also(seen[first]):
            sites |= {"embed_ln.hook_in": read, "embed_ln.hook_out": written, "hook_embed": written}
        elif seen[last].is_also(seen[read]):
            sites |= {"ln_final.hook_in": read, "ln_final.hook_out": written}
    if isinstance(head, nn.Module):
        sites["unembed.hook_in"] = Site(head, True)
    return {name: site for name, site in sites.items() if site is not None and site in seen}


def _outside_modules(bare: PreTrainedModel, blocks: list[nn.Module]) -> list[nn.Module]:
    inside = {id(module) for block in blocks for module in block.modules()}
    return [module for module in bare.modules() if id(module) not in inside]


def _unreadable(bare: PreTrainedModel, name: str, why: str) -> CrossproofError:
    return CrossproofError(
        f"'{name}', a {type(bare).__name__}, {why}; choose a model whose blocks can be read."
    )
