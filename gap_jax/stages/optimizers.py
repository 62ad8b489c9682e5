"""The optimisers: AdamW for prompts; for models, Adam with AMSGrad as torch has it, unlike optax's."""

import jax
import jax.numpy as jnp
import optax


def adamw(
    learning_rate: float,
    *,
    images_per_step: int = 1,
    steps: int | None = None,
    decay: str = "constant",
    warmup_steps: int = 0,
    weight_decay: float = 1e-2,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Return AdamW as the paper uses it, with the learning rate `learning_rate · images_per_step`.

    - `images_per_step`: the size of a step's global batch: all micro-batches of all devices.
    - `decay`: `constant`, or `linear` or `cosine` to 0 at step `steps`.
    - `warmup_steps`: the number of first steps in which the rate grows linearly from 0.

    Raises ValueError for an unknown `decay`, or for one that lacks `steps` beyond the warm-up.
    """
    peak = learning_rate * images_per_step
    if decay != "constant" and (steps is None or steps <= warmup_steps):
        raise ValueError(f"decay {decay!r} needs steps beyond warmup_steps {warmup_steps}, found {steps}")
    decay_steps = (steps or 0) - warmup_steps
    schedules = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, 0.0, decay_steps),
        "cosine": lambda: optax.cosine_decay_schedule(peak, decay_steps),
    }
    if decay not in schedules:
        raise ValueError(f"decay must be one of {', '.join(schedules)}, found {decay!r}")
    schedule = schedules[decay]()
    if warmup_steps:
        warmup = optax.linear_schedule(0.0, peak, warmup_steps)
        schedule = optax.join_schedules([warmup, schedule], [warmup_steps])
    return optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay)


def amsgrad(
    learning_rate: optax.ScalarOrSchedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Return the optimiser `torch.optim.Adam(amsgrad=True)`, with a constant or scheduled learning rate.

    An update is divided by the square root of the largest second moment so far (Reddi et al., arXiv
    1904.09237, algorithm 2). The maximum is over raw second moments, and its bias is corrected afterwards.
    `optax.amsgrad` corrects the bias before it takes the maximum. One of the first gradients, whose
    correction is large, then keeps all later updates small.
    """
    return optax.chain(_scale_by_amsgrad(b1, b2, eps), optax.scale_by_learning_rate(learning_rate))


def _scale_by_amsgrad(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    def init(params):
        zeros = optax.tree.zeros_like(params)
        return optax.ScaleByAmsgradState(jnp.zeros((), jnp.int32), mu=zeros, nu=zeros, nu_max=zeros)

    def update(gradients, state, params=None):
        mu = optax.tree.update_moment(gradients, state.mu, b1, 1)
        nu = optax.tree.update_moment(gradients, state.nu, b2, 2)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)
        count = optax.safe_increment(state.count)
        updates = jax.tree.map(
            lambda mean, square: mean / (jnp.sqrt(square) + eps),
            optax.tree.bias_correction(mu, b1, count),
            optax.tree.bias_correction(nu_max, b2, count),
        )
        return updates, optax.ScaleByAmsgradState(count, mu=mu, nu=nu, nu_max=nu_max)

    return optax.GradientTransformation(init, update)
