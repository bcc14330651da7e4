"""Configurations of runs in YAML: files that name a base, and dotted overrides from the command line."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gair_core.config import Config
from gair_core.errors import BadInputError


def read_values(path: Path, overrides: Sequence[str] = (), *, base: Path | None = None) -> dict[str, Any]:
    """Read the values of a configuration.

    Args:
        path: A YAML file. It may name another one as ``base`` (relative to itself), whose values it changes.
        overrides: ``key=value`` or ``a.b=value``, the value in YAML.
        base: Another file in place of the one that it names as ``base``: the same change to another run.

    Raises:
        BadInputError: A file is missing or no YAML, or an override is none.
    """
    values = _read_yaml(path, base=base)
    for override in overrides:
        values = merged(values, parse_override(override))
    return values


def to_yaml(config: Config) -> str:
    """Return a configuration as YAML with every value."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with those of ``above`` in place of those of ``below``."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = merged(old, value)  # noqa: PLW2901
        result[key] = value
    return result


def list_changes(before: Any, after: Any, free: Collection[str] = (), name: str = "") -> list[str]:  # noqa: ANN401
    """List values that differ between two configurations, each as ``a.b 1, now 2``.

    Args:
        before: The decoded values of one.
        after: Those of the other.
        free: Dotted names that may differ.
        name: Dotted name of the two.
    """
    if name in free:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        nested = (
            list_changes(before.get(key), after.get(key), free, f"{name}.{key}" if name else key)
            for key in keys
        )
        return [line for lines in nested for line in lines]
    return [] if before == after else [f"{name} {before!r}, now {after!r}"]


def parse_override(text: str) -> dict[str, Any]:
    """Return the values of an override.

    Args:
        text: ``key=value`` or ``a.b=value``, the value in YAML.

    Raises:
        BadInputError: It is none.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadInputError(
            f"{text!r} is no override.", "Write key=value, for example optimizer.peak_rate=0.001."
        )
    try:
        parsed: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadInputError(f"The value of {text!r} is no YAML: {error}.") from None
    for name in reversed(key.strip().split(".")):
        parsed = {name: parsed}
    return dict(parsed)


def _read_yaml(path: Path, seen: tuple[Path, ...] = (), *, base: Path | None = None) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise BadInputError(f"The configurations {', '.join(map(str, seen))} name each other as base.")
    try:
        values = yaml.safe_load(path.read_text("utf-8")) or {}
    except OSError as error:
        raise BadInputError(f"The configuration {path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is no YAML: {error}.") from None
    if not isinstance(values, dict):
        raise BadInputError(f"{path} must hold keys and values, found {type(values).__name__}.")
    named = values.pop("base", None)
    below = base if base is not None or named is None else path.parent / str(named)
    return values if below is None else merged(_read_yaml(below, (*seen, path)), values)
