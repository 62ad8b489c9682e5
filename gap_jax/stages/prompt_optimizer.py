"""Adversarial and guided prompts: the optimisation of placeholder embeddings as an `(init, step)` pair.

Yeo et al., Controlled Training Data Generation with Diffusion Models (arXiv 2403.15309): `min_w L_adv + λ
L_guide`, through the whole of sampling, over the embeddings `w` `[n,D]` alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gap_jax.diffusion.align import Alignment, Batch, Sampling, fold_keys, generate
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.models.network import Network
from gap_jax.stages.objective import Sample, Term, objective

Metrics = Mapping[str, jax.Array]
DEPTH_SAMPLING = Sampling()


class EarlyStop(NamedTuple):
    """Stop when the mean of the last `window` adversarial losses falls below `threshold`."""

    window: int
    threshold: float


class State(NamedTuple):
    """All that is needed to go on with one prompt; a population's leaves have a leading axis."""

    embeddings: jax.Array  # float32 [n,D]
    opt_state: optax.OptState
    key: jax.Array
    step: jax.Array  # int32, steps made, skipped ones included
    losses: jax.Array  # float32 [window], the last adversarial losses; NaN where there is none yet
    past: jax.Array  # float32 [window,n,D], the embeddings that had them
    stopped: jax.Array  # bool: from here on, steps change nothing
    skipped: jax.Array  # int32, updates skipped in a row because something was not finite


class Weights(NamedTuple):
    """The arrays that a step reads and does not change: an argument of it, so that none is compiled in."""

    pipeline: Params
    model: Any
    terms: tuple[Any, ...]
    uncond: jax.Array | None
    threshold: jax.Array | np.float32 = np.float32(-np.inf)  # early stopping's


class PromptOptimizer(NamedTuple):
    """Pure functions, and the weights they are called with.

    - `init(key, embeddings [n,D]) -> State`
    - `step(weights, state, batch) -> (State, metrics)`: one update of the optimiser.
    - `render(weights, embeddings, batch, keys [B]) -> images [B,H,W,3]` in [0,1]
    """

    init: Callable[[jax.Array, jax.Array], State]
    step: Callable[[Weights, State, Batch], tuple[State, Metrics]]
    render: Callable[[Weights, jax.Array, Batch, jax.Array], jax.Array]
    weights: Weights
    early_stop: EarlyStop | None


def prompt_optimizer(
    pipe: Pipeline,
    params: Params,
    model: Network,
    terms: Sequence[Term],
    alignment: Alignment,
    optimizer: optax.GradientTransformation,
    *,
    placeholders: int,
    negative_prompt: str | None,
    sampling: Sampling = DEPTH_SAMPLING,
    accumulation: int = 1,
    early_stop: EarlyStop | None = None,
    axis_name: str | None = None,
) -> PromptOptimizer:
    """Optimise `placeholders` embeddings so that the images of the prompt `<0>,<1>,…` minimise `terms`.

    - `terms`: `loop.objective.Term`s; early stopping watches the one named `adversarial`.
    - `optimizer`: over `w`, float32; the paper's is `adamw` below.
    - `negative_prompt`: encoded once, here; None: no classifier-free guidance.
    - `accumulation` A: a step's batch holds A micro-batches, one after another; their gradients are averaged.
    - `axis_name`: the mapped axis over which the batch is spread, if any; every device has as many images.

    A step's metrics are float32 scalars: `loss`, each term's value by its name, `gradient_norm`,
    `skipped` (the run of skipped updates), `stopped`. An image's noise is drawn from the state's key, the
    step and the image's place in the global batch, so that devices and micro-batches do not matter. An update
    whose loss or gradient is not finite is skipped. On early stopping the embeddings become the oldest of
    the window, of before the images lost their label.

    Raises ValueError for settings that do not fit, before compiling; the step, for a batch that does not
    divide into micro-batches.
    """
    evaluate, term_params = objective(terms)
    _check(terms, placeholders, accumulation, early_stop)
    prompt = ",".join(f"<{i}>" for i in range(placeholders))
    token_ids = pipe.tokenize([prompt], placeholders)
    uncond = None
    if negative_prompt is not None:
        uncond = pipe.encode_text(params, pipe.tokenize([negative_prompt]))

    def init(key: jax.Array, embeddings: jax.Array) -> State:
        width = pipe.text_encoder.hidden_size
        if embeddings.shape != (placeholders, width):
            raise ValueError(
                f"embeddings must have shape [{placeholders}, {width}], found {list(embeddings.shape)}"
            )
        return begin(key, embeddings, optimizer=optimizer, early_stop=early_stop)

    def forward(weights, embeddings, batch, keys):
        context = pipe.encode_text(weights.pipeline, token_ids, embeddings)
        images = generate(pipe, weights.pipeline, context, weights.uncond, batch, keys, alignment, sampling)
        return context, images

    def render(weights: Weights, embeddings: jax.Array, batch: Batch, keys: jax.Array) -> jax.Array:
        return forward(weights, embeddings, batch, keys)[1]

    def loss(embeddings, weights, batch, keys, step):
        context, images = forward(weights, embeddings, batch, keys)
        prediction = model.predict(weights.model, images)
        sample = Sample(images, context, prediction, batch, fold_keys(keys, "terms"))
        return evaluate(weights.terms, sample, step)

    def step(weights: Weights, state: State, batch: Batch) -> tuple[State, Metrics]:
        stacked = _micro_batches((batch, _image_keys(state, batch, axis_name)), accumulation)

        def accumulate(_, micro):
            return None, jax.value_and_grad(loss, has_aux=True)(state.embeddings, weights, *micro, state.step)

        _, outputs = jax.lax.scan(accumulate, None, stacked)
        (total, values), gradient = jax.tree.map(lambda x: x.mean(0), outputs)
        if axis_name is not None:
            total, values, gradient = jax.lax.pmean((total, values, gradient), axis_name)
        finite = jnp.isfinite(total) & jnp.isfinite(gradient).all()
        metrics = {"loss": total, **values, "gradient_norm": jnp.linalg.norm(gradient)}
        adversarial = values.get("adversarial", total)
        stop = None if early_stop is None else early_stop._replace(threshold=weights.threshold)
        state = advance(state, gradient, finite, adversarial, optimizer=optimizer, early_stop=stop)
        return state, metrics | {"skipped": state.skipped.astype(jnp.float32), "stopped": state.stopped * 1.0}

    weights = Weights(params, model.params, term_params, uncond)
    if early_stop is not None:
        weights = weights._replace(threshold=np.float32(early_stop.threshold))
    return PromptOptimizer(init, step, render, weights, early_stop)


