"""Group normalisation in NHWC, the layout of the convolutions around it.

OpenVINO's own group norm runs in NCHW, so every ResNet converts the layout and back: a quarter of the embedded UNet's
time. OpenVINO gives a layer the layout that most of its inputs have, and runs convolutions in NHWC. So the sums over a
group's channels are convolutions here, and every addition follows one.

In bfloat16 this rounds a group's mean and scale, which OpenVINO's own norm keeps in float32. In a UNet's last layers
the error is a shade over the whole image, which guidance amplifies: OpenVINO's own norm stays there.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn import functional

SMALL = 256  # channels up to which one convolution is faster than two, to the groups and back


def use_nhwc_norms(network: nn.Module) -> None:
    """Replace a diffusers network's group norms, and the ResNets that add the time embedding in front of theirs."""
    last = _last_layers(network) if next(network.parameters()).dtype == torch.bfloat16 else set()
    for parent in [module for module in network.modules() if module not in last]:
        for name, child in parent.named_children():
            if child in last:
                continue
            if isinstance(child, nn.GroupNorm) and child.affine:
                setattr(parent, name, NHWCGroupNorm(child))
            elif isinstance(child, ResnetBlock2D) and _is_plain(child):
                setattr(parent, name, NHWCResnet(child))


def _last_layers(network: nn.Module) -> set[nn.Module]:
    """The modules of a UNet's last block, and the norm behind it."""
    unets = [module for module in network.modules() if isinstance(module, UNet2DConditionModel)]
    last = [layer for unet in unets for layer in (unet.up_blocks[-1], unet.conv_norm_out)]
    return {module for layer in last for module in layer.modules()}


def _is_plain(block: ResnetBlock2D) -> bool:
    return block.time_embedding_norm == "default" and block.upsample is None and block.downsample is None


class NHWCGroupNorm(nn.Module):
    """The output of `norm` for (n, channels, h, w) plus a `shift` (n, channels, 1, 1), but for rounding.

    It takes two passes: a difference of mean squares would lose all digits in bfloat16.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.weight, self.bias, self.eps = norm.num_groups, norm.weight, norm.bias, norm.eps
        members = torch.eye(self.groups, dtype=self.weight.dtype).repeat_interleave(norm.num_channels // self.groups, 1)
        kernels = [members.T @ members] if norm.num_channels <= SMALL else [members, members.T]
        for number, kernel in enumerate(kernels):
            self.register_buffer(f"kernel_{number}", kernel[..., None, None].contiguous())

    def forward(self, hidden: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
        if hidden.dim() != 4:
            assert shift is None
            return functional.group_norm(hidden, self.groups, self.weight, self.bias, self.eps)
        weight, bias = (parameter[:, None, None] for parameter in (self.weight, self.bias))
        mean = hidden.mean((2, 3), keepdim=True)
        centred = hidden - self._averaged(mean) if shift is None else hidden - self._averaged(mean + shift) + shift
        length = torch.linalg.vector_norm(centred, dim=(2, 3), keepdim=True)
        variance = self._averaged(length * length / (hidden.shape[2] * hidden.shape[3]))
        return centred * (torch.pow(variance + self.eps, -0.5) * weight) + bias

    def _averaged(self, channels: torch.Tensor) -> torch.Tensor:
        """Each group's mean, in all of its channels: (n, channels, 1, 1)."""
        for kernel in self.buffers():
            channels = functional.conv2d(channels, kernel)
        return channels / (len(self.weight) // self.groups)


class NHWCResnet(nn.Module):
    """The output of `block`, with the time embedding added within its second norm and not by a layer of its own."""

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden: torch.Tensor, temb: torch.Tensor | None) -> torch.Tensor:
        """As the block's own forward, without dropout."""
        block = self.block
        inner = block.conv1(block.nonlinearity(block.norm1(hidden)))
        inner = block.conv2(block.nonlinearity(block.norm2(inner, self._shift(temb))))
        if block.conv_shortcut is not None:
            hidden = block.conv_shortcut(hidden)
        output: torch.Tensor = (hidden + inner) / block.output_scale_factor
        return output

    def _shift(self, temb: torch.Tensor | None) -> torch.Tensor | None:
        block = self.block
        if block.time_emb_proj is None:
            return None
        shift: torch.Tensor = block.time_emb_proj(temb if block.skip_time_act else block.nonlinearity(temb))
        return shift[..., None, None]
