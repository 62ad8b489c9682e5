"""Small random depth networks in torch: transformers' DPT, and Omnidata's DPT-hybrid with its names."""

import math
from collections.abc import Callable

import torch
import transformers
from torch import nn
from torch.nn.functional import gelu, interpolate, layer_norm, max_pool2d, pad, relu

SIZES = dict(
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=48,
    image_size=64,
    backbone_out_indices=[0, 1, 2, 3],
    fusion_hidden_size=16,
)
BIT = dict(
    model_type="bit",
    embedding_size=8,
    hidden_sizes=[32, 64, 64],
    depths=[1, 2, 1],
    num_groups=4,
    layer_type="bottleneck",
    global_padding="same",
    embedding_dynamic_padding=True,
    out_features=["stage1", "stage2", "stage3"],
)
HYBRID = SIZES | dict(
    is_hybrid=True,
    backbone_config=BIT,
    backbone_featmap_shape=[1, 64, 4, 4],
    neck_hidden_sizes=[32, 64, 24, 40],
    reassemble_factors=[1, 1, 1, 0.5],
)
LARGE = SIZES | dict(neck_hidden_sizes=[8, 16, 24, 40])
FORMS = {
    "hybrid": HYBRID,
    "large": LARGE,
    "add": LARGE | dict(readout_type="add", qkv_bias=False, use_bias_in_fusion_residual=False),
    "ignore": LARGE | dict(readout_type="ignore", add_projection=True),
}


