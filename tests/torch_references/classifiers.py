"""Small random classifiers in torch: torchvision's, with the names of its state dicts, and transformers'."""

import torch
import transformers
from torch import nn
from torch.nn.functional import relu

from tests.torch_references.depth import parts

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 5


class Bottleneck(nn.Module):
    def __init__(self, channels, features, stride):
        super().__init__()
        width = features // 4
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, features, 1, bias=False), nn.BatchNorm2d(features)
        if stride > 1 or channels != features:
            conv = nn.Conv2d(channels, features, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(features))

    def forward(self, x):
        h = relu(self.bn1(self.conv1(x)))
        h = self.bn3(self.conv3(relu(self.bn2(self.conv2(h)))))
        return relu(h + (self.downsample(x) if hasattr(self, "downsample") else x))


class Basic(nn.Module):
    def __init__(self, channels, features, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2, self.bn2 = nn.Conv2d(features, features, 3, 1, 1, bias=False), nn.BatchNorm2d(features)
        if stride > 1 or channels != features:
            conv = nn.Conv2d(channels, features, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(features))

    def forward(self, x):
        h = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(h + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet(nn.Module):
    """Torchvision's ResNet, for images `[B,3,H,W]` in [0,1]."""

    def __init__(
        self, block=Bottleneck, embedding=8, widths=(16, 32, 48, 64), depths=(2, 1, 2, 1), classes=CLASSES
    ):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, embedding, 7, 2, 3, bias=False), nn.BatchNorm2d(embedding)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layers, channels = [f"layer{i + 1}" for i in range(len(depths))], embedding
        for i, (name, features, depth) in enumerate(zip(self.layers, widths, depths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(block(channels, features, 2 if i and not j else 1))
                channels = features
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, images):
        x = self.maxpool(relu(self.bn1(self.conv1(normalise(images)))))
        for name in self.layers:
            x = getattr(self, name)(x)
        return self.fc(x.mean((2, 3)))


class ViT(nn.Module):
    """Torchvision's ViT, for images `[B,3,side,side]` in [0,1]."""

    def __init__(self, width=128, blocks=2, hidden=96, patch=8, side=32, classes=CLASSES):
        super().__init__()
        self.conv_proj = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        names = [f"encoder_layer_{i}" for i in range(blocks)]

        def block():
            linear = nn.Linear(width, hidden), nn.Linear(hidden, width)
            return parts(
                ln_1=nn.LayerNorm(width, 1e-6),
                self_attention=nn.MultiheadAttention(width, width // 64, batch_first=True),
                ln_2=nn.LayerNorm(width, 1e-6),
                mlp=nn.Sequential(linear[0], nn.GELU(), nn.Dropout(0), linear[1], nn.Dropout(0)),
            )

        layers = parts(**{name: block() for name in names})
        self.encoder = parts(layers=layers, ln=nn.LayerNorm(width, 1e-6))
        self.encoder.pos_embedding = nn.Parameter(torch.zeros(1, 1 + (side // patch) ** 2, width))
        self.heads = parts(head=nn.Linear(width, classes))

    def forward(self, images):
        x = self.conv_proj(normalise(images)).flatten(2).mT
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.encoder.pos_embedding
        for block in self.encoder.layers.children():
            h = block.ln_1(x)
            x = x + block.self_attention(h, h, h, need_weights=False)[0]
            x = x + block.mlp(block.ln_2(x))
        return self.heads.head(self.encoder.ln(x)[:, 0])


def normalise(images: torch.Tensor, mean=MEAN, std=STD) -> torch.Tensor:
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def scramble(network: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all parameters and running statistics, so that every one changes the logits."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            noise = torch.randn(tensor.shape, generator=draw) if tensor.is_floating_point() else None
            if noise is None:
                continue  # the count of batches
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draw))
            elif tensor.ndim in (2, 4):
                tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
            elif name.endswith("weight"):  # of norms
                tensor.copy_(1 + 0.2 * noise)
            else:
                tensor.copy_(0.2 * noise)
    return network.eval()


def torchvision(kind: str) -> ResNet | ViT:
    """Return a small `resnet` with bottlenecks, one with `basic` blocks, or a `vit`."""
    if kind == "basic":
        return scramble(ResNet(Basic, widths=(8, 16), depths=(1, 2)))
    return scramble(ResNet() if kind == "resnet" else ViT())


def hugging_face(kind: str) -> nn.Module:
    """Return a small `ResNetForImageClassification` or `ViTForImageClassification` of transformers."""
    if kind == "resnet":
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 32, 48], depths=[1, 2, 1], num_labels=CLASSES
        )
        return scramble(transformers.ResNetForImageClassification(config))
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=CLASSES,
    )
    return scramble(transformers.ViTForImageClassification(config))
