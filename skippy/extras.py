"""Optional packages: imported when a parameter asks for them, and missed in one voice."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from skippy.errors import ConfigError


def import_extra(module: str, *, extra: str, parameter: str) -> Any:
    """The module of an optional package.

    Args:
        extra: name among the optional dependencies in pyproject.toml.

    Raises:
        ConfigError: it is not installed, or lacks something itself.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing_extra(error, module, extra=extra, parameter=parameter) from error


def missing_extra(error: ImportError, module: str, *, extra: str, parameter: str) -> ConfigError:
    """The message about an optional package that cannot be imported, or lacks one that it needs itself."""
    return ConfigError(
        "An optional package is needed and cannot be imported.",
        where=f"parameter {parameter}",
        expected=f"module {module}",
        found=f"{type(error).__name__}: {error}",
        next_step=f"python -m pip install -e '.[{extra}]', or leave {parameter} out",
    )
