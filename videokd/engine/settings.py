"""The settings of the training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from videokd.config import LEAVES_WEIGHTS, Config
from videokd.engine.optim import OptimConfig


class TrainConfig(Config):
    """How long, how fast, and what is kept on the way."""

    epochs: int = Field(ge=0)
    """Passes over the training videos; the last partial batch of a pass is left out. 0 takes the
    first weights as they are: published ones become a run folder, validated and ready to teach."""
    batch_size: int = Field(ge=1)
    """Clips per optimiser step, over all processes and accumulated parts together: one of each
    video, or `data.repeats`."""
    accumulate: int = Field(1, ge=1)
    """Parts that a process cuts its share of a batch into, one after another: saves memory."""
    optim: OptimConfig
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Averages the weights; the average is what is validated and kept as best."""
    clip_grad_norm: float | None = Field(None, gt=0)
    """Largest L2 norm of all gradients together."""
    freeze_batch_norm: bool = False
    """Batch norms keep loaded statistics and weights: for small batches on trained weights."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 autocast where the device is a GPU that has it, else fp32."""
    log_every_steps: Annotated[int, LEAVES_WEIGHTS] = Field(20, ge=1)
    """Scalars are read from the device on these steps alone."""
    validate_every_epochs: int = Field(1, ge=1)
    """The last epoch is always validated."""
    cpu_threads: int | None = Field(None, ge=1)
    """Threads that compute on a CPU; null: one a core. Small networks beside a decoding worker are
    faster with fewer, and results are bit-identical for the same number only."""
    checkpoint_every_steps: Annotated[int | None, LEAVES_WEIGHTS] = Field(None, ge=1)
    """`last.pt` is written this often besides the end of each epoch."""
    tensorboard: Annotated[bool, LEAVES_WEIGHTS] = True
    """Event files in the run folder."""
    wandb: Annotated[bool, LEAVES_WEIGHTS] = False
    """Weights & Biases, from the extra `videokd[wandb]`."""
