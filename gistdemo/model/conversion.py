"""Turns a GGUF file into a model folder: config.json, model.safetensors in float32, tokenizer. Families: Llama and Gemma 3.

    convert(gguf, folder, name, report)

Tensor by tensor, without building the model: little memory, and nothing is initialised only to be overwritten. What transformers
makes of the folder equals llama.cpp on the same file, tokens and next-token distributions alike (tests/golden/).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from gistdemo.errors import first_line, one_line
from gistdemo.model.fetching import Progress
from gistdemo.model.gguf_file import GgufFile

Rename = Callable[[str, np.ndarray], tuple[str, np.ndarray]]  # name and values in the file -> in transformers

CONTROL, USER_DEFINED = 3, 4  # token types of the file; the first never come from text, the second stand for their text
SPACE = "\u2581"

LAYER = {  # of both families: name in the file -> name in transformers
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LLAMA_LAYER = LAYER | {"ffn_norm": "post_attention_layernorm"}
GEMMA_LAYER = LAYER | {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def convert(path: Path, folder: Path, name: str, report: Progress) -> None:
    """Write the folder. name: what the model is called in it.

    Raises: ValueError: a damaged file, or a family other than Llama and Gemma 3. OSError, SafetensorError: it cannot be written.
    """
    try:
        _convert(path, folder, name, report)
    except (OSError, ValueError, ImportError, MemoryError, safetensors.SafetensorError):
        raise
    except KeyError as error:
        raise ValueError(f"'{path.name}' lacks {error}") from error
    except Exception as error:  # the tokenizers library raises bare Exceptions, for bad merges and for a full disk alike
        if "os error" in str(error):
            raise OSError(first_line(error)) from error
        raise ValueError(f"'{path.name}' cannot be converted: {one_line(error)}") from error


def _convert(path: Path, folder: Path, name: str, report: Progress) -> None:
    file = GgufFile(path)
    family = file.metadata.get("general.architecture")
    if family not in ("llama", "gemma3"):
        raise ValueError(f"'{path.name}' holds a model of the family {family!r}; llama and gemma3 can be converted")
    folder.mkdir(parents=True)
    report("Converting the tokenizer", 0.0)
    _tokenizer(file, name).save_pretrained(folder)
    config, rename = _llama(file) if family == "llama" else (_gemma_config(file), _gemma_tensor)
    config.save_pretrained(folder)
    _plain_generation(config).save_pretrained(folder)
    report("Converting the weights", 0.3)
    weights = {}
    for done, tensor in enumerate(file.tensors):
        report("Converting the weights", 0.3 + 0.4 * done / len(file.tensors))
        new, values = rename(tensor, file.tensor(tensor))
        weights[new] = torch.from_numpy(np.require(values, requirements=["C", "W"]))  # copies only what is neither, as float32 norms
    report("Saving the weights", 0.7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _plain_generation(config: Any) -> transformers.GenerationConfig:
    return transformers.GenerationConfig(
        do_sample=False, bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )


# --- sizes and weights -----------------------------------------------------------------------------------------------


def _common(file: GgufFile) -> dict[str, Any]:
    """What the configs of both families hold."""
    data = file.metadata
    family, vocabulary = data["general.architecture"], len(data["tokenizer.ggml.tokens"])
    heads = data[f"{family}.attention.head_count"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": data[f"{family}.embedding_length"],
        "intermediate_size": data[f"{family}.feed_forward_length"],
        "num_hidden_layers": data[f"{family}.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": data.get(f"{family}.attention.head_count_kv", heads),
        "max_position_embeddings": data[f"{family}.context_length"],
        "rms_norm_eps": data[f"{family}.attention.layer_norm_rms_epsilon"],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": data["tokenizer.ggml.bos_token_id"],
        "eos_token_id": data["tokenizer.ggml.eos_token_id"],
        "pad_token_id": data["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",
    }


def _llama(file: GgufFile) -> tuple[transformers.LlamaConfig, Rename]:
    config = _llama_config(file)
    return config, _llama_tensor(config)


def _llama_config(file: GgufFile) -> transformers.LlamaConfig:
    rope = {"rope_type": "default", "rope_theta": file.metadata["llama.rope.freq_base"]}
    return transformers.LlamaConfig(**_common(file), rope_parameters=rope, architectures=["LlamaForCausalLM"])


def _gemma_config(file: GgufFile) -> transformers.Gemma3TextConfig:
    """Five layers of six see a window, with rotary base 10,000, as the family always has them; the file gives the other base."""
    data = file.metadata
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": data["gemma3.rope.freq_base"]},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    head = data["gemma3.attention.key_length"]
    return transformers.Gemma3TextConfig(
        **_common(file),
        head_dim=head,
        query_pre_attn_scalar=head,
        sliding_window=data["gemma3.attention.sliding_window"],
        rope_parameters=rope,
        architectures=["Gemma3ForCausalLM"],
    )


def _renamed(name: str, layer: dict[str, str]) -> str:
    outer = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
    if name in outer:
        return outer[name]
    block, _, rest = name.removeprefix("blk.").partition(".")
    part, _, kind = rest.partition(".")
    if not name.startswith("blk.") or part not in layer:
        raise ValueError(f"the tensor '{name}' is not known")
    return f"model.layers.{block}.{layer[part]}.{kind}"


def _llama_tensor(config: transformers.LlamaConfig) -> Rename:
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}

    def tensor(name: str, values: np.ndarray) -> tuple[str, np.ndarray]:
        """llama.cpp rotates neighbouring pairs, transformers halves: the rows of each head of q and k change places."""
        new = _renamed(name, LLAMA_LAYER)
        if count := heads.get(name.split(".")[-2]):
            values = values.reshape(count, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        return new, values

    return tensor


def _gemma_tensor(name: str, values: np.ndarray) -> tuple[str, np.ndarray]:
    """The file holds 1 + w of every norm, transformers adds the 1 itself."""
    return _renamed(name, GEMMA_LAYER), values - 1 if "norm" in name else values


# --- tokenizer -------------------------------------------------------------------------------------------------------


def _tokenizer(file: GgufFile, name: str) -> transformers.PreTrainedTokenizerFast:
    data = file.metadata
    tokens, kinds = data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"]
    backend = _byte_level(data) if data["tokenizer.ggml.model"] == "gpt2" else _sentencepiece(data)
    backend.add_special_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL])
    backend.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED])
    if data.get("tokenizer.ggml.add_bos_token"):
        bos = tokens[data["tokenizer.ggml.bos_token_id"]]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, data["tokenizer.ggml.bos_token_id"])]
        )
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{role: tokens[data[f"tokenizer.ggml.{key}_token_id"]] for role, key in roles.items()},
        chat_template=data.get("tokenizer.chat_template"),
        model_max_length=data[f"{data['general.architecture']}.context_length"],
        name_or_path=name,
        clean_up_tokenization_spaces=False,
    )


def _byte_level(data: dict[str, Any]) -> Tokenizer:
    """GPT-2's byte-level BPE. SmolLM2 (pre = smollm) splits digits off first; without that, white space before a digit, as in
    "\\n\\n1.", becomes other tokens than the model knows."""
    if data.get("tokenizer.ggml.pre") != "smollm":
        raise ValueError(f"the pre-tokenizer {data.get('tokenizer.ggml.pre')!r} is not known; smollm is")
    vocabulary = {token: n for n, token in enumerate(data["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in data["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(data: dict[str, Any]) -> Tokenizer:
    """SentencePiece's BPE: of two neighbours the pair whose whole has the best score is joined first; what has no piece becomes bytes."""
    tokens, scores, kinds = (data[f"tokenizer.ggml.{part}"] for part in ("tokens", "scores", "token_type"))
    vocabulary = {token: n for n, token in enumerate(tokens)}
    unknown = tokens[data["tokenizer.ggml.unknown_token_id"]]
    normal = [n for n, kind in enumerate(kinds) if kind not in (CONTROL, USER_DEFINED)]
    merges = []
    for n in sorted(normal, key=lambda n: -scores[n]):
        token = tokens[n]
        for cut in range(1, len(token)):
            if token[:cut] in vocabulary and token[cut:] in vocabulary:
                merges.append((token[:cut], token[cut:]))
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend
