"""The forms of attention on this device: their error and their speed, forward and with gradients.

    python -m benchmarks.attention [--tokens 2304 4096] [--widths 40 80 160 64] [--dtype bfloat16]

The step of `benchmarks.prompt_step` at 384² has 16 rows (8 images with guidance) of 2,304 tokens and 8 heads
of 40 in its longest self-attention. Prints, for each number of tokens, width of a head and form: the relative
errors of the output and of the gradients of query, key and value against torch in float64, and the median
milliseconds of the forward pass, and of forward and backward pass. The last row is torch's fused attention.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.device import describe_device, median
from gap_jax.models.attention import attention
from tests.torch_references.folders import relative_error

HEADS = 8
FORMS = ("auto", "xla", "blocks")


def split_heads(x: torch.Tensor) -> torch.Tensor:
    """Return `[B,L,heads·d]` as `[B,heads,L,d]`."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def in_torch(arrays: list[torch.Tensor], weights: torch.Tensor) -> list[torch.Tensor]:
    """Return torch's attention of `[B,L,heads·d]`, and the gradients of its product with `weights`."""
    leaves = [x.clone().requires_grad_() for x in arrays]
    query, key, value = map(split_heads, leaves)
    if query.dtype == torch.float64:
        out = torch.softmax(query @ key.mT * query.shape[-1] ** -0.5, -1) @ value
    else:
        out = scaled_dot_product_attention(query, key, value)
    out = out.transpose(1, 2).flatten(2)
    return [out.detach(), *torch.autograd.grad(out, leaves, weights)]


def in_jax(form: str, arrays: list[jax.Array]) -> tuple[Callable, Callable]:
    """Return compiled functions in a form: the output, and the output with the gradients.

    `arrays` are query, key, value, and the weights of the output in a sum.
    """

    def forward(query, key, value):
        return attention(query, key, value, heads=HEADS, form=form)

    def both(query, key, value, weights):
        out, pull_back = jax.vjp(forward, query, key, value)
        return out, *pull_back(weights)

    return jax.jit(forward).lower(*arrays[:3]).compile(), jax.jit(both).lower(*arrays).compile()


def print_row(
    name: str, results: Sequence[Any], expected: list[np.ndarray], times: tuple[float, float]
) -> None:
    errors = " ".join(
        f"{relative_error(np.asarray(x[:1], np.float64), y):8.1e}"
        for x, y in zip(results, expected, strict=True)
    )
    print(f"  {name:8} {errors}   {times[0] * 1e3:9.3f} {times[1] * 1e3:9.3f} ms", flush=True)


def measure(tokens: int, width: int, batch: int, dtype: str, repeats: int) -> None:
    rng, shape = np.random.default_rng(0), (batch, tokens, HEADS * width)
    arrays = [jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for _ in range(4)]
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"

    def to_torch(rows: int, kind: torch.dtype) -> list[torch.Tensor]:
        return [torch.from_numpy(np.asarray(x[:rows], np.float32)).to(device, kind) for x in arrays]

    def timed(function: Callable, *arguments: Any) -> float:
        def run():
            jax.block_until_ready(function(*arguments))
            if device == "cuda":
                torch.cuda.synchronize()

        return median(run, repeats)

    *exact, weights = to_torch(1, torch.float64)
    expected = [x.cpu().numpy() for x in in_torch(exact, weights)]
    print(f"{batch} × {tokens} tokens, {HEADS} heads of {width}, {dtype}", flush=True)
    for form in FORMS:
        try:
            forward, both = in_jax(form, arrays)
            times = timed(forward, *arrays[:3]), timed(both, *arrays)
            print_row(form, both(*arrays), expected, times)
        except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
            print(f"  {form:8} failed: {str(error)[:200]}", flush=True)
    *given, weights = to_torch(batch, getattr(torch, dtype))
    heads = [split_heads(x) for x in given]
    times = timed(scaled_dot_product_attention, *heads), timed(in_torch, given, weights)
    print_row("torch", [x[:1].float().cpu().numpy() for x in in_torch(given, weights)], expected, times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2304, 4096])
    parser.add_argument("--widths", type=int, nargs="+", default=[40, 80, 160, 64], help="of a head")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs the GPU's memory too
    print(
        f"{describe_device()}\n           relative errors: out, query, key, value    forward  with gradients"
    )
    for tokens in args.tokens:
        for width in args.widths:
            measure(tokens, width, args.batch, args.dtype, args.repeats)


if __name__ == "__main__":
    main()
