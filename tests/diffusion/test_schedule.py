"""Tests that the solvers equal diffusers' schedulers, for every spacing, offset and prediction type."""

import itertools

import chex
import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gap_jax.diffusion.sampler import sample
from gap_jax.diffusion.schedule import Schedule, ddim, dpm_solver, euler, lcm
from tests.torch_references.folders import relative_error

STABLE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
CONFIGS = [
    STABLE
    | dict(timestep_spacing=spacing, steps_offset=offset, set_alpha_to_one=to_one, prediction_type=kind)
    for spacing, offset, to_one, kind in itertools.product(
        ["leading", "trailing", "linspace"], [0, 1], [True, False], ["epsilon", "v_prediction"]
    )
    if not (spacing != "leading" and offset)
] + [
    dict(beta_schedule="linear", clip_sample=False, timestep_spacing="leading"),
    dict(beta_schedule="squaredcos_cap_v2", clip_sample=False, timestep_spacing="leading"),
    dict(
        timestep_spacing="leading",
        trained_betas=np.linspace(1e-4, 0.03, 500).tolist(),
        num_train_timesteps=500,
        clip_sample=False,
    ),
    STABLE | dict(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"),
]


def ours(config, solver, start, outputs, **options):
    fields = {key: value for key, value in config.items() if key in Schedule.__dataclass_fields__}
    if "trained_betas" in fields:
        fields["trained_betas"] = tuple(fields["trained_betas"])
    schedule = Schedule(**fields)
    coefficients = solver(schedule, len(outputs), **options)
    timesteps = coefficients.timestep.astype(int).tolist()

    def network(x, timestep, guided):
        return outputs.mean(0) * 0.3 + 0.1 * x + timestep / 1000

    return sample(network, start, coefficients, prediction_type=schedule.prediction_type), timesteps


def theirs(scheduler, start, outputs):
    scheduler.set_timesteps(len(outputs))
    x = torch.from_numpy(start)
    for timestep in scheduler.timesteps:
        output = torch.from_numpy(outputs.mean(0)) * 0.3 + 0.1 * x + timestep / 1000
        x = scheduler.step(output, timestep, x).prev_sample
    return x, scheduler.timesteps.tolist()


@pytest.mark.parametrize("num_steps", [1, 2, 17])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, list(config.values())[3:])))
def test_solvers_equal_diffusers(config, num_steps):
    rng = np.random.default_rng(num_steps)
    start = rng.standard_normal((1, 2, 3, 4), dtype=np.float32)
    outputs = rng.standard_normal((num_steps, 1, 2, 3, 4), dtype=np.float32)
    references = [(ddim, diffusers.DDIMScheduler(**config))]
    if config.get("beta_schedule") != "squaredcos_cap_v2":
        multistep = {
            key: value for key, value in config.items() if key not in ("clip_sample", "set_alpha_to_one")
        }
        references.append((dpm_solver, diffusers.DPMSolverMultistepScheduler(**multistep)))
    for solver, scheduler in references:
        latents, timesteps = ours(config, solver, start, outputs)
        expected, reference = theirs(scheduler, start, outputs)
        assert timesteps == reference
        assert relative_error(latents, expected) < 1e-4, solver.__name__


def schedule_of(config):
    return Schedule(**{key: value for key, value in config.items() if key in Schedule.__dataclass_fields__})


EULER = [config for config in CONFIGS[:-1] if "trained_betas" not in config]


