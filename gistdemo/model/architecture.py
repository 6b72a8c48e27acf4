"""What a config tells of a model before any weight is read: whether gists can be put in place of its text."""

from __future__ import annotations

import dataclasses
from typing import Any

import transformers

from gistdemo.errors import BackboneError
from gistdemo.model.window import ONE_MASK

ALLOWED = "Allowed are decoder-only models with rotary positions, such as Llama, Qwen or SmolLM2."


def check_architecture(config: Any, name: str) -> None:
    """Refuse models whose cached keys and values cannot stand for text at given positions.

    Raises: BackboneError: what of the model stands in the way.
    """
    if problem := _problem(config):
        raise BackboneError(f"Backbone '{name}' ({config.model_type}) {problem}. {ALLOWED}")


def _problem(config: Any) -> str | None:
    if config.is_encoder_decoder:
        return "is an encoder-decoder model"
    if config.get_text_config() is not config:
        return "has parts for other inputs than text"
    if not (getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)) or getattr(config, "alibi", False):
        return "has no rotary positions (RoPE): gist slots need keys that keep the position they had"
    if model_class(config) is None:
        return f"is no causal language model that transformers {transformers.__version__} knows"
    kinds = set(getattr(config, "layer_types", None) or ())
    other = sorted(kinds - {"full_attention", "sliding_attention"})
    if other or model_class(config)._is_stateful:
        return f"has layers without a key-value cache ({', '.join(other) or 'a state of their own'})"
    if getattr(config, "num_key_value_heads", None) is None:
        return "does not say how many key-value heads it caches (num_key_value_heads)"
    if getattr(config, "kv_lora_rank", None):
        return "caches keys and values of unequal size, made of a short vector (kv_lora_rank)"
    if getattr(config, "hidden_size_per_layer_input", None):
        return "gives every layer an embedding of each token (hidden_size_per_layer_input), and gist slots are no tokens"
    if getattr(config, "num_kv_shared_layers", None):
        return "has layers that read the cache of others (num_kv_shared_layers)"
    if getattr(config, "use_bidirectional_attention", False) or not getattr(config, "is_causal", True):
        return "lets tokens see what follows them, so it cannot write an answer token by token"
    if not _takes_a_mask_per_kind(config) and kinds and ("sliding_attention" in kinds or getattr(config, "sliding_window", None)):
        return "mixes layers with and without a sliding window, which transformers serves for this type by one mask only"
    return None


def _takes_a_mask_per_kind(config: Any) -> bool:
    """Types that know layer types do, but for some; to others `layer_types` is a word in a file."""
    return config.model_type not in ONE_MASK and "layer_types" in {field.name for field in dataclasses.fields(config)}


def model_class(config: Any) -> Any:
    """The transformers class that AutoModelForCausalLM would make; None: there is none."""
    return transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