def begin(
    key: jax.Array,
    embeddings: jax.Array,
    *,
    optimizer: optax.GradientTransformation,
    early_stop: EarlyStop | None,
) -> State:
    """The state before the first step, from embeddings `[n,D]`."""
    embeddings = jnp.asarray(embeddings, jnp.float32)
    window = 1 if early_stop is None else early_stop.window
    return State(
        embeddings=embeddings,
        opt_state=optimizer.init(embeddings),
        key=key,
        step=jnp.int32(0),
        losses=jnp.full(window, jnp.nan, jnp.float32),
        past=jnp.zeros((window, *embeddings.shape)),
        stopped=jnp.bool_(False),
        skipped=jnp.int32(0),
    )


def advance(
    state: State,
    gradient: jax.Array,
    finite: jax.Array,
    adversarial: jax.Array,
    *,
    optimizer: optax.GradientTransformation,
    early_stop: EarlyStop | None,
) -> State:
    """The state after an update with `gradient` `[n,D]`, or without one if it has stopped or is not `finite`.

    `adversarial` is the loss that the state's embeddings had.
    """
    updates, opt_state = optimizer.update(jnp.where(finite, gradient, 0.0), state.opt_state, state.embeddings)
    new = state._replace(
        embeddings=optax.apply_updates(state.embeddings, updates),
        opt_state=opt_state,
        losses=jnp.append(state.losses[1:], adversarial),
        past=jnp.concatenate([state.past[1:], state.embeddings[None]]),
    )
    if early_stop is not None:
        stops = new.losses.mean() < early_stop.threshold  # False while the window has a NaN
        new = new._replace(embeddings=jnp.where(stops, new.past[0], new.embeddings), stopped=stops)
    keep = state.stopped | ~finite
    skipped = jnp.where(finite | state.stopped, 0, state.skipped + 1)
    chosen = jax.tree.map(
        lambda old, new: jnp.where(keep, old, new), state._replace(key=None), new._replace(key=None)
    )
    return chosen._replace(key=state.key, step=state.step + 1, skipped=skipped)


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
    """The paper's AdamW; `learning_rate` is multiplied by `images_per_step` (batch × accumulation × devices).

    `decay`: `constant`, or `linear` or `cosine` to 0 at `steps`, after a linear warm-up over `warmup_steps`.
    """
    peak = learning_rate * images_per_step
    if decay != "constant" and (steps is None or steps <= warmup_steps):
        raise ValueError(f"decay {decay!r} needs steps beyond warmup_steps {warmup_steps}, found {steps}")
    schedules = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, 0.0, steps - warmup_steps),
        "cosine": lambda: optax.cosine_decay_schedule(peak, steps - warmup_steps),
    }
    if decay not in schedules:
        raise ValueError(f"decay must be one of {', '.join(schedules)}, found {decay!r}")
    schedule = schedules[decay]()
    if warmup_steps:
        warmup = optax.linear_schedule(0.0, peak, warmup_steps)
        schedule = optax.join_schedules([warmup, schedule], [warmup_steps])
    return optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay)


def _check(terms, placeholders, accumulation, early_stop) -> None:
    if placeholders < 1:
        raise ValueError(f"placeholders must be at least 1, found {placeholders}")
    if accumulation < 1:
        raise ValueError(f"accumulation must be at least 1, found {accumulation}")
    if early_stop is not None:
        if early_stop.window < 1:
            raise ValueError(f"early_stop's window must be at least 1, found {early_stop.window}")
        if "adversarial" not in [term.name for term in terms]:
            raise ValueError("early_stop watches the term named 'adversarial', and there is none")


def _image_keys(state: State, batch: Batch, axis_name: str | None) -> jax.Array:
    """A key for each image of this device, from its place in the global batch."""
    count = len(next(iter(batch.values())))
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
    key = jax.random.fold_in(state.key, state.step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count))


def _micro_batches(tree: Any, count: int) -> Any:
    """Every leaf `[count·B,…]` as `[count,B,…]`."""

    def split(leaf):
        if len(leaf) % count:
            raise ValueError(
                f"a batch of {len(leaf)} images per device does not divide into {count} micro-batches"
            )
        return leaf.reshape(count, -1, *leaf.shape[1:])

    return jax.tree.map(split, tree)
