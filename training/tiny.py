"""Builds tiny Stable Diffusion networks with random weights that still behave like trained ones.

Plain random initialisation gives grey images, or sampling that explodes. So a signal path is laid through each
network before the random rest is scaled down around it: the VAE carries the colours of the image, and the UNet
carries the noise it is to predict. The path is exact because silu(x) - silu(-x) = x.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from training.tokenizer import MAX_TOKENS

_CONSTANT = 8.0  # far above the image's values, so that it alone sets what group norm divides by
_POINT = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
_BOX = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]) / 4
_TENT = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


def make_text_encoder(
    tokenizer: CLIPTokenizer, hidden_act: str = "quick_gelu", projection: bool = False, hidden_size: int = 32
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A CLIP text encoder of two layers; with `projection`, the kind SDXL takes its pooled embedding from."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        hidden_act=hidden_act,
        projection_dim=hidden_size,
        initializer_factor=2.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


@torch.no_grad()
def make_vae(
    *,
    scaling_factor: float = 0.18215,
    sample_size: int = 64,
    roughness: float = 0.05,
    **config: Any,
) -> AutoencoderKL:
    """A VAE (factor 8, 4 latent channels) whose decode(encode(x)) is x at an eighth of the resolution.

    Latents times `scaling_factor` have about unit scale. `roughness` weighs the random rest of the network.
    """
    vae = AutoencoderKL(
        block_out_channels=[8, 8, 16, 16],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        norm_num_groups=1,
        sample_size=sample_size,
        scaling_factor=scaling_factor,
        **config,
    )
    for half in (vae.encoder, vae.decoder):
        _soften_residuals(half, roughness)
        half.conv_in.bias[6:8] = torch.tensor([_CONSTANT, -_CONSTANT])
    for block in vae.encoder.down_blocks[:-1]:
        _carry_pairs(block.downsamplers[0].conv, _BOX)
    for block in vae.decoder.up_blocks[:-1]:
        _carry_pairs(block.upsamplers[0].conv, _TENT)
    latent_gain = 2 / scaling_factor  # pixels have a standard deviation of about 1/2
    _split(vae.encoder.conv_in, 3)
    _join(vae.encoder.conv_out, 3, latent_gain * _POINT)
    _split(vae.decoder.conv_in, 3, 1 / latent_gain)
    _join(vae.decoder.conv_out, 3, _POINT)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight[:, :, 0, 0] = torch.eye(conv.out_channels)
        conv.bias.zero_()
    vae.quant_conv.weight[4:] *= roughness / latent_gain
    return vae


@torch.no_grad()
def make_unet(
    *,
    noise_gain: float,
    roughness: float = 0.5,
    prompt_gain: float = 2.0,
    **config: Any,
) -> UNet2DConditionModel:
    """A UNet whose output is random, and on top of it the latents times `noise_gain`.

    Sampling converges at any guidance when the output is near what a trained network would answer: a little less
    than the latents where it predicts noise, nothing where it predicts v. `roughness` is the scale of the random
    part, `prompt_gain` how much of it depends on the prompt.
    """
    unet = UNet2DConditionModel(**config)
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            module.to_q.weight *= prompt_gain
            module.to_v.weight *= prompt_gain
            module.to_out[0].weight *= prompt_gain
        elif name.endswith("time_emb_proj"):
            module.weight *= 3  # a wrong timestep is to be seen
    unet.conv_out.weight *= roughness
    unet.conv_out.bias.zero_()
    if noise_gain:
        _lay_noise_path(unet, noise_gain * _POINT)
    return unet


def _lay_noise_path(unet: UNet2DConditionModel, kernel: torch.Tensor) -> None:
    """Lead the latents from conv_in over the outermost skip connection to conv_out, past everything else."""
    _split(unet.conv_in, 4)
    last = unet.up_blocks[-1]
    shortcut = last.resnets[-1].conv_shortcut
    first_skip = shortcut.in_channels - unet.conv_in.out_channels
    shortcut.weight[:8] = 0
    shortcut.weight[:8, first_skip : first_skip + 8, 0, 0] = torch.eye(8)
    shortcut.bias[:8] = 0
    for branch in (last.resnets[-1].conv2, *(block.proj_out for block in getattr(last, "attentions", ())[-1:])):
        branch.weight[:8] = 0
        branch.bias[:8] = 0
    _join(unet.conv_out, 4, kernel)


def _soften_residuals(half: nn.Module, roughness: float) -> None:
    """Let the branches beside the signal path add only `roughness` of what they would, and not see the constant."""
    for name, module in half.named_modules():
        if isinstance(module, nn.GroupNorm):
            module.weight[:6] *= _CONSTANT * (2 / module.num_channels) ** 0.5
            module.weight[6:8] = 0
        elif name.endswith(("conv2", "to_out.0")):
            module.weight *= roughness
            module.bias.zero_()
        elif name.endswith("conv_shortcut"):
            _carry_pairs(module, _POINT[1:2, 1:2])


def _split(conv: nn.Conv2d, inputs: int, gain: float = 1.0) -> None:
    """Make output channels 2i and 2i+1 of `conv` plus and minus its input i, and 6, 7 its bias alone."""
    assert conv.bias is not None
    middle = conv.kernel_size[0] // 2
    conv.weight[:8] = 0
    for i in range(inputs):
        conv.weight[2 * i, i, middle, middle] = gain
        conv.weight[2 * i + 1, i, middle, middle] = -gain
    conv.bias[: 2 * inputs] = 0


def _join(conv: nn.Conv2d, outputs: int, kernel: torch.Tensor) -> None:
    """Make output i of `conv` the difference of input channels 2i and 2i+1 under `kernel`, and add the random rest."""
    assert conv.bias is not None
    conv.weight[:, : 2 * outputs] = 0
    conv.bias.zero_()
    for i in range(outputs):
        conv.weight[i, 2 * i] = kernel
        conv.weight[i, 2 * i + 1] = -kernel


def _carry_pairs(conv: nn.Conv2d, kernel: torch.Tensor) -> None:
    """Pass the first three pairs of channels through `kernel`, and the constant pair through one tap of it."""
    assert conv.bias is not None
    middle = conv.kernel_size[0] // 2
    conv.weight[:8] = 0
    conv.bias[:8] = 0
    for i in range(6):
        conv.weight[i, i] = kernel
    for i in (6, 7):
        conv.weight[i, i, middle, middle] = 1
