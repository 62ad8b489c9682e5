"""The optimisation of adversarial and guided prompts, as pure functions `init` and `step`.

A prompt consists of placeholder tokens, whose embeddings `w` `[n,D]` are optimised. Everything else is fixed:
Stable Diffusion, the model that the images shall be hard for, and the labels that they shall keep. Each step
generates images with the prompt and follows the gradient of the objective through the whole of sampling:

    min_w L_adv + λ L_guide    (Yeo et al., Controlled Training Data Generation, arXiv 2403.15309)

`stages.optimize` runs the steps, for several prompts at once, and saves the results.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.dynamic_scale import DynamicScale

from gap_jax.checks import expect_shape
from gap_jax.data.batch import Batch
from gap_jax.diffusion.align import Alignment, Sampling, fold_keys, generate
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.models.network import Network
from gap_jax.models.tokenizer import name_placeholders
from gap_jax.stages.objective import Sample, SetTerm, Term, objective, set_features
from gap_jax.stages.population import Population

Metrics = Mapping[str, jax.Array]
DEPTH_SAMPLING = Sampling()  # the paper's settings for depth


class EarlyStop(NamedTuple):
    """A rule that stops once the mean of the last `window` adversarial losses falls below `threshold`.

    The prompt then gets the embeddings after the oldest update of the window, as in the code of the paper's
    authors; with a window of 1, these are the last ones.
    """

    window: int
    threshold: float | np.float32 | jax.Array

    def check_first(self, loss: float) -> None:
        """Raise ValueError if the threshold and the first adversarial loss differ in sign.

        Warn if the first loss is below the threshold already.
        """
        if np.sign(loss) * np.sign(self.threshold) < 0:
            raise ValueError(
                f"early_stop's threshold {self.threshold} has the wrong sign: the adversarial loss, which is "
                f"minimised, begins at {loss:.4g}; did you mean {-self.threshold}?"
            )
        if loss < self.threshold:
            warnings.warn(
                f"early_stop's threshold {self.threshold} is passed at the first step, where the adversarial "
                f"loss is {loss:.4g}: prompts are not optimised any further. Set a lower threshold, such as "
                f"{loss - abs(loss) / 2:.2g}, or None",
                stacklevel=2,
            )


class PromptState(NamedTuple):
    """The state of one prompt's optimisation. For a population of prompts, all leaves get a leading axis.

    - `embeddings` float32 `[n,D]`: the placeholders' embeddings.
    - `opt_state`: the state of the optax optimiser.
    - `key`: the random key that all images' keys derive from; it never changes.
    - `step` int32: the number of steps so far, including skipped ones.
    - `losses` float32 `[window]`: the latest adversarial losses, oldest first; NaN before the first ones.
    - `past` float32 `[window,n,D]`: the embeddings after the updates that began with these losses.
    - `stopped` bool: True after early stopping; further steps change only `step` and `loss_scale`.
    - `skipped` int32: the number of consecutive updates skipped because a value was not finite.
    - `loss_scale`: the factor by which the loss is multiplied before it is differentiated in float16; None in
      other precisions.
    """

    embeddings: jax.Array
    opt_state: optax.OptState
    key: jax.Array
    step: jax.Array
    losses: jax.Array
    past: jax.Array
    stopped: jax.Array
    skipped: jax.Array
    loss_scale: DynamicScale | None = None


class PromptWeights(NamedTuple):
    """The arrays that a step reads but does not change. As arguments, they are not compiled into the program.

    - `pipeline`, `model`, `terms`: the parameters of the pipeline, the model and the objective's terms.
    - `uncond` float `[1,L,D]`: the text states of the negative prompt; None without one.
    - `threshold` float32: the threshold of early stopping.
    - `words` float32 `[m,D]`: the embeddings of real words; None if no prompt consists of them.
    - `uses_words` bool: True if the prompt consists of real words.
    """

    pipeline: Params
    model: Any
    terms: tuple[Any, ...]
    uncond: jax.Array | None
    threshold: jax.Array | np.float32 = np.float32(-np.inf)
    words: jax.Array | None = None
    uses_words: jax.Array | np.bool_ = np.bool_(False)


class PromptOptimizer(NamedTuple):
    """The pure functions of a prompt's optimisation, and the weights to call them with.

    - `init(key, embeddings [n,D]) -> PromptState`: the state before the first step.
    - `step(weights, state, batch) -> (PromptState, metrics)`: one update of the optimiser.
    - `spoken(weights, embeddings [n,D]) -> [n,D]`: the embeddings that the prompt consists of: those of the
      nearest words if it consists of real words, and else the same.
    - `render(weights, embeddings, batch, keys [B]) -> images`: the images of a prompt, float32 `[B,H,W,3]` in
      [0,1].
    """

    init: Callable[[jax.Array, jax.Array], PromptState]
    step: Callable[[PromptWeights, PromptState, Batch], tuple[PromptState, Metrics]]
    spoken: Callable[[PromptWeights, jax.Array], jax.Array]
    render: Callable[[PromptWeights, jax.Array, Batch, jax.Array], jax.Array]
    weights: PromptWeights
    early_stop: EarlyStop | None


def prompt_optimizer(
    pipe: Pipeline,
    params: Params,
    model: Network,
    terms: Sequence[Term | SetTerm],
    alignment: Alignment,
    optimizer: optax.GradientTransformation,
    *,
    placeholders: int,
    negative_prompt: str | None,
    sampling: Sampling = DEPTH_SAMPLING,
    accumulation: int = 1,
    early_stop: EarlyStop | None = None,
    axis_name: str | None = None,
    population_axes: tuple[str, ...] = (),
    population: int | None = None,
    words: jax.Array | None = None,
) -> PromptOptimizer:
    """Return the optimisation of a prompt `<0>,<1>,…` whose generated images minimise the sum of `terms`.

    - `model`: the network that the images are shown to; its prediction goes to the terms.
    - `terms`: each `Term` or `SetTerm` to minimise. Early stopping watches the term named `adversarial`.
    - `alignment`: the way to keep images faithful to the labels in a batch.
    - `optimizer`: any optax optimiser of the float32 embeddings; `adamw` is the paper's.
    - `placeholders`: the number n of placeholder tokens.
    - `negative_prompt`: encoded once, here. None switches classifier-free guidance off.
    - `accumulation`: the number A of micro-batches in a step's batch. They run one after another and their
      gradients are averaged.
    - `axis_name`: the mapped axis over which a batch is spread, if any. Every device must have equally many
      images.
    - `population_axes`: the mapped axes over which the prompts of a population are spread, outermost first;
      `parallel.POPULATION_AXES` in a `parallel.population_step`. Set terms then see the images of all
      prompts; without these axes, the images of each prompt are a set of their own.
    - `population`: the number of prompts that set terms see, if copies come after them to fill up devices;
      None: all.
    - `words`: the embeddings `[m,D]` of real words. Where `uses_words` of the weights is True, which it is by
      default if there are `words`, prompts consist of them, as in PEZ (Wen et al., arXiv 2302.03668): images
      are generated with the words of the largest cosine similarity to the embeddings, and the gradient with
      respect to these words updates the embeddings.

    `optimize` runs the result. Its function `render(weights, embeddings [n,D], batch, keys [B])` draws a
    prompt's images, float32 `[B,H,W,3]` in [0,1], and its field `weights` has the weights for that.

    A pipeline in float16 gets dynamic loss scaling (Micikevicius et al., arXiv 1710.03740), because gradients
    with respect to pixels and activations are often too small for float16. The scale starts at 2^16. It is
    halved after each micro-batch whose gradient overflows, and doubled after 2,000 without an overflow.

    A step's metrics are float32 scalars: `loss`, the value of each term by its name, `gradient_norm`,
    `skipped` (consecutive updates skipped), `stopped` (0 or 1) and, in float16, `loss_scale`. An image's
    noise is drawn from the state's key, the step and the image's position in the global batch, so the numbers
    of devices and micro-batches do not matter. An update is skipped if its loss or gradient is not finite.
    Early stopping sets the embeddings back to those after the oldest update of the window, from before the
    images lost their labels.

    A set term needs the images of all micro-batches, devices and prompts. If there is one and A is more than
    1, each step first generates all images once without a gradient and keeps only their features. Each
    micro-batch then replaces its own features by differentiable ones. The sum of the gradients is that of the
    whole set at once, and the memory is that of one micro-batch; the price is one more forward pass.

    Raises ValueError for settings that do not fit together, before anything is compiled. `step` raises
    ValueError for a batch that does not divide into micro-batches.
    """
    (evaluate_terms, term_params), features_of = objective(terms), set_features(terms)
    has_sets = any(isinstance(term, SetTerm) for term in terms)
    _check_settings(terms, placeholders, accumulation, early_stop)
    token_ids = pipe.tokenize([name_placeholders(placeholders)], placeholders)
    uncond = None
    if negative_prompt is not None:
        uncond = pipe.encode_text(params, pipe.tokenize([negative_prompt]))

    def init(key: jax.Array, embeddings: jax.Array) -> PromptState:
        expect_shape("embeddings", embeddings, (placeholders, pipe.text_encoder.hidden_size))
        state = initial_state(key, embeddings, optimizer=optimizer, early_stop=early_stop)
        return state._replace(loss_scale=_first_loss_scale(pipe))

    def spoken(weights: PromptWeights, embeddings: jax.Array) -> jax.Array:
        if weights.words is None:
            return embeddings
        return jnp.where(weights.uses_words, nearest_rows(weights.words, embeddings), embeddings)

    def generate_images(weights, embeddings, batch, keys):
        context = pipe.encode_text(weights.pipeline, token_ids, embeddings)
        images = generate(pipe, weights.pipeline, context, weights.uncond, batch, keys, alignment, sampling)
        return context, images

    def render(weights: PromptWeights, embeddings: jax.Array, batch: Batch, keys: jax.Array) -> jax.Array:
        return generate_images(weights, spoken(weights, embeddings), batch, keys)[1]

    def sample_of(embeddings, weights, batch, keys):
        context, images = generate_images(weights, embeddings, batch, keys)
        prediction = model.predict(weights.model, images)
        return Sample(images, context, prediction, batch, fold_keys(keys, "terms"))

    together_with = Population(axis_name, population_axes, population)

    def constant_features(weights, embeddings, number, stacked):
        """Return the features of all images of the population by term, or None if one pass has them all."""
        if accumulation == 1 or not has_sets:
            return None
        by_micro_batch = jax.lax.map(
            lambda micro_batch: features_of(
                weights.terms, sample_of(embeddings, weights, *micro_batch), number
            ),
            stacked,
        )
        return {name: together_with.gather(jnp.concatenate(rows)) for name, rows in by_micro_batch.items()}

    def step(weights: PromptWeights, state: PromptState, batch: Batch) -> tuple[PromptState, Metrics]:
        stacked = _split_micro_batches((batch, _image_keys(state, batch, axis_name)), accumulation)
        embeddings = spoken(weights, state.embeddings)
        constant = constant_features(weights, embeddings, state.step, stacked)

        def loss(embeddings, number, micro_batch):
            def together(name, own):
                if constant is None:
                    of_all = together_with.gather(jax.lax.stop_gradient(own))
                else:
                    of_all = constant[name]
                return together_with.replace(of_all, own, number)

            sample = sample_of(embeddings, weights, *micro_batch)
            return evaluate_terms(weights.terms, sample, state.step, together)

        def differentiate(loss_scale, numbered):
            if loss_scale is None:
                return None, jax.value_and_grad(loss, has_aux=True)(embeddings, *numbered)
            loss_scale, _, value, gradient = loss_scale.value_and_grad(
                loss, has_aux=True, axis_name=axis_name
            )(embeddings, *numbered)
            return loss_scale, (value, gradient)

        numbered = jnp.arange(accumulation), stacked
        loss_scale, outputs = jax.lax.scan(differentiate, state.loss_scale, numbered)
        (total, values), gradient = jax.tree.map(lambda x: x.mean(0), outputs)
        if axis_name is not None:
            total, values, gradient = jax.lax.pmean((total, values, gradient), axis_name)
        finite = jnp.isfinite(total) & jnp.isfinite(gradient).all()
        metrics = {"loss": total, **values, "gradient_norm": jnp.linalg.norm(gradient)}
        adversarial = values.get("adversarial", total)
        rule = None if early_stop is None else early_stop._replace(threshold=weights.threshold)
        state = next_state(state, gradient, finite, adversarial, optimizer=optimizer, early_stop=rule)
        if loss_scale is not None:
            state = state._replace(loss_scale=loss_scale)
            metrics["loss_scale"] = loss_scale.scale
        return state, metrics | {"skipped": state.skipped.astype(jnp.float32), "stopped": state.stopped * 1.0}

    weights = PromptWeights(
        params, model.params, term_params, uncond, words=words, uses_words=np.bool_(words is not None)
    )
    if early_stop is not None:
        weights = weights._replace(threshold=np.float32(early_stop.threshold))
    return PromptOptimizer(init, step, spoken, render, weights, early_stop)


def nearest_rows(table: jax.Array, embeddings: jax.Array) -> jax.Array:
    """Return the row of `table` `[m,D]` with the largest cosine similarity to each of `[n,D]`."""
    lengths = jnp.linalg.norm(table, axis=1)
    cosines = jnp.matmul(embeddings, table.T, precision="highest") / jnp.maximum(lengths, 1e-12)
    return table[jnp.argmax(cosines, 1)]


def initial_state(
    key: jax.Array,
    embeddings: jax.Array,
    *,
    optimizer: optax.GradientTransformation,
    early_stop: EarlyStop | None,
) -> PromptState:
    """Return the state before the first step, with embeddings `[n,D]`."""
    embeddings = jnp.asarray(embeddings, jnp.float32)
    window = 1 if early_stop is None else early_stop.window
    return PromptState(
        embeddings=embeddings,
        opt_state=optimizer.init(embeddings),
        key=key,
        step=jnp.int32(0),
        losses=jnp.full(window, jnp.nan, jnp.float32),
        past=jnp.zeros((window, *embeddings.shape)),
        stopped=jnp.bool_(False),
        skipped=jnp.int32(0),
    )


def next_state(
    state: PromptState,
    gradient: jax.Array,
    finite: jax.Array,
    adversarial: jax.Array,
    *,
    optimizer: optax.GradientTransformation,
    early_stop: EarlyStop | None,
) -> PromptState:
    """Return the state after one update with `gradient` float32 `[n,D]`.

    The embeddings stay as they are if the prompt has stopped or `finite`, a bool scalar, is False.
    `adversarial` is the adversarial loss of the state's embeddings, a float32 scalar.
    """
    updates, opt_state = optimizer.update(jnp.where(finite, gradient, 0.0), state.opt_state, state.embeddings)
    embeddings = optax.apply_updates(state.embeddings, updates)
    updated = state._replace(
        embeddings=embeddings,
        opt_state=opt_state,
        losses=jnp.append(state.losses[1:], adversarial),
        past=jnp.concatenate([state.past[1:], embeddings[None]]),
    )
    if early_stop is not None:
        stops = updated.losses.mean() < early_stop.threshold  # False while the window has a NaN
        updated = updated._replace(embeddings=jnp.where(stops, updated.past[0], embeddings), stopped=stops)
    unchanged = state.stopped | ~finite
    skipped = jnp.where(finite | state.stopped, 0, state.skipped + 1)
    without_key: dict[str, Any] = {"key": None}
    chosen = jax.tree.map(
        lambda old, new: jnp.where(unchanged, old, new),
        state._replace(**without_key),
        updated._replace(**without_key),
    )
    return chosen._replace(key=state.key, step=state.step + 1, skipped=skipped)


def _check_settings(
    terms: Sequence[Term | SetTerm], placeholders: int, accumulation: int, early_stop: EarlyStop | None
) -> None:
    if placeholders < 1:
        raise ValueError(f"placeholders must be at least 1, found {placeholders}")
    if accumulation < 1:
        raise ValueError(f"accumulation must be at least 1, found {accumulation}")
    if early_stop is not None:
        if early_stop.window < 1:
            raise ValueError(f"early_stop's window must be at least 1, found {early_stop.window}")
        names = [term.name for term in terms]
        if "adversarial" not in names:
            raise ValueError(
                f"early_stop watches the term named 'adversarial', which is missing; found {', '.join(names)}"
                ": add gap_jax.adversarial(…) to the terms, or leave early_stop out"
            )


def _first_loss_scale(pipe: Pipeline) -> DynamicScale | None:
    networks = (pipe.text_encoder, pipe.vae, pipe.unet, pipe.controlnet)
    if not any(network is not None and network.dtype == jnp.float16 for network in networks):
        return None
    return DynamicScale(fin_steps=jnp.int32(0), scale=jnp.float32(2**16))


def _image_keys(state: PromptState, batch: Batch, axis_name: str | None) -> jax.Array:
    """Return a key for each image on this device, derived from the image's position in the global batch."""
    count = len(next(iter(batch.values())))
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
    key = jax.random.fold_in(state.key, state.step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count))


def _split_micro_batches(tree: Any, count: int) -> Any:
    """Reshape every leaf `[count·B,…]` to `[count,B,…]`."""

    def split(leaf):
        if len(leaf) % count:
            raise ValueError(
                f"the images per device must be a multiple of the number of micro-batches, {count}; found "
                f"{len(leaf)}: change the batch or the accumulation"
            )
        return leaf.reshape(count, -1, *leaf.shape[1:])

    return jax.tree.map(split, tree)