@pytest.mark.parametrize("num_steps", [1, 4, 17])
@pytest.mark.parametrize("config", EULER, ids=lambda config: "-".join(map(str, list(config.values())[3:])))
def test_euler_equals_diffusers(config, num_steps):
    """Diffusers' latents are ours divided by alpha, and its network sees ours."""
    rng = np.random.default_rng(num_steps)
    start = rng.standard_normal((1, 2, 3, 4), dtype=np.float32)
    outputs = rng.standard_normal((num_steps, 1, 2, 3, 4), dtype=np.float32)
    latents, _ = ours(config, euler, start, outputs)
    given = {key: value for key, value in config.items() if key not in ("clip_sample", "set_alpha_to_one")}
    scheduler = diffusers.EulerDiscreteScheduler(**given)
    scheduler.set_timesteps(num_steps)
    coefficients = euler(schedule_of(config), num_steps)
    np.testing.assert_allclose(coefficients.timestep, scheduler.timesteps, rtol=1e-6)
    x = torch.from_numpy(start) * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    for timestep in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, timestep)
        output = torch.from_numpy(outputs.mean(0)) * 0.3 + 0.1 * seen + timestep / 1000
        x = scheduler.step(output, timestep, x).prev_sample
    assert relative_error(latents, x) < 1e-4


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 7])
def test_lcm_equals_diffusers(num_steps, prediction_type, monkeypatch):
    rng = np.random.default_rng(num_steps)
    start, output = rng.standard_normal((2, 1, 2, 3, 4), dtype=np.float32)
    config = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    config |= dict(prediction_type=prediction_type)
    keys = jax.random.split(jax.random.key(num_steps), 1)
    draw = [jax.random.normal(jax.random.fold_in(keys[0], i), (2, 3, 4))[None] for i in range(num_steps)]
    noises = iter(torch.from_numpy(np.array(noise)) for noise in draw)
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(noises))
    scheduler = diffusers.LCMScheduler(**config)
    scheduler.set_timesteps(num_steps)
    coefficients = lcm(Schedule(**config), num_steps)
    assert coefficients.timestep.astype(int).tolist() == scheduler.timesteps.tolist()
    assert np.count_nonzero(coefficients.noise) == num_steps - 1
    latents = sample(
        lambda x, timestep, guided: output * 0.3 + 0.1 * x + timestep / 1000,
        start,
        coefficients,
        prediction_type=prediction_type,
        keys=keys,
    )
    x = torch.from_numpy(start)
    for timestep in scheduler.timesteps:
        predicted = torch.from_numpy(output) * 0.3 + 0.1 * x + timestep / 1000
        x = scheduler.step(predicted, timestep, x).prev_sample
    assert relative_error(latents, x) < 1e-5


def test_lcm_has_no_more_steps_than_it_was_distilled_from():
    with pytest.raises(ValueError, match=r"num_steps must be in 1\.\.50 for lcm, found 51"):
        lcm(Schedule(), 51)


class OracleTest(chex.TestCase):
    """DDIM ends at the clean latents, whatever the steps, if the network knows them."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_ddim_recovers_the_clean_latents(self):
        for kind, eta in itertools.product(("epsilon", "v_prediction"), (0.0, 1.0)):
            schedule = Schedule(prediction_type=kind)
            alphas = jnp.asarray(schedule.alphas_cumprod(), jnp.float32)
            clean, start = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 5), dtype=np.float32)
            keys = jax.random.split(jax.random.key(0), 2) if eta else None

            def predict(x, timestep, guided, clean=clean, alphas=alphas, kind=kind):
                alpha, sigma = (
                    jnp.sqrt(alphas[timestep.astype(int)]),
                    jnp.sqrt(1 - alphas[timestep.astype(int)]),
                )
                noise = (x - alpha * clean) / sigma
                return noise if kind == "epsilon" else alpha * noise - sigma * clean

            def denoise(start, predict=predict, schedule=schedule, keys=keys, eta=eta):
                coefficients = ddim(schedule, 7, eta=eta)
                return sample(
                    predict, start, coefficients, prediction_type=schedule.prediction_type, keys=keys
                )

            np.testing.assert_allclose(self.variant(denoise)(start), clean, atol=1e-3)


def test_betas_must_be_as_many_as_timesteps():
    with pytest.raises(ValueError, match="3 values"):
        Schedule(trained_betas=(0.1, 0.2, 0.3))


def test_zero_terminal_snr_needs_v_prediction():
    with pytest.raises(ValueError, match="v_prediction"):
        Schedule(rescale_betas_zero_snr=True, prediction_type="epsilon")


@pytest.mark.parametrize(
    ("field", "value"),
    [("beta_schedule", "sigmoid"), ("timestep_spacing", "karras"), ("prediction_type", "sample")],
)
def test_an_unknown_schedule_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        Schedule(**{field: value})


@pytest.mark.parametrize("solver", [dpm_solver, euler, lcm])
def test_only_ddim_has_eta(solver):
    with pytest.raises(ValueError, match=r"(eta|it) must be 0"):
        solver(Schedule(), 5, eta=1.0)