def scramble(network: nn.Module, last: nn.Conv2d, predict: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Draw all parameters, so that every one changes the output; the final ReLU cuts a third of it.

    `last` is the convolution before that ReLU, `predict` the network's function of pixels in [-1,1].
    """
    draw = torch.Generator().manual_seed(0)
    network.eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=draw)
        if parameter.ndim in (2, 4):
            parameter.copy_(noise * (1.5 / parameter[0].numel()) ** 0.5)
        elif "norm" in name and name.endswith("weight"):
            parameter.copy_(1 + 0.2 * noise)
        else:
            parameter.copy_(0.2 * noise)
    last.weight.abs_()
    last.bias.zero_()
    last.bias.sub_(predict(2 * torch.rand(1, 3, 64, 64, generator=draw) - 1).quantile(1 / 3))


def transformers_dpt(form: str) -> transformers.DPTForDepthEstimation:
    """Return a small random DPT of a form in FORMS, for images of any size."""
    config = transformers.DPTConfig(**FORMS[form])
    network = transformers.DPTForDepthEstimation(config)
    if config.add_projection:  # its width is fixed to the published one
        width = config.fusion_hidden_size
        network.head.projection = nn.Conv2d(width, width, 3, padding=1)
    scramble(network, network.head.head[4], lambda pixels: predict(network, pixels))
    return network


def predict(network: transformers.DPTForDepthEstimation, pixels: torch.Tensor) -> torch.Tensor:
    """Predict depth `[B,1,H,W]` of `pixels` `[B,3,H,W]` in [-1,1], also of sizes that the class refuses."""
    height, width = pixels.shape[2:]
    network.dpt.embeddings.image_size = height, width
    grid = height // 16, width // 16
    hook = network.neck.reassemble_stage.register_forward_pre_hook(lambda _, given: (given[0], *grid))
    depth = network(pixels).predicted_depth[:, None]
    hook.remove()
    return depth


def parts(**children: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


def same(x: torch.Tensor, kernel: int, stride: int, value: float = 0) -> torch.Tensor:
    """Pad as TensorFlow's SAME does."""
    sides = []
    for n in (x.shape[3], x.shape[2]):
        total = max((math.ceil(n / stride) - 1) * stride + kernel - n, 0)
        sides += [total // 2, total - total // 2]
    return pad(x, sides, value=value)


class StandardizedConv(nn.Conv2d):
    def __init__(self, channels, features, kernel=1, stride=1):
        super().__init__(channels, features, kernel, stride, bias=False)

    def forward(self, x):
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) / (variance + 1e-8).sqrt()
        return nn.functional.conv2d(same(x, self.kernel_size[0], self.stride[0]), weight, stride=self.stride)


class Bottleneck(nn.Module):
    def __init__(self, channels, features, stride, first):
        super().__init__()
        width = features // 4
        self.conv1, self.norm1 = StandardizedConv(channels, width), nn.GroupNorm(32, width)
        self.conv2, self.norm2 = StandardizedConv(width, width, 3, stride), nn.GroupNorm(32, width)
        self.conv3, self.norm3 = StandardizedConv(width, features), nn.GroupNorm(32, features)
        if first:
            conv = StandardizedConv(channels, features, 1, stride)
            self.downsample = parts(conv=conv, norm=nn.GroupNorm(32, features))

    def forward(self, x):
        h = relu(self.norm1(self.conv1(x)))
        h = self.norm3(self.conv3(relu(self.norm2(self.conv2(h)))))
        if hasattr(self, "downsample"):
            x = self.downsample.norm(self.downsample.conv(x))
        return relu(x + h)


class OmnidataDPT(nn.Module):
    """Omnidata's DPT-hybrid, on ResNet stages 0 and 1 and the ends of the ViT's third and last quarter."""

    def __init__(self, width=128, blocks=4, side=4, depths=(1, 2, 1), fusion=16, neck=(24, 40)):
        super().__init__()
        widths = (128, 128, 256)
        stages, channels = [], 32
        for stage, (features, depth) in enumerate(zip(widths, depths, strict=True)):
            layers = []
            for i in range(depth):
                layers.append(Bottleneck(channels, features, 2 if stage and not i else 1, i == 0))
                channels = features
            stages.append(parts(blocks=nn.ModuleList(layers)))
        stem = parts(conv=StandardizedConv(3, 32, 7, 2), norm=nn.GroupNorm(32, 32))
        vit = parts(
            patch_embed=parts(
                backbone=parts(stem=stem, stages=nn.ModuleList(stages)), proj=nn.Conv2d(channels, width, 1)
            ),
            blocks=nn.ModuleList(
                parts(
                    norm1=nn.LayerNorm(width),
                    attn=parts(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)),
                    norm2=nn.LayerNorm(width),
                    mlp=parts(fc1=nn.Linear(width, 2 * width), fc2=nn.Linear(2 * width, width)),
                )
                for _ in range(blocks)
            ),
            norm=nn.LayerNorm(width),
            head=nn.Linear(width, 10),
        )
        vit.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        vit.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, width))
        self.pretrained = parts(model=vit)
        for i, features in zip((3, 4), neck, strict=True):
            readout = parts(project=nn.Sequential(nn.Linear(2 * width, width), nn.GELU()))
            layers = [readout, nn.Identity(), nn.Identity(), nn.Conv2d(width, features, 1)]
            if i == 4:
                layers.append(nn.Conv2d(features, features, 3, 2, 1))
            self.pretrained.add_module(f"act_postprocess{i}", nn.Sequential(*layers))

        def conv(channels, features=fusion, bias=True):
            return nn.Conv2d(channels, features, 3, padding=1, bias=bias)

        self.scratch = nn.Module()
        for i, features in enumerate((*widths[:2], *neck), 1):
            self.scratch.add_module(f"layer{i}_rn", conv(features, bias=False))
            units = {f"resConfUnit{j}": parts(conv1=conv(fusion), conv2=conv(fusion)) for j in (1, 2)}
            self.scratch.add_module(f"refinenet{i}", parts(out_conv=nn.Conv2d(fusion, fusion, 1), **units))
        self.scratch.output_conv = nn.Sequential(
            conv(fusion, fusion // 2),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            conv(fusion // 2, 32),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(),
        )

    def forward(self, x):
        """Predict depth `[B,1,H,W]` of pixels `[B,3,H,W]` in [-1,1]."""
        vit, scratch = self.pretrained.model, self.scratch
        backbone = vit.patch_embed.backbone
        x = relu(backbone.stem.norm(backbone.stem.conv(x)))
        x = max_pool2d(same(x, 3, 2, -torch.inf), 3, 2)
        maps = []
        for stage in backbone.stages:
            for block in stage.blocks:
                x = block(x)
            maps.append(x)
        x = vit.patch_embed.proj(maps.pop())
        grid = x.shape[2:]
        side = math.isqrt(vit.pos_embed.shape[1] - 1)
        positions = vit.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        x = (x + interpolate(positions, size=grid, mode="bilinear")).flatten(2).mT
        x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(len(x), -1, -1), x], 1)
        states = []
        for block in vit.blocks:
            x = self.block(block, x)
            states.append(x)
        quarter = len(states) // 4
        for i, state in ((3, states[3 * quarter - 1]), (4, states[-1])):
            readout, _, _, *layers = getattr(self.pretrained, f"act_postprocess{i}")
            tokens = torch.cat([state[:, 1:], state[:, :1].expand_as(state[:, 1:])], -1)
            h = readout.project(tokens).mT.unflatten(2, grid)
            for layer in layers:
                h = layer(h)
            maps.append(h)

        def refine(unit, x):
            return x + unit.conv2(relu(unit.conv1(relu(x))))

        path = 0
        for i in (4, 3, 2, 1):
            net, h = getattr(scratch, f"refinenet{i}"), getattr(scratch, f"layer{i}_rn")(maps[i - 1])
            path = h if i == 4 else path + refine(net.resConfUnit1, h)
            path = refine(net.resConfUnit2, path)
            path = net.out_conv(interpolate(path, scale_factor=2, mode="bilinear", align_corners=True))
        return scratch.output_conv(path)

    @staticmethod
    def block(block, x):
        def norm(layer, x):
            return layer_norm(x, x.shape[-1:], layer.weight, layer.bias, 1e-6)

        heads = x.shape[-1] // 64
        query, key, value = (
            part.unflatten(2, (heads, 64)).transpose(1, 2)
            for part in block.attn.qkv(norm(block.norm1, x)).chunk(3, -1)
        )
        weights = (query @ key.mT / 8).softmax(-1)
        x = x + block.attn.proj((weights @ value).transpose(1, 2).flatten(2))
        return x + block.mlp.fc2(gelu(block.mlp.fc1(norm(block.norm2, x))))


def omnidata_dpt() -> OmnidataDPT:
    network = OmnidataDPT()
    scramble(network, network.scratch.output_conv[4], network)
    return network
