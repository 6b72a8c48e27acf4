"""A backbone small enough for any test: two random Llama layers and a byte-level tokenizer. Needs no network, takes milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # ids 0, 1, 2, as in SmolLM2
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def toy_vocabulary() -> list[str]:
    """The three special tokens, then one token per byte: 259 in all."""
    return [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]


def toy_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer without merges: one token per byte; adds no BOS; pad == eos == <|im_end|>; left padding.

    chat: give it a ChatML template, which makes its backbone one of kind "instruct".
    """
    backend = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(toy_vocabulary())}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def toy_config(vocab_size: int = 259) -> LlamaConfig:
    """Weights are drawn wider than usual (0.2), so that a wrong mask or position moves the logits visibly."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        attn_implementation="sdpa",
    )


def toy_model(seed: int = 0, vocab_size: int = 259) -> LlamaForCausalLM:
    """A frozen random fp32 model in eval mode; equal seeds give equal weights, the global random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(toy_config(vocab_size)).eval().requires_grad_(False)


def toy_gemma(window: int, seed: int = 0) -> Gemma3ForCausalLM:
    """A toy Gemma 3: most layers slide, embeddings are scaled inside their module, the head is tied, heads are wider than E / heads."""
    config = Gemma3TextConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=24,
        query_pre_attn_scalar=6,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        sliding_window=window,
        max_position_embeddings=4096,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gemma3ForCausalLM(config).eval().requires_grad_(False)
    for layer in model.model.layers:  # sharper and louder attention, so that answers vary with the prompt instead of repeating one token
        layer.post_attention_layernorm.weight += 2.0
        layer.self_attn.q_norm.weight += 0.5
        layer.self_attn.k_norm.weight += 0.5
    return model


def save_toy(folder: Path, seed: int = 0, chat: bool = True) -> Path:
    """Save model and tokenizer as a backbone folder and return it."""
    toy_model(seed).save_pretrained(folder)
    toy_tokenizer(chat).save_pretrained(folder)
    return folder
