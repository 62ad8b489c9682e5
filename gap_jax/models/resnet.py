"""ResNets (He et al., arXiv 1512.03385).

The network equals transformers' `ResNetForImageClassification`. The 3×3 convolution of a bottleneck block has
its stride, as in torchvision's ResNet-50 and in `microsoft/resnet-50`.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from gap_jax.checks import expect_shape
from gap_jax.models.layers import Conv, Layer

EPSILON, MOMENTUM = 1e-5, 0.1
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BatchNorm(Layer):
    """torch's `BatchNorm2d` of `[B,H,W,C]` (Ioffe & Szegedy, arXiv 1502.03167); statistics in float32.

    Its running statistics are parameters like the others, so that one rule reads and writes them all; their
    gradient is 0. With `train`, a batch is normalised by its own mean and variance; if `params` is mutable,
    the running statistics move a tenth of the way to the batch's mean and unbiased variance. Raises
    ValueError for a training batch with a single value per channel, which has no variance.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def parameter(name, init):
            return self.param(name, init, (x.shape[-1],), self.param_dtype).astype(jnp.float32)

        scale, bias = parameter("scale", nn.initializers.ones), parameter("bias", nn.initializers.zeros)
        mean = jax.lax.stop_gradient(parameter("running_mean", nn.initializers.zeros))
        variance = jax.lax.stop_gradient(parameter("running_var", nn.initializers.ones))
        x = x.astype(jnp.float32)
        if train:
            running, count = {"running_mean": mean, "running_var": variance}, x.size // x.shape[-1]
            if count == 1:
                raise ValueError(
                    f"batch norm in training needs more than one value per channel, found shape "
                    f"{list(x.shape)}: use a larger batch or larger images"
                )
            mean = x.mean((0, 1, 2))
            variance = jnp.square(x - mean).mean((0, 1, 2))
            if self.is_mutable_collection("params") and not self.is_initializing():
                batch_statistics = {"running_mean": mean, "running_var": variance * count / (count - 1)}
                for name, old in running.items():
                    new = old + MOMENTUM * (jax.lax.stop_gradient(batch_statistics[name]) - old)
                    self.put_variable("params", name, new.astype(self.param_dtype))
        gain = jax.lax.rsqrt(variance + EPSILON) * scale
        return (x * gain + (bias - mean * gain)).astype(self.dtype)


class ConvNorm(Layer):
    """A padded convolution without bias, which only its stride shrinks, then batch norm."""

    features: int
    kernel_size: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        init, stride = nn.initializers.variance_scaling(2.0, "fan_out", "normal"), self.stride
        if self.kernel_size == 1:  # `Conv` ignores the stride of 1×1 kernels
            x, stride = x[:, ::stride, ::stride], 1
        x = Conv(
            self.features,
            self.kernel_size,
            stride,
            self.kernel_size // 2,
            use_bias=False,
            kernel_init=init,
            name="convolution",
            **self.dtypes,
        )(x)
        return BatchNorm(name="normalization", **self.dtypes)(x, train)


class Block(Layer):
    """Convolutions, one of them strided, and a shortcut, which is convolved if the shape changes.

    A basic block has two 3×3 convolutions. A bottleneck has a 3×3 one of a quarter of the features, between
    two of 1×1.
    """

    features: int
    stride: int
    layer_type: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.layer_type == "basic":
            h = nn.relu(ConvNorm(self.features, 3, self.stride, name="layer.0", **self.dtypes)(x, train))
            h = ConvNorm(self.features, 3, name="layer.1", **self.dtypes)(h, train)
        else:
            width = self.features // 4
            h = nn.relu(ConvNorm(width, name="layer.0", **self.dtypes)(x, train))
            h = nn.relu(ConvNorm(width, 3, self.stride, name="layer.1", **self.dtypes)(h, train))
            h = ConvNorm(self.features, name="layer.2", **self.dtypes)(h, train)
        if self.stride > 1 or x.shape[-1] != self.features:
            x = ConvNorm(self.features, 1, self.stride, name="shortcut", **self.dtypes)(x, train)
        return nn.relu(x + h)


class ResNet(Layer):
    """A classifier: images `[B,H,W,num_channels]` in [0,1], of any size, to logits, float32 `[B,num_labels]`.

    Images are normalised with `image_mean` and `image_std` inside. `label_names` are the classes' names, if
    they are known. Other field names are those of transformers' `ResNetConfig`; the defaults are ResNet-50's.
    There is one stage per entry of `depths`, and each but the first halves the size. With `train`, batch norm
    is in training mode:

        logits, updated = model.apply({"params": params}, images, train=True, mutable="params")

    Then `updated["params"]` are `params` with new running statistics. Raises ValueError for another shape.
    """

    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: Literal["bottleneck", "basic"] = "bottleneck"
    num_channels: int = 3
    num_labels: int = 1000
    label_names: tuple[str, ...] | None = None
    image_mean: tuple[float, ...] = IMAGENET_MEAN
    image_std: tuple[float, ...] = IMAGENET_STD

    head = "classifier.1"

    def example_inputs(self) -> tuple[jax.Array, ...]:
        """Return zeros of a shape that `init` takes."""
        return (jnp.zeros((1, 32, 32, self.num_channels)),)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        expect_shape("images", images, (None, None, None, self.num_channels))
        pixels = (images.astype(jnp.float32) - jnp.array(self.image_mean)) / jnp.array(self.image_std)
        stem = ConvNorm(self.embedding_size, 7, 2, name="resnet.embedder.embedder", **self.dtypes)
        x = nn.relu(stem(pixels.astype(self.dtype), train))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, (depth, features) in enumerate(zip(self.depths, self.hidden_sizes, strict=True)):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"resnet.encoder.stages.{stage}.layers.{i}"
                x = Block(features, stride, self.layer_type, name=name, **self.dtypes)(x, train)
        x = x.astype(jnp.float32).mean((1, 2))
        return nn.Dense(self.num_labels, name=self.head, **self.dtypes)(x).astype(jnp.float32)
