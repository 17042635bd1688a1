"""In which number format the products are computed: fp32, bf16, or fp16 with loss scaling (Micikevicius et al. 2018, Mixed Precision Training)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import Training

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(settings: Training, device: torch.device) -> AbstractContextManager[Any]:
    """Around forward pass and loss. Weights and the optimizer's state stay fp32."""
    if settings.precision == "fp32":
        return nullcontext()
    cast: AbstractContextManager[Any] = torch.autocast(device.type, dtype=_TYPES[settings.precision])
    return cast


def loss_scale(settings: Training, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss so that small gradients do not vanish in fp16, and skips a step whose gradients overflow; does nothing in fp32 and bf16."""
    return torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")


def set_up(settings: Training, device: torch.device) -> None:
    """The process's switches. Raises `ConfigError` where the device can't compute in the precision asked for."""
    torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = settings.tf32
    if settings.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError(
            f"training.precision is bf16, and {torch.cuda.get_device_name(device)} can't compute in it; set fp16, or take a GPU from Ampere on"
        )
