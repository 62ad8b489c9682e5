"""The noise schedule of a `scheduler_config.json`, and the solvers that step through it.

A solver is a table of coefficients, one row a step. A step goes from the latent `x` (signal level `alpha`,
noise level `sigma`) to the next one, `x'`, by the network's estimates of the clean latent `x0` and of the
noise `eps`:

    x' = alpha' x0 + direction eps + correction (x0 - previous x0) + noise n,    n ~ N(0, 1)

DDIM (Song et al. 2020, arXiv 2010.02502, eq. 12) has no correction. DPM-Solver++(2M) (Lu et al. 2022, arXiv
2211.01095, algorithm 2) is DDIM with eta = 0 and the correction that makes it second order. Euler's method
(Karras et al. 2022, arXiv 2206.00364, algorithm 1) is DDIM with eta = 0 on noise levels of its own. The
sampler of latent consistency models (Luo et al. 2023, arXiv 2310.04378, algorithm 3) mixes x0 with x, which
is alpha x0 + sigma eps.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The fields of diffusers' scheduler configurations that define the diffusion; hashable.

    Raises ValueError for a value that is not supported or does not fit the others.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    timestep_spacing: str = "leading"
    prediction_type: str = "epsilon"
    rescale_betas_zero_snr: bool = False

    def __post_init__(self):
        for field, supported in (
            ("beta_schedule", ("linear", "scaled_linear", "squaredcos_cap_v2")),
            ("timestep_spacing", ("leading", "trailing", "linspace")),
            ("prediction_type", ("epsilon", "v_prediction")),
        ):
            if getattr(self, field) not in supported:
                raise ValueError(f"{field} must be one of {supported}, found {getattr(self, field)!r}")
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas must have as many values as num_train_timesteps, {self.num_train_timesteps}; "
                f"found {len(self.trained_betas)} values"
            )
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "with rescale_betas_zero_snr, prediction_type must be 'v_prediction', found 'epsilon': no "
                "image can be recovered from the noise at the last timestep, which has no signal"
            )

    def alphas_cumprod(self) -> np.ndarray:
        """Return the share of signal variance at each training timestep, float64 `[num_train_timesteps]`."""
        steps = self.num_train_timesteps
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas, np.float64)
        elif self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, steps)
        elif self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, steps) ** 2
        else:
            bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
        alphas = np.cumprod(1 - betas)
        if self.rescale_betas_zero_snr:  # Lin et al. 2023, arXiv 2305.08891, algorithm 1
            root = np.sqrt(alphas)
            alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        return alphas


class SolverCoefficients(NamedTuple):
    """The coefficients of a solver's steps, float32 `[steps]` each, as in the equation above."""

    timestep: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    next_alpha: np.ndarray
    direction: np.ndarray
    correction: np.ndarray
    noise: np.ndarray


Solver = Callable[[Schedule, int, float, float], SolverCoefficients]


