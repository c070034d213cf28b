"""The settings of a search: a grid, or samples of Optuna that depend on the results of earlier trials."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from modernbert.errors import CheckpointError, ConfigError
from modernbert.installation import install_command
from modernbert.tasks.metrics import LOWER_IS_BETTER
from modernbert.train.finetune_recipe import Search

JOURNAL = "study.journal"  # in the folder of a search: the study of Optuna


@dataclass(frozen=True)
class Setting:
    """The settings of a trial; the fields are those of `training` in a recipe."""

    learning_rate: float
    weight_decay: float
    epochs: int

    @property
    def name(self) -> str:
        """The name of the trial's folder."""
        return f"lr-{self.learning_rate:g}_decay-{self.weight_decay:g}_epochs-{self.epochs}"


@dataclass(frozen=True)
class Trial:
    """A setting and its validation metrics. A failed trial has no metrics, and a reason in `failure`."""

    setting: Setting
    metrics: Mapping[str, float]
    seconds: float | None
    failure: str | None = None


class Settings(Protocol):
    """The settings of all trials, one after the other."""

    count: int

    def setting(self, number: int) -> Setting:
        """The setting of a trial, counted from 0, after the results of all earlier trials are reported."""

    def report(self, number: int, trial: Trial) -> None:
        """Report the result of a trial."""


class Grid:
    """Every combination of the values."""

    def __init__(self, search: Search) -> None:
        self._settings = [Setting(*one) for one in product(search.learning_rate, search.weight_decay, search.epochs)]
        self.count = len(self._settings)

    def setting(self, number: int) -> Setting:
        return self._settings[number]

    def report(self, number: int, trial: Trial) -> None:
        """The grid does not depend on results."""


class OptunaSampler:
    """`search.trials` samples of Optuna's TPE sampler, which depend on the seed and on earlier trials alone.

    Learning rate and weight decay are sampled between the smallest and the largest value, on a logarithmic scale, and
    epochs from the given values. The study is in `folder`, in the file study.journal, which Optuna's tools read. It has
    the finished trials; the sample of an interrupted trial is repeated.

    Raises:
        ConfigError: the existing study was sampled from other epochs.
        CheckpointError: its file is damaged.
    """

    def __init__(self, search: Search, seed: int, metric: str, folder: Path) -> None:
        import optuna
        from optuna.distributions import CategoricalDistribution, FloatDistribution
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        assert search.trials is not None
        self.count = search.trials
        self._seed, self._metric = seed, metric
        self._direction: Literal["minimize", "maximize"] = "minimize" if metric in LOWER_IS_BETTER else "maximize"
        self._rates = {
            "learning_rate": FloatDistribution(min(search.learning_rate), max(search.learning_rate), log=True),
            "weight_decay": FloatDistribution(min(search.weight_decay), max(search.weight_decay), log=True),
        }
        self._ranges = {**self._rates, "epochs": CategoricalDistribution(search.epochs)}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / JOURNAL
        try:
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))),
                study_name="search",
                direction=self._direction,
                load_if_exists=True,
            )
        except ValueError as error:
            raise CheckpointError(
                f"{path} is damaged ({error}); remove it, and the trials are read from their folders."
            ) from None
        if any(trial.distributions["epochs"] != self._ranges["epochs"] for trial in self._study.trials):
            raise ConfigError(f"{path} was sampled from other search.epochs; keep those, or choose another output.")

    def setting(self, number: int) -> Setting:
        import optuna

        finished = self._study.trials
        if number < len(finished):
            return Setting(**finished[number].params)
        [seed] = np.random.SeedSequence((self._seed, number)).generate_state(1)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=int(seed)), direction=self._direction)
        study.add_trials(finished)
        sampled = study.ask(self._ranges).params
        # Three digits, within the range, so that the name of a trial's folder has the exact value.
        rates = {name: min(max(float(f"{sampled[name]:.2e}"), of.low), of.high) for name, of in self._rates.items()}
        return Setting(**rates, epochs=sampled["epochs"])

    def report(self, number: int, trial: Trial) -> None:
        import optuna

        if number < len(self._study.trials):
            return
        failed = trial.failure is not None
        self._study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
                value=None if failed else trial.metrics[self._metric],
                params=vars(trial.setting),
                distributions=self._ranges,
                user_attrs={"failure": trial.failure} if failed else dict(trial.metrics),
            )
        )


def check_optuna() -> None:
    """Check that Optuna is installed, before any data is read.

    Raises:
        ConfigError: Optuna is missing.
    """
    if find_spec("optuna") is None:
        raise ConfigError(f"search.trials needs optuna: {install_command('search')}.")
