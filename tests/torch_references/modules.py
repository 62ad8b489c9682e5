"""Small random torch modules for which gap_jax has no Flax network."""

import math

import torch
import transformers
from torch import nn

CLASSES = 5


class SmallCNN(nn.Module):
    """Batch norm in training counts, a shared layer, a table of numbers, a tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, groups=2, bias=False), nn.BatchNorm2d(8))
        self.frozen = nn.Conv2d(8, 8, 1).requires_grad_(False)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.again = self.mix  # under two names in the state dict
        self.register_buffer("order", torch.randperm(8))
        self.register_buffer("scale", torch.rand(8), persistent=False)
        self.offset = torch.randn(8, 1, 1)

    def forward(self, x):
        x = nn.functional.max_pool2d(nn.functional.relu(self.first(x), inplace=True), 2)
        x = nn.functional.gelu(self.frozen(self.second(x)) + self.offset)
        x = x.mean((2, 3))[:, self.order] * self.scale + torch.linspace(0, 1, 8)
        return self.head(self.again(torch.tanh(self.mix(x))))


def with_statistics(module):
    """Draw batch norm's running statistics."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1), part.running_var.uniform_(0.5, 2)
    return module


def small_cnn(**_):
    return with_statistics(SmallCNN())


class SamePadding(nn.Conv2d):
    """A convolution that pads as TensorFlow does, by the size that it sees; timm has one for its ports."""

    def forward(self, x):
        pads = []
        for size, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads = [total // 2, total - total // 2, *pads]
        x = nn.functional.pad(x, pads)
        return nn.functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class StochasticDepth(nn.Module):
    """Drops a residual branch of whole examples, with a tensor that is drawn in place, as timm does."""

    def __init__(self, drop_prob):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        drawn = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * drawn.div_(keep)


class NormAct(nn.BatchNorm2d):
    """Batch norm that holds its activation, which works in place."""

    def __init__(self, channels, activation):
        super().__init__(channels, eps=1e-3, momentum=0.01)
        self.act = activation

    def forward(self, x):
        return self.act(super().forward(x))


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv_reduce, self.conv_expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        gate = x.mean((2, 3), keepdim=True)
        gate = self.conv_expand(nn.functional.relu(self.conv_reduce(gate), inplace=True))
        return x * nn.functional.hardsigmoid(gate)


class InvertedResidual(nn.Module):
    def __init__(self, channels, drop_path):
        super().__init__()
        wide = 2 * channels
        self.conv_pw, self.bn1 = nn.Conv2d(channels, wide, 1, bias=False), NormAct(wide, nn.Hardswish(True))
        self.conv_dw = SamePadding(wide, wide, 5, groups=wide, bias=False)
        self.bn2, self.se = NormAct(wide, nn.SiLU(True)), SqueezeExcite(wide)
        self.conv_pwl, self.bn3 = nn.Conv2d(wide, channels, 1, bias=False), NormAct(channels, nn.Identity())
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()

    def forward(self, x):
        branch = self.se(self.bn2(self.conv_dw(self.bn1(self.conv_pw(x)))))
        return self.drop_path(self.bn3(self.conv_pwl(branch))) + x


class MobileNet(nn.Module):
    """A network of timm's kind: stem, stages, pooling and head, with `forward_features`."""

    def __init__(self, drop_path=0.0):
        super().__init__()
        self.conv_stem = SamePadding(3, 8, 3, stride=2, bias=False)
        self.bn1 = NormAct(8, nn.Hardswish(inplace=True))
        self.blocks = nn.Sequential(nn.Sequential(InvertedResidual(8, drop_path)), nn.Sequential())
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.classifier = nn.Linear(8, CLASSES)

    def forward_features(self, x):
        return self.blocks(self.bn1(self.conv_stem(x)))

    def forward(self, x):
        return self.classifier(self.global_pool(self.forward_features(x)))


def mobile_net(**_):
    return with_statistics(MobileNet())


def dinov2(**dropout):
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=56, **dropout
    )
    config.num_labels = CLASSES
    return transformers.Dinov2ForImageClassification(config)


def swin(**dropout):
    config = transformers.SwinConfig(
        image_size=32, embed_dim=16, depths=[2, 1], num_heads=[2, 2], window_size=4, **dropout
    )
    config.num_labels = CLASSES
    return transformers.SwinForImageClassification(config)


def depth_anything(**_):
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=56,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
    )  # fmt: skip
    sizes = {"reassemble_hidden_size": 16, "neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}
    config = transformers.DepthAnythingConfig(backbone_config=backbone, head_hidden_size=8, **sizes)
    return transformers.DepthAnythingForDepthEstimation(config)


def segformer(**dropout):
    sizes = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4}
    config = transformers.SegformerConfig(
        **sizes, sr_ratios=[4, 2, 1, 1], decoder_hidden_size=8, drop_path_rate=0, **dropout
    )
    config.num_labels = CLASSES
    return transformers.SegformerForSemanticSegmentation(config)


BUILDERS = {
    "cnn": (small_cnn, 24),  # with the side of its images
    "mobile_net": (mobile_net, 25),  # an odd side, which is padded more on one side
    "dinov2": (dinov2, 42),
    "swin": (swin, 32),
    "depth_anything": (depth_anything, 42),
    "segformer": (segformer, 32),
}


def build(kind):
    """The module, random but the same each time, without dropout; and the side of its images."""
    torch.manual_seed(0)
    builder, side = BUILDERS[kind]
    module = builder()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif "DropPath" in type(part).__name__:
            part.drop_prob = 0.0
    return module.eval(), side
