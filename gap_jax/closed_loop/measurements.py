"""The measurements of one seed: which model scored what on which test set, and their file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import jax

from gap_jax import parallel
from gap_jax.files import read_json, write_json
from gap_jax.report.results import AVERAGE, WORST
from gap_jax.stages.evaluate import SetKey
from gap_jax.tasks.metric import Metric


class ModelKey(NamedTuple):
    """The identity of a measured model.

    - `arm`: the arm it was fine-tuned in, or `constant` or `critic`.
    - `iteration`: the iteration after which it was measured, from 0.
    - `images`: how many generated images it was fine-tuned with; None: all of the arm's.
    """

    arm: str
    iteration: int = 0
    images: int | None = None


def result_arm(key: ModelKey, iterations: int) -> str:
    """Return the name in the results of an arm after an iteration; the last one has the arm's own name."""
    return key.arm if key.iteration == iterations - 1 else f"{key.arm}, iteration {key.iteration + 1}"


Scores = dict[ModelKey, dict[SetKey, dict[str, float]]]
AVERAGE_SET, WORST_SET = SetKey("domain", AVERAGE), SetKey("domain", WORST)


def add_summaries(
    by_set: dict[SetKey, dict[str, float]], names: Sequence[str], metrics: Mapping[str, Metric]
) -> None:
    """Add the average and the worst value of each metric over some domains, as two more test sets.

    Every domain counts alike, whatever the number of its images. Nothing is added if there are no names, or
    if the model was not measured on all of them.
    """
    sets = [SetKey("domain", name) for name in names]
    if not sets or not set(sets) <= set(by_set):
        return
    values = {name: [by_set[test_set][name] for test_set in sets] for name in metrics}
    by_set[AVERAGE_SET] = {name: fmean(values[name]) for name in metrics}
    by_set[WORST_SET] = {
        name: (min if metric.style.higher_is_better else max)(values[name])
        for name, metric in metrics.items()
    }


def write_measurements(path: Path, scores: Scores) -> None:
    """Write scores as a JSON object whose `measurements` has one entry for each model and test set."""
    entries = [
        {"model": key._asdict(), "set": test_set._asdict(), "metrics": values}
        for key, by_set in scores.items()
        for test_set, values in by_set.items()
    ]
    write_json(path, {"measurements": entries})


def read_measurements(path: Path) -> Scores:
    """Read a file of `write_measurements`.

    Raises ValueError, naming the file and what to do, if it is damaged.
    """
    scores: Scores = {}
    advice = "delete it and run the same command again, which measures anew"
    for entry in read_json(path, advice)["measurements"]:
        by_set = scores.setdefault(ModelKey(**entry["model"]), {})
        by_set[SetKey(**entry["set"])] = entry["metrics"]
    return scores


class Measuring:
    """The scores that go into the file `path`, while they are measured.

    After each test set they are saved in a file beside it, from which a stopped evaluation continues. The
    scores of an earlier evaluation are kept. Every process of a job makes the same calls; process 0 writes.

    - `finished`: True if an earlier evaluation ended and no later one began.

    Raises ValueError, naming the file and what to do, if the saved scores are damaged.
    """

    def __init__(self, path: Path):
        self._path, self._unfinished = path, path.with_name(f"unfinished-{path.name}")
        began, ended = (parallel.all_agree(file.exists()) for file in (self._unfinished, path))
        self.finished = ended and not began
        self.scores: Scores = {}
        if began or ended:
            self.scores = read_measurements(self._unfinished if began else path)
        parallel.barrier(f"measuring {path}")  # process 0 writes when all processes have read

    def sets(self, models: Iterable[ModelKey]) -> set[SetKey]:
        """Return the test sets that all these models were measured on."""
        return set.intersection(*(set(self.scores.get(key, {})) for key in models))

    def save(self, scores: Scores) -> None:
        """Add scores, or replace them by more complete ones."""
        self.scores |= scores
        if jax.process_index() == 0:
            write_measurements(self._unfinished, self.scores)

    def finish(self) -> None:
        """Write the file of the complete scores."""
        if jax.process_index() == 0:
            write_measurements(self._path, self.scores)
            self._unfinished.unlink(missing_ok=True)
        parallel.barrier(f"measured {self._path}")
