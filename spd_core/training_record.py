"""What a training leaves in its folder, and how it goes on from there."""

from __future__ import annotations

import copy
import errno
import itertools
import platform
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from . import checkpoint, files
from .extras import extra
from .model import SPD
from .process import uninterrupted
from .training_config import FREE_TO_CHANGE, TrainConfig, TrainingError, recipe

with extra("train"):
    from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOCK_PATIENCE_S = 10.0  # workers of a training that was killed hold its lock until they notice

# What a state has of the record beside weights and settings.
COUNTED = ("step", "first_step", "skipped", "is_blind", "waited_s", "trained_s", "history", "best")
WITHOUT_STATE = (
    "delete it to start the run afresh, or start from what was learned: another `out`, with `init` set to the"
    " last.safetensors beside it"
)


def locked(out: Path) -> AbstractContextManager:
    """The folder of a run, made if there is none, for no other training to write to while this is held.

    Raises:
        TrainingError: another one does, or it cannot be locked.
        SPDError: it cannot be written to.
    """
    folder = files.make_folder(out)
    try:
        return FileLock(folder / ".lock").acquire(timeout=LOCK_PATIENCE_S)
    except Timeout as error:
        raise TrainingError(f"another training is writing to {folder}; choose another out") from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # as some network disks say
            raise TrainingError(f"{folder} cannot be locked ({error}); choose another out") from error
        print(f"WARNING: {folder} cannot be locked ({error}): nobody keeps another training from writing to it")
        return nullcontext()


