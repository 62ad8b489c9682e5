"""Convolution of images NHWC, with forms for CPUs where XLA's own code for them is slow."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

NHWC = ("NHWC", "HWIO", "NHWC")  # the order of axes of inputs, kernels and outputs
PIXELS = 512  # whose products with a gradient stay in a CPU's cache
MANY = 2**16  # pixels from which XLA's gradient to a kernel is the slower one

Padding = tuple[tuple[int, int], ...]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Convolve `x` `[B,H,W,in]` with `kernel` `[k,k,in,out]` to `[B,H',W',out]`.

    `padding`: zeros `(before, after)` along the height, and the same along the width. Differentiable in
    reverse mode only.

    CPUs compute three cases in another way than XLA would:

    - If a kernel is large and there are few pixels, they multiply the kernel with the pixels' neighbourhoods.
      XLA would copy the whole kernel in another order first.
    - A gradient to `x` is otherwise a convolution with the same order of axes: inside loops, such as the
      sampler's, XLA has no fast code for any other order (jax-ml/jax#12868).
    - A gradient to a kernel for many pixels, or of fewer features than inputs, is summed over rows of pixels.
    """
    if not _has_few_pixels(x, kernel, stride, padding):
        return _by_xla(x, kernel, stride, padding)
    on_cpus, elsewhere = (partial(form, stride=stride, padding=padding) for form in (_by_patches, _by_xla))
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpus, default=elsewhere)


def _convolve_forward(x, kernel, stride, padding):
    return convolve(x, kernel, stride, padding), (x, kernel)


def _convolve_backward(stride, padding, inputs, gradient):
    x, kernel = inputs

    def to_x(form: Callable) -> jax.Array:
        return jax.linear_transpose(lambda x: form(x, kernel, stride, padding), x)(gradient)[0]

    def to_kernel(form: Callable) -> jax.Array:
        return jax.linear_transpose(lambda kernel: form(x, kernel, stride, padding), kernel)(gradient)[0]

    if _has_few_pixels(x, kernel, stride, padding):
        x_on_cpus, kernel_on_cpus = partial(to_x, _by_patches), partial(to_kernel, _by_patches)
    else:
        x_on_cpus = partial(_to_x_in_nhwc, x, kernel, gradient, stride, padding)
        kernel_on_cpus = partial(to_kernel, _by_xla)
        fewer_features = kernel.shape[3] < kernel.shape[2]
        if stride == 1 and (fewer_features or x.size // x.shape[3] >= MANY):
            kernel_on_cpus = partial(_to_kernel_by_rows, x, kernel, gradient, padding)
    return (
        jax.lax.platform_dependent(cpu=x_on_cpus, default=partial(to_x, _by_xla)),
        jax.lax.platform_dependent(cpu=kernel_on_cpus, default=partial(to_kernel, _by_xla)),
    )


convolve.defvjp(_convolve_forward, _convolve_backward)


def _has_few_pixels(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> bool:
    """Return True if a product with neighbourhoods is faster than copying the kernel."""
    size, features = kernel.shape[0], kernel.shape[3]
    height, width = (
        (long + sum(pads) - size) // stride + 1 for long, pads in zip(x.shape[1:3], padding, strict=True)
    )
    return size <= 3 and 2 * len(x) * height * width <= features


def _by_xla(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=NHWC)


def _by_patches(x, kernel, stride, padding):
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return _patches(padded, len(kernel), stride) @ kernel.reshape(-1, kernel.shape[3])


def _patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Return the neighbourhoods of `size` × `size` pixels, every `stride` pixels: `[B,H',W',size·size·C]`."""
    batch, height, width, channels = x.shape
    last = [long - size for long in (height, width)]
    return jnp.concatenate(
        [
            jax.lax.slice(
                x, (0, i, j, 0), (batch, i + last[0] + 1, j + last[1] + 1, channels), (1, stride, stride, 1)
            )
            for i in range(size)
            for j in range(size)
        ],
        -1,
    )


def _to_x_in_nhwc(x, kernel, gradient, stride, padding):
    lengths = zip(kernel.shape[:2], x.shape[1:3], gradient.shape[1:3], padding, strict=True)
    pads = [
        (size - 1 - before, long + before - stride * (short - 1) - 1)
        for size, long, short, (before, _) in lengths
    ]
    return jax.lax.conv_transpose(
        gradient, kernel, (stride,) * 2, pads, dimension_numbers=NHWC, transpose_kernel=True
    )


def _to_kernel_by_rows(x, kernel, gradient, padding):
    """Return the gradient to the kernel: a sum of products of pixels and the gradients around them."""
    batch, height, width, channels = x.shape
    size, features = len(kernel), gradient.shape[3]
    pads = ((size - 1 - before, size - 1 - after) for before, after in padding)
    padded = jnp.pad(gradient, ((0, 0), *pads, (0, 0)))
    divisors = (n for n in range(1, height + 1) if height % n == 0)
    rows = max(n for n in divisors if n == 1 or batch * n * width <= PIXELS)

    def product(start):
        pixels = jax.lax.dynamic_slice_in_dim(x, start, rows, 1).reshape(-1, channels)
        around = _patches(jax.lax.dynamic_slice_in_dim(padded, start, rows + size - 1, 1), size, 1)
        around = around.reshape(-1, around.shape[3])
        return jnp.matmul(pixels.T, around, preferred_element_type=jnp.float32)

    others = jnp.arange(rows, height, rows)
    total, _ = jax.lax.scan(lambda total, start: (total + product(start), None), product(0), others)
    total = jnp.flip(total.reshape(channels, size, size, features), (1, 2))
    return total.transpose(1, 2, 0, 3).astype(kernel.dtype)
