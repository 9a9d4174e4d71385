# pyright: strict
"""Settings as people write them: presets, config files and command lines, read into one Config.

Not the tree itself nor its bounds (config.py). Precedence: defaults < preset < config file <
command line. Keys of a file are nested or dotted. Nothing is lost silently: an unknown key, a key
that stands twice and a value that is not what YAML makes of it are refused.

    config = load(Path("pipelines/presets/demo.yaml"), ["loss.diversity_weight=0.3"])
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from recdiv_core.config import Config, check_keys, flatten, known_keys, override
from recdiv_core.errors import UserError


@dataclass(frozen=True)
class Given:
    """What one call gives, by its place.

    Attributes:
        preset: dotted key -> value of `--preset`.
        file: of `--config`.
        line: of the command line.
    """

    preset: Mapping[str, object] = field(default_factory=dict[str, object])
    file: Mapping[str, object] = field(default_factory=dict[str, object])
    line: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def own(self) -> dict[str, object]:
        """What stands above a checkpoint's own settings: config file, then command line."""
        merged = dict(self.file)
        for key, value in self.line.items():
            merged.pop(key, None)  # a key of the command line comes after those of the file
            merged[key] = value
        return merged

    @property
    def config(self) -> Config:
        """The defaults with everything given applied.

        Raises:
            UserError: an unknown key, or a value out of its bounds.
        """
        return override(Config(), self.preset, self.file, self.line)


def read_given(preset: Path | None, file: Path | None, overrides: Sequence[str]) -> Given:
    """Read what a call gives.

    Args:
        preset: YAML file of the project, or None.
        file: YAML file of the user, or None.
        overrides: strings such as `loss.diversity_weight=0.3` or `data.events=[click]`. Values are
            YAML, except that a setting which is text takes its value as it stands.

    Raises:
        UserError: a file that cannot be read, or a string that is no setting.
    """
    return Given(
        preset=_read_yaml(preset, f"preset {preset}") if preset else {},
        file=_read_yaml(file, f"--config {file}") if file else {},
        line=parse_overrides(overrides),
    )


def load(preset: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Return the defaults with a YAML file and `key=value` strings applied; see `read_given`.

    Raises:
        UserError: unknown key (names the nearest right one), or a value out of its bounds.
    """
    return read_given(preset, None, overrides).config


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Return the config with `key=value` strings of a command line applied; see `read_given`."""
    return override(config, parse_overrides(overrides))


def parse_overrides(overrides: Sequence[str]) -> dict[str, object]:
    """Return the settings of a command line by their dotted keys; the last one of a key counts.

    Raises:
        UserError: a string that is not `key=value`, or a value that is not YAML.
    """
    values: dict[str, object] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{text!r} is not an override: write key=value, e.g. seed=1")
        values.pop(key, None)
        values[key] = _parse_value(key, value)
    return values


class _Loader(yaml.SafeLoader):
    """YAML whose dates stay text, for `split.val_from` and its like, and whose keys are unique."""

    yaml_constructors: dict[str, Any] = {  # noqa: RUF012, declared so by its base
        **yaml.SafeLoader.yaml_constructors,
        "tag:yaml.org,2002:timestamp": yaml.SafeLoader.construct_scalar,
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping, of which plain YAML would keep the last of two equal keys."""
        seen: set[str] = set()
        for key, _ in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            if isinstance(key, yaml.ScalarNode):
                name = str(key.value)
                if name in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {name!r} stands twice", problem_mark=key.start_mark
                    )
                seen.add(name)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path, called: str) -> dict[str, object]:
    """Read a file of settings; return them by their dotted keys."""
    if not path.is_file():
        raise UserError(f"{called} is not a file")
    try:
        tree: object = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{called} is not valid YAML: {_one_line(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{called} cannot be read as UTF-8 text: {_one_line(error)}") from None
    if not isinstance(tree, dict | None):
        raise UserError(f"{called} must be a mapping of keys to values, such as `eval.k: 20`")
    flat: dict[str, object] = {}
    try:
        for key, value in _dotted(cast("Mapping[object, object]", tree or {}), ""):
            if key in flat:
                raise UserError(f"{key} stands twice, nested and dotted")
            flat[key] = value
        check_keys(flat)
    except UserError as error:
        raise UserError(f"{called}: {error}") from None
    return flat


def _dotted(node: Mapping[object, object], prefix: str) -> Iterator[tuple[str, object]]:
    """Yield each setting of a nested mapping under its dotted key."""
    known = known_keys()
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in known:
            yield from _dotted(cast("Mapping[object, object]", value), f"{key}.")
        elif value is not None or not any(other.startswith(f"{key}.") for other in known):
            yield key, value  # but for an empty section, which is fine


def _parse_value(key: str, text: str) -> object:
    if isinstance(flatten(Config()).get(key), str):
        return text
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        problem = _one_line(error)
        raise UserError(f"{key}={text}: the value is not valid YAML: {problem}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
