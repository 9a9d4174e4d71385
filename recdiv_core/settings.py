# pyright: strict
"""Settings as people write them: presets, config files and command lines, read into one Config.

config.py has the tree and its bounds. Precedence: defaults < preset < config file < command line.
Keys of a file are nested or dotted. Unknown keys, duplicate keys and invalid YAML are errors.
`reference` writes docs/settings.md from the tree.

    config = load(Path("pipelines/presets/demo.yaml"), ["loss.diversity_weight=0.3"])
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recdiv_core.config import Config, check_keys, flatten, known_keys, override
from recdiv_core.effects import readers
from recdiv_core.errors import UserError

_REFERENCE_HEAD: Final = """# Settings

`make docs` generates this page from `recdiv_core/config.py`; do not edit it by hand.

| where | example | precedence |
|---|---|---|
| command line | `loss.diversity_weight=0.3` | 1 (wins) |
| what a search space fixes (`tune`) | `fixed={"train.epochs": 5}` | 2 |
| your file, `--config FILE` | `loss: {diversity_weight: 0.3}` | 3 |
| preset, `--preset NAME` | `pipelines/presets/demo.yaml` | 4 |
| default | | 5 |

The last column lists the pipelines that read the key. `evaluate`, `recommend`, `compare` and
`register` take the settings of the checkpoint instead of presets and defaults.
"""
_TYPES: Final = {str: "text", int: "integer", float: "number", bool: "`true`, `false`"}
_SIGNS: Final = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class Given:
    """The settings of one call, by their source.

    Each source maps dotted keys to values.
    """

    preset: Mapping[str, object] = field(default_factory=dict[str, object])
    file: Mapping[str, object] = field(default_factory=dict[str, object])
    line: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def own(self) -> dict[str, object]:
        """The settings that override those of a checkpoint: config file, then command line."""
        merged = dict(self.file)
        for key, value in self.line.items():
            merged.pop(key, None)  # a key of the command line comes after those of the file
            merged[key] = value
        return merged

    @property
    def config(self) -> Config:
        """The defaults with preset, file and command line applied.

        Raises:
            UserError: an unknown key, or a value out of its bounds.
        """
        return override(Config(), self.preset, self.file, self.line)


def read_given(preset: Path | None, file: Path | None, overrides: Sequence[str]) -> Given:
    """Read the settings of one call.

    `preset` and `file` are YAML. An override is a string such as `loss.diversity_weight=0.3` or
    `data.events=[click]`, its value YAML; the value of a text setting is taken literally.

    Raises:
        UserError: a file cannot be read, or a string is not `key=value`.
    """
    return Given(
        preset=_read_yaml(preset, f"preset {preset}") if preset else {},
        file=_read_yaml(file, f"--config {file}") if file else {},
        line=parse_overrides(overrides),
    )


def load(preset: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Return the defaults with a YAML file and `key=value` strings applied; see `read_given`.

    Raises:
        UserError: an unknown key (the message names the nearest), or a value out of its bounds.
    """
    return read_given(preset, None, overrides).config


def parse_overrides(overrides: Sequence[str]) -> dict[str, object]:
    """Return the settings of a command line by dotted key; the last value of a key wins.

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
    """A YAML loader that keeps dates as text (`split.val_from`) and refuses duplicate keys."""

    yaml_constructors: dict[str, Any] = {  # noqa: RUF012, declared so by its base
        **yaml.SafeLoader.yaml_constructors,
        "tag:yaml.org,2002:timestamp": yaml.SafeLoader.construct_scalar,
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping; plain YAML would keep the last of two equal keys."""
        seen: set[str] = set()
        for key, _ in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            if isinstance(key, yaml.ScalarNode):
                name = str(key.value)
                if name in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {name!r} is given twice", problem_mark=key.start_mark
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
                raise UserError(f"{key} is given twice, nested and dotted")
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
            yield key, value  # an empty section is allowed and yields nothing


def _parse_value(key: str, text: str) -> object:
    if isinstance(flatten(Config()).get(key), str):
        return text
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        problem = _one_line(error)
        raise UserError(f"{key}={text}: the value is not valid YAML: {problem}") from None


def _one_line(error: Exception) -> str:
    # PyYAML's name of a text that is no file
    return " ".join(str(error).replace(' in "<unicode string>",', " at").split())


def reference() -> str:
    """Return the text of docs/settings.md: a table of the keys of each section."""
    lines: list[str] = []
    title = ""
    for key, info in _fields(Config, ""):
        section = key.rpartition(".")[0] or key
        if section != title:
            lines += ["", f"## {section}", "", "| key | values | default | meaning | read by |"]
            lines += ["|---|---|---|---|---|"]
            title = section
        cells = (
            f"`{key}`",
            _values(info.annotation, info.metadata),
            f"`{_default(info.default)}`",
            " ".join((info.description or "").split()),
            ", ".join(readers(key)),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return _REFERENCE_HEAD + "\n".join(lines) + "\n"


def _fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """Yield each setting of a section with its dotted key, then those of the sections in it."""
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner.append((f"{prefix}{name}.", kind))
        else:
            yield prefix + name, info
    for name, kind in inner:
        yield from _fields(kind, name)


def _values(kind: Any, bounds: Sequence[object] = ()) -> str:
    """Return the allowed values of a type in words.

    >>> _values(Literal["val", "test"]), _values(tuple[str, ...])
    ('`val`, `test`', 'list of text')
    """
    inner = get_args(kind)
    origin = get_origin(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of {_values(inner[0])}"
    if origin is dict:
        return f"table: {_values(inner[0])} to {_values(inner[1])}"
    if origin is Annotated:
        more = [bound for info in inner[1:] for bound in getattr(info, "metadata", ())]
        return _values(inner[0], more)
    if origin is not None:  # a union
        return ", ".join(_values(one) for one in inner)
    limits = [
        f"{sign} {getattr(bound, name):g}"
        for bound in bounds
        for name, sign in _SIGNS.items()
        if hasattr(bound, name)
    ]
    return " ".join([_TYPES[kind], ", ".join(limits)]).strip()


def _default(value: object) -> str:
    plain: object = list(value) if isinstance(value, tuple) else value  # pyright: ignore
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("...\n").strip() if value != "" else "empty"
