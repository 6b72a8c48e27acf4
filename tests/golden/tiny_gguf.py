"""GGUF files small enough for any test: a Llama and a Gemma 3 with random weights, stored the way llama.cpp's converter stores them.

    write_llama(file), write_gemma(file)    write the file, return the model it must become

What the files' form differs in from transformers is spelled out here by hand, not with the code under test.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
from toy import CHAT_TEMPLATE, toy_model, toy_vocabulary
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6
LLAMA_NAMES = (
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("model.layers.", "blk."),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.", "attn_"),
    ("post_attention_layernorm", "ffn_norm"),
    ("input_layernorm", "attn_norm"),
    ("mlp.", "ffn_"),
    ("_proj", ""),
)
GEMMA_NAMES = (
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    *(pair for pair in LLAMA_NAMES if pair[0] != "post_attention_layernorm"),
)
GEMMA_PIECES = (  # piece, kind, score: pieces the best scores are for are joined first
    ("<pad>", CONTROL, -1000.0),
    ("<eos>", CONTROL, -1000.0),
    ("<bos>", CONTROL, -1000.0),
    ("<unk>", CONTROL, -1000.0),
    ("\n\n", USER_DEFINED, -1000.0),
    ("<b>", USER_DEFINED, -1000.0),
    *((f"<0x{n:02X}>", BYTE, -1000.0) for n in range(256)),
    ("bc", NORMAL, -1.0),
    ("ab", NORMAL, -2.0),
    ("\u2581a", NORMAL, -3.0),
    ("abc", NORMAL, -4.0),
    ("\u2581\u2581", NORMAL, -5.0),
    ("<e", NORMAL, -6.0),
    ("<eo", NORMAL, -7.0),
    ("s>", NORMAL, -8.0),
    *((letter, NORMAL, -100.0 - n) for n, letter in enumerate("\u2581abcdeos<>\n")),
)


def write_llama(file: Path):
    """The toy model with one merge more than it has: two line ends become one token."""
    model = toy_model()
    c = model.config
    writer = gguf.GGUFWriter(file, "llama")
    _sizes(writer, c)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*toy_vocabulary(), "ĊĊ"])
    writer.add_token_types([CONTROL] * 3 + [NORMAL] * 257)
    writer.add_token_merges(["Ċ Ċ"])
    _roles(writer, bos=1, eos=2, unk=0, pad=2, add_bos=False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, tensor in model.state_dict().items():
        if name == "model.embed_tokens.weight":
            tensor = torch.cat([tensor, torch.zeros(1, c.hidden_size)])
        for part, heads in (("q_proj", c.num_attention_heads), ("k_proj", c.num_key_value_heads)):
            if part in name:
                tensor = torch.stack([tensor[_half_row(row, tensor.shape[0] // heads)] for row in range(tensor.shape[0])])
        _add(writer, name, tensor, LLAMA_NAMES)
    _close(writer)
    return model


def write_gemma(file: Path):
    """Seven layers, so that one sees everything and six a window of 8."""
    c = Gemma3TextConfig(
        vocab_size=len(GEMMA_PIECES),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        max_position_embeddings=64,
        sliding_window=8,
        initializer_range=0.2,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Gemma3ForCausalLM(c).eval().requires_grad_(False)
        for name, weight in model.named_parameters():
            if "norm" in name:  # transformers multiplies with 1 + weight
                weight.normal_(0, 0.3)
    writer = gguf.GGUFWriter(file, "gemma3")
    _sizes(writer, c)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_sliding_window(c.sliding_window)
    writer.add_rope_freq_base(c.rope_parameters["full_attention"]["rope_theta"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece for piece, _, _ in GEMMA_PIECES])
    writer.add_token_types([kind for _, kind, _ in GEMMA_PIECES])
    writer.add_token_scores([score for _, _, score in GEMMA_PIECES])
    _roles(writer, bos=2, eos=1, unk=3, pad=0, add_bos=True)
    for name, tensor in model.state_dict().items():
        _add(writer, name, tensor + 1 if "norm" in name else tensor, GEMMA_NAMES)
    _close(writer)
    return model


def _half_row(row: int, head: int) -> int:
    """Row `row` of the file is this row in transformers: llama.cpp turns rows 2i and 2i + 1 of a head, transformers i and i + half."""
    first, inside = row // head * head, row % head
    return first + inside // 2 + inside % 2 * (head // 2)


def _sizes(writer: gguf.GGUFWriter, c) -> None:
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)


def _roles(writer: gguf.GGUFWriter, bos: int, eos: int, unk: int, pad: int, add_bos: bool) -> None:
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)
    writer.add_unk_token_id(unk)
    writer.add_pad_token_id(pad)
    writer.add_add_bos_token(add_bos)


def _add(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor, names: tuple[tuple[str, str], ...]) -> None:
    if name == "lm_head.weight":
        return  # tied
    for ours, theirs in names:
        name = name.replace(ours, theirs)
    writer.add_tensor(name, tensor.contiguous().numpy())


def _close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