class Record:
    """How far a run has come: weights, steps and validations, in memory and in `config.out`.

    Args:
        steps: how many the whole run has.
        model, optimizer: on their device, the second as Fabric wraps it.
    """

    def __init__(
        self,
        config: TrainConfig,
        fabric: Fabric,
        model: SPD,
        optimizer: torch.optim.Optimizer,
        steps: int,
        samples: int,
    ):
        self.config, self.fabric, self.steps, self.samples = config, fabric, steps, samples
        self.raw_model, self.optimizer = model, optimizer
        self.average = copy.deepcopy(model) if config.ema else None
        # Found once: torch's `AveragedModel` looks for them at each step, 8 ms on a CPU where a GPU's step has 40.
        self._averaged = [
            [x for x in itertools.chain(one.parameters(), one.buffers()) if x.is_floating_point()]
            for one in (self.evaluated, model)
        ]
        self.out = files.expanded(config.out)
        self.environment = environment(fabric)  # that of the start: asking git at every save costs time
        self.step, self.is_blind = 0, True  # no batch had depth yet
        self.skipped: list[str] = []  # what is wrong with the broken samples, each once
        self.first_step, self.waited_s, self.trained_s = 0, 0.0, 0.0  # seconds of the steps since that one
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}  # validation, step and AbsRel, from the first validation on
        self.resume()
        self.writer = None
        if fabric.is_global_zero:
            with extra("train"):
                from torch.utils.tensorboard import SummaryWriter  # seconds to import

            # What a run that was killed wrote after its last save comes again.
            purge_step = self.step + 1 if self.history else 0
            self.writer = SummaryWriter(self.out / "tensorboard", purge_step=purge_step)

    @property
    def evaluated(self) -> SPD:
        """The weights that count: the average where there is one."""
        return self.average or self.raw_model

    def update_average(self) -> None:
        """Take the weights of this step into the average, which begins with those of the first."""
        get_ema_multi_avg_fn(self.config.ema if self.step else 0.0)(*self._averaged, self.step)

    @property
    def stops_early(self) -> bool:
        """Whether `patience` validations in a row brought no smaller AbsRel."""
        patience = self.config.patience
        return bool(patience and self.best) and len(self.history) - 1 - self.best["validation"] >= patience

    def add_validation(self, loss: float | None, mean: dict[str, float]) -> bool:
        """Note a validation at this step. Returns whether it is the best so far."""
        self.history.append({"step": self.step, "loss": loss, **mean})
        is_best = not self.best or mean["abs_rel"] < np.nan_to_num(self.best["abs_rel"], nan=np.inf)
        if is_best:
            self.best = {"validation": len(self.history) - 1, "step": self.step, "abs_rel": mean["abs_rel"]}
        self.log({f"val/{name}": value for name, value in mean.items() if np.isfinite(value)})
        return is_best

    def skip(self, faults: list[str]) -> None:
        """Note what is wrong with broken samples, and say what was not known."""
        for fault in faults:
            if fault not in self.skipped:  # an epoch ago
                self.skipped.append(fault)
                self.fabric.print(f"skipped a broken sample ({len(self.skipped)}): {fault}")

    def log(self, scalars: dict[str, float], pictures: dict[str, np.ndarray] | None = None) -> None:
        """Numbers and pictures [H, W, 3] for TensorBoard. A training goes on without where they cannot be written."""
        if self.writer is None:
            return
        try:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, self.step)
            for name, picture in (pictures or {}).items():
                self.writer.add_image(name, picture, self.step, dataformats="HWC")
        except OSError as error:  # of a thread of its own, some numbers ago
            print(f"WARNING: the log for TensorBoard in {self.out} could not be written ({error}): it ends here")
            self.writer = None

    def report(self, ended: str = "running") -> dict:
        return {
            "config": recipe(self.config),
            "environment": self.environment,
            "steps": self.steps,
            "step": self.step,
            "ended": ended,
            "broken_samples": len(self.skipped),
            "step_s": self.trained_s / done if (done := self.step - self.first_step) else None,
            "data_wait_fraction": self.waited_s / max(self.trained_s, 1e-9),
            "best": self.best,
            "history": self.history,
        }

    def save(self, is_best: bool = False) -> None:
        """Checkpoint and state, each replaced in one step once it is complete: a full disk or a kill leaves the ones
        before."""
        if not self.fabric.is_global_zero:
            return
        report = self.report()
        so_far = {name: value for name, value in report.items() if name != "ended"}  # which run.json says
        for name in ("last", "best") if is_best else ("last",):
            checkpoint.save(self.evaluated, self.out / f"{name}.safetensors", **so_far)
        state = {
            "recipe": report["config"],
            "samples": self.samples,
            "model": self.raw_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            **{name: getattr(self, name) for name in COUNTED},
        }
        with files.replaced(state_file(self.config), TrainingError, (RuntimeError,)) as partial:
            torch.save(state, partial)
        files.write_json(self.out / "run.json", report)

    @contextmanager
    def saved_if_interrupted(self) -> Iterator[None]:
        """Keep what one process has learned since the last validation if Ctrl-C ends it within."""
        try:
            yield
        except KeyboardInterrupt:
            if self.fabric.world_size == 1 and self.history and self.history[-1]["step"] < self.step:
                with uninterrupted():
                    self.save()
                self.fabric.print(f"interrupted after step {self.step}, and saved: the same command goes on")
            raise

    def resume(self) -> None:
        file = state_file(self.config)
        if not file.exists():
            return
        try:
            state = files.read_torch(file, self.fabric.device)
        except files.FileError as error:
            raise TrainingError(f"{error}: the run cannot go on from it; {WITHOUT_STATE}") from error
        named = {"recipe", "samples", "model", "optimizer", "average", *COUNTED}
        if not isinstance(state, dict) or not state.keys() >= named:
            raise TrainingError(f"{file} is not the state of a training as this version writes it; {WITHOUT_STATE}")
        self._check_same_run(state)
        try:
            self.raw_model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average:
                self.average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"{file} does not fit the model of its own settings ({error}); {WITHOUT_STATE}"
            ) from error
        for name in COUNTED:
            setattr(self, name, state[name])
        self.fabric.print(f"going on with {self.out} at step {self.step} of {self.steps}")

    def _check_same_run(self, state: dict) -> None:
        """Raise TrainingError where a state is of other settings or other data than this run's."""
        default = recipe(type(self.config)(steps=1))  # that of a setting which came after the state
        before, now = (
            by_dotted_name(default) | by_dotted_name(settings, default)
            for settings in (state["recipe"], recipe(self.config))
        )
        changed = [
            f"{key}: {before[key]!r} -> {now[key]!r}"
            for key in now
            if key not in FREE_TO_CHANGE and before[key] != now[key]
        ]
        if changed:
            raise TrainingError(
                f"{self.out} holds a run with other settings ({'; '.join(changed)}); go on with those, or choose"
                " another `out`"
            )
        if (samples := state["samples"]) != self.samples:
            raise TrainingError(
                f"{self.out} holds a run over {samples:,} samples, and its data have {self.samples:,} now; go on with"
                " those, or choose another `out`"
            )

    def end(self, ended: str) -> dict:
        """Write how the run ended. Returns the content of run.json."""
        report = self.report(ended)
        if self.fabric.is_global_zero:
            files.write_json(self.out / "run.json", report)
        if self.writer is not None:
            with suppress(OSError):  # as in `log`
                self.writer.close()
        best = f"best.safetensors (of step {self.best['step']}, abs_rel {self.best['abs_rel']:.4f})"
        self.fabric.print(f"wrote {self.out}/{best} and last.safetensors")
        return report


def state_file(config: TrainConfig) -> Path:
    """What a run goes on from."""
    return files.expanded(config.out) / "state.pt"


def by_dotted_name(settings: dict, like: dict | None = None) -> dict[str, Any]:
    """Settings by names such as "loss.sigma": those of parts that are objects in `like` too (`model` and the shares of
    `data` are values)."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        parts = (settings if like is None else like).get(name)
        if isinstance(value, dict) and isinstance(parts, dict):
            flat |= {f"{name}.{key}": part for key, part in by_dotted_name(value, parts).items()}
        else:
            flat[name] = value
    return flat


def _git(*arguments: str) -> str | None:
    """What git says in the folder of this file; None where there is no git, or no repository, or nothing is said."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def environment(fabric: Fabric) -> dict:
    """What a result depends on besides its configuration."""
    # An installed package may lie in a repository of something else.
    revision = _git("describe", "--always", "--dirty") if _git("ls-files", Path(__file__).name) else None
    device = (
        torch.cuda.get_device_name(fabric.device)
        if fabric.device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
    }
    return {"revision": revision, "device": device, "processes": fabric.world_size, **versions}
