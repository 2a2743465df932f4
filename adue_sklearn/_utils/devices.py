"""Estimators that were fitted on one machine and loaded on another, which may lack the device."""

from __future__ import annotations

from adue_sklearn._utils.arrays import parse_device
from adue_sklearn._utils.validation import warn


def device_here(device: str) -> str:
    """Return ``device``; if torch cannot use it here, warn and return ``"auto"``."""
    if device in ("auto", "cpu"):  # everywhere; asking for CUDA would cost time
        return device
    try:
        parse_device(device)
    except ValueError:
        warn(
            f"This was fitted with device={device!r}, which torch does not find here. It uses "
            f"device='auto' instead, here the {parse_device('auto').type.upper()}."
        )
        return "auto"
    return device