def ddim(schedule: Schedule, num_steps: int, strength: float = 1.0, eta: float = 0.0) -> SolverCoefficients:
    """Return DDIM's coefficients for the last `⌊num_steps · strength⌋` of `num_steps` steps.

    - `num_steps`: 1 to the schedule's `num_train_timesteps`, spread over the whole schedule.
    - `strength` in (0,1]: the share of the steps that is kept.
    - `eta` in [0,1]: 0 is deterministic, 1 has the variance of ancestral sampling.

    Raises ValueError for a value out of range, and if no step is left.
    """
    total = schedule.num_train_timesteps
    _check_steps(num_steps, strength, total)
    if schedule.timestep_spacing == "linspace":
        spaced: np.ndarray = np.linspace(0, total - 1, num_steps).round()[::-1]
    elif schedule.timestep_spacing == "leading":
        spaced = np.arange(num_steps)[::-1] * (total // num_steps) + schedule.steps_offset
    else:
        spaced = np.arange(total, 0, -total / num_steps).round()[:num_steps] - 1
    alphas = schedule.alphas_cumprod()
    timesteps = _last_part(spaced.astype(int), num_steps, strength, total)
    following = timesteps - total // num_steps
    final = 1.0 if schedule.set_alpha_to_one else alphas[0]
    signal, next_signal = alphas[timesteps], np.where(following >= 0, alphas[following], final)
    variance = np.maximum((1 - next_signal) / (1 - signal) * (1 - signal / next_signal), 0)
    noise = eta * np.sqrt(variance)
    direction = np.sqrt(np.maximum(1 - next_signal - noise**2, 0))
    return _coefficients(timesteps, signal, next_signal, direction, np.zeros_like(signal), noise)


def dpm_solver(
    schedule: Schedule, num_steps: int, strength: float = 1.0, eta: float = 0.0
) -> SolverCoefficients:
    """Return DPM-Solver++(2M)'s coefficients: as good as DDIM in about half the steps.

    Arguments and errors are those of `ddim`, but `eta` must be 0, since the solver is deterministic.
    """
    total = schedule.num_train_timesteps
    _check_steps(num_steps, strength, total)
    if eta:
        raise ValueError(f"dpm_solver is deterministic: eta must be 0, found {eta}; use ddim")
    if schedule.timestep_spacing == "linspace":
        spaced: np.ndarray = np.linspace(0, total - 1, num_steps + 1).round()[:0:-1]
    elif schedule.timestep_spacing == "leading":
        spaced = np.arange(1, num_steps + 1)[::-1] * (total // (num_steps + 1)) + schedule.steps_offset
    else:
        spaced = np.arange(total, 0, -total / num_steps).round()[:num_steps] - 1
    timesteps = _last_part(spaced.astype(int), num_steps, strength, total)
    signal = np.maximum(schedule.alphas_cumprod()[timesteps], 2.0**-24)
    next_signal = np.append(signal[1:], 1.0)
    alpha, sigma = np.sqrt(signal), np.sqrt(1 - signal)
    next_alpha, next_sigma = np.sqrt(next_signal), np.sqrt(1 - next_signal)
    interval = np.diff(np.log(alpha / sigma))
    correction = np.zeros_like(signal)
    inner = slice(1, len(signal) - 1)
    gain = next_alpha - next_sigma * alpha / sigma
    correction[inner] = (gain[inner] / 2) * interval[1:] / interval[:-1]
    return _coefficients(timesteps, signal, next_signal, next_sigma, correction, np.zeros_like(signal))


def euler(schedule: Schedule, num_steps: int, strength: float = 1.0, eta: float = 0.0) -> SolverCoefficients:
    """Return the coefficients of Euler's method, as diffusers' `EulerDiscreteScheduler` has it.

    Its timesteps may lie between those of the training, with noise levels interpolated. It ends at no noise,
    whatever `set_alpha_to_one` says. Few-step models such as SD-Turbo are published with it. Arguments and
    errors are those of `ddim`, but `eta` must be 0.

    Sampling starts from standard normal noise. With the spacings "trailing" and "linspace", diffusers starts
    from that noise times sigma, 0.998 for Stable Diffusion. `Pipeline.add_noise` to zeros returns it.
    """
    total = schedule.num_train_timesteps
    _check_steps(num_steps, strength, total)
    _check_no_eta("euler", eta)
    if schedule.timestep_spacing == "linspace":
        spaced: np.ndarray = np.linspace(0, total - 1, num_steps)[::-1]
    elif schedule.timestep_spacing == "leading":
        spaced = np.arange(num_steps)[::-1] * (total // num_steps) + schedule.steps_offset
    else:
        spaced = np.arange(total, 0, -total / num_steps).round()[:num_steps] - 1
    timesteps = _last_part(spaced, num_steps, strength, total)
    alphas = schedule.alphas_cumprod()
    alphas = np.where(alphas > 0, alphas, 2.0**-24)  # as in diffusers, for a last timestep without signal
    ratios = np.interp(timesteps, np.arange(total), np.sqrt((1 - alphas) / alphas))  # sigma / alpha
    signal = 1 / (1 + ratios**2)
    next_signal = np.append(signal[1:], 1.0)
    zeros = np.zeros_like(signal)
    return _coefficients(timesteps, signal, next_signal, np.sqrt(1 - next_signal), zeros, zeros)


def lcm(
    schedule: Schedule,
    num_steps: int,
    strength: float = 1.0,
    eta: float = 0.0,
    *,
    original_steps: int = 50,
    timestep_scaling: float = 10.0,
) -> SolverCoefficients:
    """Return the coefficients of the sampler of latent consistency models, diffusers' `LCMScheduler`.

    Each step but the last adds new noise, so that `Pipeline.denoise` needs a key. It is for models that were
    trained for 1 to 8 such steps, such as Stable Diffusion with an LCM LoRA.

    - `original_steps`: the number of DDIM steps that the model was distilled from.
    - `timestep_scaling`: the scale of the boundary condition's timesteps.

    Other arguments and errors are those of `ddim`, but `eta` must be 0, and there are at most
    `original_steps` steps.
    """
    total = schedule.num_train_timesteps
    _check_steps(num_steps, strength, total)
    _check_no_eta("lcm", eta)
    if not num_steps <= original_steps <= total:
        raise ValueError(f"num_steps must be in 1..{original_steps} for lcm, found {num_steps}")
    original = (np.arange(1, original_steps + 1) * (total // original_steps) - 1)[::-1]
    chosen = np.floor(np.linspace(0, original_steps, num_steps, endpoint=False)).astype(int)
    timesteps = _last_part(original[chosen], num_steps, strength, total)
    alphas = schedule.alphas_cumprod()
    signal, next_signal = alphas[timesteps], np.append(alphas[timesteps[1:]], 1.0)
    scaled, data = timesteps * timestep_scaling, 0.5  # the standard deviation of data, as LCMs assume it
    skip, out = data**2 / (scaled**2 + data**2), scaled / np.sqrt(scaled**2 + data**2)
    next_alpha = np.sqrt(next_signal)
    coefficients = _coefficients(
        timesteps,
        signal,
        next_signal,
        next_alpha * skip * np.sqrt(1 - signal),
        np.zeros_like(signal),
        np.sqrt(1 - next_signal),
    )
    return coefficients._replace(
        next_alpha=np.asarray(next_alpha * (out + skip * np.sqrt(signal)), np.float32)
    )


SOLVERS: dict[str, Solver] = {"ddim": ddim, "dpm-solver": dpm_solver, "euler": euler, "lcm": lcm}


def _check_no_eta(name: str, eta: float) -> None:
    if eta:
        raise ValueError(f"{name} has no eta: it must be 0, found {eta}; use ddim")


def _check_steps(num_steps: int, strength: float, total: int) -> None:
    if not 1 <= num_steps <= total:
        raise ValueError(f"num_steps must be in 1..{total}, found {num_steps}")
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], found {strength}")
    if int(num_steps * strength) < 1:
        raise ValueError(f"strength {strength} leaves none of {num_steps} steps: raise one of the two")


def _last_part(timesteps: np.ndarray, num_steps: int, strength: float, total: int) -> np.ndarray:
    """Return the last `⌊num_steps · strength⌋` timesteps; raise ValueError for one outside the schedule."""
    if timesteps.max() >= total or timesteps.min() < 0:
        raise ValueError(
            f"timesteps must be in 0..{total - 1}, found {timesteps.min()} to {timesteps.max()}: check the "
            "schedule's steps_offset"
        )
    return timesteps[num_steps - int(num_steps * strength) :]


def _coefficients(timesteps, signal, next_signal, direction, correction, noise) -> SolverCoefficients:
    """Return coefficients as float32; `signal` and `next_signal` are shares of variance, squares of alpha."""
    levels = np.sqrt(signal), np.sqrt(1 - signal), np.sqrt(next_signal)
    columns = timesteps, *levels, direction, correction, noise
    return SolverCoefficients(*(np.asarray(column, np.float32) for column in columns))
