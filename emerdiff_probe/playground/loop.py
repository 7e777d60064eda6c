"""Run a training: budget, annealing, averaging, validation and checkpoints."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from emerdiff_probe.errors import ModelError
from emerdiff_probe.paths import made_at_once
from emerdiff_probe.playground.optimizers import Optimizers
from emerdiff_probe.playground.settings import TrainingSettings

__all__ = ["Budget", "Report", "Task", "Trainer", "Validation", "saved"]

Weights = dict[str, Tensor]


class Task(Protocol):
    """Describe what is to be learnt."""

    modules: nn.ModuleDict
    """Modules to train."""

    rate: float
    """Highest learning rate of AdamW."""

    batch: int
    """Number of samples in an update."""

    @property
    def matrix_rate(self) -> float | None:
        """Return the highest learning rate of Muon; None leaves everything to AdamW."""

    def loss(self, generator: torch.Generator) -> Tensor:
        """Return the loss of a random batch; all randomness comes from the generator."""

    def validate(self) -> float:
        """Return a figure that is lower for better weights, always from the same samples."""


@dataclass(frozen=True)
class Budget:
    """Set how long to train: seconds or, if given, a number of updates."""

    seconds: float
    steps: int | None

    def spent(self, seconds: float, step: int) -> float:
        """Return the share of the budget that is spent, in [0, 1]."""
        return min(1.0, seconds / self.seconds if self.steps is None else step / self.steps)


@dataclass(frozen=True)
class Validation:
    """Hold a point of the training curves; the training loss is the mean since the last point."""

    step: int
    seconds: float
    training_loss: float
    validation_loss: float


@dataclass(frozen=True)
class Report:
    """Report one update.

    Args:
        step: Number of updates so far.
        seconds: Training time so far in seconds, over all runs.
        spent: Share of the budget that is spent, in [0, 1].
        loss: Mean loss since the last validation.
        validation: Validation after this update, if there was one.
    """

    step: int
    seconds: float
    spent: float
    loss: float
    validation: Validation | None


class Trainer:
    """Train a task; resume from its checkpoint if there is one.

    Args:
        task: Task to learn.
        settings: Settings of the training.
        budget: Length of the training.
        checkpoint: File that holds the state.
    """

    def __init__(
        self, task: Task, settings: TrainingSettings, budget: Budget, checkpoint: Path
    ) -> None:
        self.task, self.settings, self.budget = task, settings, budget
        self.checkpoint = checkpoint
        self.step, self.seconds = 0, 0.0
        self.curve: list[Validation] = []
        self._losses: list[float] = []
        self._parameters = dict(task.modules.named_parameters())
        # On the device itself, as large batches would wait for noise drawn elsewhere.
        device = next(iter(self._parameters.values())).device
        self._generator = torch.Generator(device).manual_seed(settings.seed)
        self._optimizers = Optimizers(self._parameters, task.rate, task.matrix_rate)
        self._average = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._best = {name: tensor.clone() for name, tensor in self._average.items()}
        if checkpoint.exists():
            self._load()

    @property
    def samples(self) -> int:
        """Return the number of samples seen so far."""
        return self.step * self.task.batch

    @property
    def best_loss(self) -> float:
        """Return the lowest validation loss so far; infinite before the first validation."""
        return min((point.validation_loss for point in self.curve), default=math.inf)

    def steps(self) -> Iterator[Report]:
        """Train until the budget is spent; the caller can stop and save after any update.

        Raises:
            ModelError: The loss is no longer finite.
        """
        while (spent := self.budget.spent(self.seconds, self.step)) < 1:
            begun = time.perf_counter()
            self._update(spent)
            seconds = self.seconds + time.perf_counter() - begun
            finished = self.budget.spent(seconds, self.step) == 1
            validation = None
            loss = sum(self._losses) / len(self._losses)
            if finished or self.step % self.settings.validate_every == 0:
                validation = self._validate(loss, seconds)
            self.seconds += time.perf_counter() - begun
            yield Report(
                self.step,
                self.seconds,
                self.budget.spent(self.seconds, self.step),
                loss,
                validation,
            )

    def _update(self, spent: float) -> None:
        warm = min(1.0, (self.step + 1) / self.settings.warmup)
        loss = self.task.loss(self._generator)
        if not math.isfinite(loss.item()):
            raise ModelError(
                f"the loss is {loss.item()} after {self.step} updates; lower the learning rate "
                f"({self.task.rate}) and start again"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        self._optimizers.step(warm * max(0.01, min(1.0, (1 - spent) / self.settings.tail)))
        self.step += 1
        # Over a tenth of the updates, else early averages would hold mostly untrained weights.
        decay = min(self.settings.decay, self.step / (10 + self.step))
        for name, parameter in self._parameters.items():
            self._average[name].lerp_(parameter.detach(), 1 - decay)
        self._losses.append(loss.item())

    def _validate(self, loss: float, seconds: float) -> Validation:
        best_loss = self.best_loss
        with self._swapped(self._average):
            figure = self.task.validate()
        if figure <= best_loss:
            self._best = {name: tensor.clone() for name, tensor in self._average.items()}
        point = Validation(self.step, seconds, loss, figure)
        self.curve.append(point)
        self._losses.clear()
        return point

    @contextmanager
    def best(self) -> Iterator[None]:
        """Give the modules the averaged weights that validated best, while the context lasts."""
        with self._swapped(self._best):
            yield

    def adopt_best(self) -> None:
        """End the training; the modules keep the averaged weights that validated best."""
        _copy(self._best, self._parameters)
        self.task.modules.eval().requires_grad_(False)

    @contextmanager
    def _swapped(self, weights: Weights) -> Iterator[None]:
        held = {name: p.detach().clone() for name, p in self._parameters.items()}
        training = self.task.modules.training
        _copy(weights, self._parameters)
        self.task.modules.eval()
        try:
            yield
        finally:
            _copy(held, self._parameters)
            self.task.modules.train(training)

    def save(self) -> None:
        """Write the checkpoint, so that a whole one exists at any moment."""
        saved(
            {
                "step": self.step,
                "seconds": self.seconds,
                "curve": [vars(point) for point in self.curve],
                "losses": self._losses,
                "generator": self._generator.get_state(),
                "device": self._generator.device.type,
                "weights": {name: p.detach() for name, p in self._parameters.items()},
                "optimizers": self._optimizers.state_dict(),
                "average": self._average,
                "best": self._best,
            },
            self.checkpoint,
        )

    def _load(self) -> None:
        # On any device it was trained on before; the optimizers move their own state.
        state: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        self.curve = [Validation(**point) for point in state["curve"]]
        self._losses = state["losses"]
        if state["device"] == self._generator.device.type:
            self._generator.set_state(state["generator"])
        else:  # another kind of device draws other numbers
            self._generator.manual_seed(self.settings.seed + self.step)
        _copy(state["weights"], self._parameters)
        self._optimizers.load_state_dict(state["optimizers"])
        _copy(state["average"], self._average)
        _copy(state["best"], self._best)


def saved(state: Any, path: Path) -> None:
    """Write a state of torch, so that at any moment there is a whole one.

    Raises:
        StoreError: It could not be written; the one before stays.
    """
    with made_at_once(path, replace=True) as writing:
        try:
            torch.save(state, writing)
        except RuntimeError as error:  # so torch tells of a full disk
            raise OSError(str(error).splitlines()[0]) from error


def _copy(weights: Weights, into: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(weights[name])
