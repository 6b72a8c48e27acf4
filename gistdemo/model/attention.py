"""By which attention a model runs.

Models in bf16 on a CPU compute it in fp32: torch's kernel for bf16 needs 17 ms for a gradient that takes 2 ms in fp32, which is half of a
training step (docs/PERFORMANCE.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from gistdemo.model.architecture import model_class

IN_FP32 = "sdpa_in_fp32"


def attention_of(config: Any, dtype: torch.dtype = torch.float32, device: str = "cpu") -> str:
    """Attention implementation: "sdpa", or "eager" where that is not offered (attention sinks) or would leave the cap of scores out."""
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    if capped or not model_class(config)._supports_sdpa:
        return "eager"
    return IN_FP32 if dtype == torch.bfloat16 and device == "cpu" else "sdpa"


def _in_fp32(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    found, weights = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **more)
    return found.to(query.dtype), weights


AttentionInterface.register(IN_FP32, _in_fp32)
AttentionMaskInterface.register(IN_FP32, sdpa_mask)
