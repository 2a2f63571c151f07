"""What a guided request's two rows have in common, computed once.

They differ in the prompt alone, which a UNet meets in its first cross-attention: all that comes before is the same for
both. In SD1.5 that is the first ResNet and the first and largest self-attention, 2.5 % of two rows' multiplications at
512 px; in data/models/tiny-sd15, with cross-attention at its smallest level alone, the whole way down, 9 %. SDXL has
nothing: its time embedding knows the prompt.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from deployments.engine.hoisting import HoistedUnet


def fork_at_prompt(unet: HoistedUnet) -> bool:
    """Have it take one row of latents and times with any number of `context` rows, and give an output for each.

    False, and nothing is changed, if rows with different prompts have nothing in common.
    """
    transformer = where_prompts_enter(unet.unet)
    if transformer is None or unet.unet.config.addition_embed_type is not None:
        return False
    transformer.register_forward_pre_hook(_repeat_hidden, with_kwargs=True)
    transformer.transformer_blocks[0].attn1.register_forward_pre_hook(_keep_one)  # type: ignore[index,union-attr]
    for block in unet.unet.up_blocks:
        block.register_forward_pre_hook(_repeat_skips, with_kwargs=True)
    return True


def where_prompts_enter(unet: Any) -> nn.Module | None:
    """The transformer of a first cross-attention that a self-attention precedes, on the way down or at the bottom."""
    modules = [module for block in [*unet.down_blocks, unet.mid_block] if block for module in block.modules()]
    crossing = [module for module in modules if isinstance(module, Attention) and module.is_cross_attention]
    transformers = [module for module in modules if isinstance(module, Transformer2DModel)]
    first = transformers[0] if transformers else None
    return first if first and crossing and first.transformer_blocks[0].attn2 is crossing[0] else None


def _repeat_hidden(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A row of its own for each prompt's."""
    hidden, *rest = args
    rows = kwargs["encoder_hidden_states"].shape[0]
    return (hidden.expand(rows, *hidden.shape[1:]), *rest), kwargs


def _keep_one(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first row's self-attention, which is added to all."""
    hidden, *rest = args
    return hidden[:1], *rest


def _repeat_skips(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    # Added, not expanded: so OpenVINO keeps the layout that both have, and need not change it and back.
    zeros = 0 * kwargs["hidden_states"].mean((1, 2, 3), keepdim=True)
    skips = tuple(skip + zeros for skip in kwargs["res_hidden_states_tuple"])
    return args, kwargs | {"res_hidden_states_tuple": skips}
