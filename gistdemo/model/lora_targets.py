"""Which linear layers LoRA goes on: the usual names, and what stands in where a model names its layers otherwise. No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gistdemo.errors import UsageError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = (*ATTENTION, *FEED_FORWARD)


def last_part(path: str) -> str:
    return path.rpartition(".")[2]


def in_attention(path: str) -> bool:
    return "att" in path.rpartition(".")[0]  # self_attn, attention; the other block is mlp, feed_forward or block_sparse_moe


def choose_targets(paths: Collection[str], asked: Sequence[str]) -> list[str]:
    """The names, last parts of paths, of the linear layers that LoRA goes on.

    paths: of all layers it may go on, such as "model.layers.0.self_attn.q_proj". For a usual name that a model does not have stand the
    layers of that block: Phi-3's q_proj is part of qkv_proj. Where the block has none (experts in one tensor), nothing does.
    Raises: UsageError: another name is not there, or nothing is left.
    """
    names = dict.fromkeys(last_part(path) for path in paths)
    found: list[str] = []
    for name in asked:
        if name in names:
            found.append(name)
        elif name in ALL_LINEAR:
            found += [last_part(path) for path in paths if in_attention(path) == (name in ATTENTION)]
    unknown = [name for name in asked if name not in names and name not in ALL_LINEAR]
    if unknown or not found:
        raise UsageError(
            f"LoRA targets are {', '.join(asked) or 'none'}, but this model has no linear layer {', '.join(unknown or asked) or 'asked for'}. "
            f"Choose from those it has: {', '.join(names) or 'none'}."
        )
    return list(dict.fromkeys(found))
