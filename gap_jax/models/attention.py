"""Scaled dot-product attention (Vaswani et al., arXiv 1706.03762, eq. 1), as it suits the platform.

All forms compute the same function. They differ in speed, and in whether the whole map of attention,
`[B,heads,L,M]`, is ever in memory.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Form = Literal["auto", "xla", "blocks", "flash"]
LONG = 1024  # tokens from which a sequence is long; the maps of shorter ones are small
BLOCK = 256  # queries, at most, whose part of the map is in memory at a time
LANES = 128  # the Pallas kernel takes heads and sequences whose sizes are multiples of it


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    heads: int,
    mask: jax.Array | None = None,
    upcast: bool = False,
    form: Form = "auto",
) -> jax.Array:
    """Return the attention of `query` `[B,L,heads*d]` to `key` and `value` `[B,M,heads*d]`: `[B,L,heads*d]`.

    - `mask`: boolean, broadcastable to `[B,heads,L,M]`, True = attend.
    - `upcast`: multiply query and key in float32 too; Stable Diffusion 2.1 overflows in float16 otherwise.
    - `form`: the way to compute long sequences, for which L and M are at least `LONG`. Shorter sequences, and
      those with a mask, always take `xla`.
      - `xla`: plain operations on the whole map.
      - `blocks`: the same for at most `BLOCK` queries at a time; the gradient computes their maps again. On
        CPUs, a block belongs to one head of one image, so that it stays in the cache; sequences of `BLOCK`
        queries are then long.
      - `flash`: a fused kernel, cuDNN's on GPUs and Pallas' elsewhere, which only TPUs run. Arrays that the
        kernel does not take are computed by `blocks`.
      - `auto`: `flash` on GPUs and TPUs, `blocks` on CPUs. JAX cannot partition the Pallas kernel, so that
        TPUs too take `blocks` in a program for several chips that is not mapped by `shard_map`.

    Softmax is always in float32. Raises ValueError for another form.
    """
    if form not in get_args(Form):
        raise ValueError(f"attention must be one of {', '.join(get_args(Form))}; found {form!r}")
    query, key, value = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    for_cpus = jax.default_backend() == "cpu" and form != "flash"  # a CPU may compile for TPUs
    long = query.shape[1] >= BLOCK if for_cpus else min(query.shape[1], key.shape[1]) >= LONG
    if mask is not None or form == "xla" or not long:
        out = _whole(query, key, value, upcast, mask)
    elif for_cpus:
        out = by_heads(query, key, value, upcast)
    elif form == "blocks":
        out = by_blocks(query, key, value, upcast)
    elif _cudnn_takes(query):
        out = jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    elif _pallas_takes(query, key) and _is_for_tpus(form):
        out = by_pallas(query, key, value)
    else:
        out = by_blocks(query, key, value, upcast)
    return out.reshape(*out.shape[:2], -1)


def _whole(
    query: jax.Array, key: jax.Array, value: jax.Array, upcast: bool, mask: jax.Array | None = None
) -> jax.Array:
    dtype = query.dtype
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    if upcast:
        query, key = query.astype(jnp.float32), key.astype(jnp.float32)
    query *= query.shape[-1] ** -0.5
    logits = jnp.einsum("bhld,bhmd->bhlm", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)  # divides the result, which is smaller than the weights
    out = (
        jnp.einsum("bhlm,bhmd->bhld", weights.astype(dtype), value, preferred_element_type=jnp.float32)
        / total
    )
    return out.astype(dtype).swapaxes(1, 2)


def by_blocks(
    query: jax.Array, key: jax.Array, value: jax.Array, upcast: bool = False, block: int = BLOCK
) -> jax.Array:
    """Return the attention `[B,L,heads,d]` of arrays that are split into heads, `block` queries at a time.

    If L is no multiple of `block`, the blocks are smaller. The gradients of key and value are summed over
    the blocks in float32.
    """
    batch, length, heads, width = query.shape
    block = -(-length // -(-length // block))
    padded = jnp.pad(query, ((0, 0), (0, -length % block), (0, 0), (0, 0)))
    queries = padded.reshape(batch, -1, block, heads, width).swapaxes(0, 1)
    key, value = key.astype(jnp.float32), value.astype(jnp.float32)

    @jax.checkpoint
    def of_block(queries):
        return _whole(queries, key.astype(query.dtype), value.astype(query.dtype), upcast)

    out = jax.lax.map(of_block, queries)
    return out.swapaxes(0, 1).reshape(padded.shape)[:, :length]


def by_heads(query: jax.Array, key: jax.Array, value: jax.Array, upcast: bool = False) -> jax.Array:
    """Return the attention `[B,L,heads,d]` of arrays that are split into heads, one by one for each image."""
    batch, _, heads, width = query.shape
    split = [x.swapaxes(1, 2).reshape(batch * heads, 1, -1, 1, width) for x in (query, key, value)]
    out = jax.lax.map(lambda head: by_blocks(head[0], head[1], head[2], upcast), split)
    return out.reshape(batch, heads, -1, width).swapaxes(1, 2)


def by_pallas(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Return the attention `[B,L,heads,d]` of arrays that are split into heads, by Pallas' kernel for TPUs.

    L and M must be multiples of `LANES`. The kernel multiplies with float32 sums, which `upcast` is for.
    """
    from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, flash_attention

    width = query.shape[-1]
    padding = ((0, 0), (0, 0), (0, 0), (0, -width % LANES))
    padded = (jnp.pad(x.swapaxes(1, 2), padding) for x in (query, key, value))
    of_queries, of_keys = (
        next(size for size in (512, 384, 256, LANES) if x.shape[1] % size == 0) for x in (query, key)
    )
    sizes = BlockSizes(
        block_b=1,
        block_q=of_queries,
        block_k_major=of_keys,
        block_k=of_keys,
        block_q_major_dkv=of_queries,
        block_q_dkv=of_queries,
        block_k_major_dkv=of_keys,
        block_k_dkv=of_keys,
        block_q_dq=of_queries,
        block_k_major_dq=of_keys,
        block_k_dq=of_keys,
    )
    out = flash_attention(*padded, sm_scale=width**-0.5, block_sizes=sizes)
    return out[..., :width].swapaxes(1, 2)


def _cudnn_takes(query: jax.Array) -> bool:
    """Return True if cuDNN's kernel for this machine's GPUs takes the dtype and the size of the heads."""
    if jax.default_backend() != "gpu":
        return False
    capability = jax.devices()[0].compute_capability  # such as "9.0"; AMD's begin with letters
    if not capability[0].isdigit() or float(capability) < 8:
        return False
    width, widest = query.shape[-1], 256 if float(capability) >= 9 else 128
    return query.dtype.itemsize == 2 and width % 8 == 0 and width <= widest


def _pallas_takes(query: jax.Array, key: jax.Array) -> bool:
    lengths = query.shape[1], key.shape[1]
    return query.dtype != jnp.float16 and not any(length % LANES for length in lengths)


def _is_for_tpus(form: Form) -> bool:
    """Return True if the program that is traced is one for TPUs, in which a Pallas kernel may be."""
    platform = jax.default_backend()
    if form == "flash":
        return platform != "gpu"  # a CPU may compile for TPUs
    return platform == "tpu" and (
        jax.device_count() == 1 or bool(jax.sharding.get_abstract_mesh().manual_axes)
    )
