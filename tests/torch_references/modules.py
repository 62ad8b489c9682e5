"""Small random torch modules for which gap_jax has no Flax network."""

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


def small_cnn(**_):
    module = SmallCNN()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1), part.running_var.uniform_(0.5, 2)
    return module


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
