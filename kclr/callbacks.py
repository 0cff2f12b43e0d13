"""Keras callbacks of training by contrast: history, checkpoints, the collapse guard, a probe.

They work in anybody's `model.fit`; `kclr train` uses the same ones.
"""

from kclr.errors import CollapseError as CollapseError
from kclr.probing.callback import Probe as Probe
from kclr.training.callbacks import CollapseGuard as CollapseGuard
from kclr.training.callbacks import KeepMetrics as KeepMetrics
from kclr.training.callbacks import StepHistory as StepHistory
from kclr.training.checkpoints import TrainingState as TrainingState
from kclr.training.checkpoints import restore as restore
