"""Find the settings that each pipeline can read, by static analysis: a call graph over names.

A node is a function, class or constant at the top of a module, or a method. It reaches the nodes
that it names. A method is reached if its class is reached and a reached node uses its name. A read
is a chain of attributes that ends in a setting (`config.loss.negatives`). The chain may start at a
local name (`loss = config.loss`) or at a parameter annotated with a section (`text: TextConfig`).
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel

from recdiv_core.config import Config, known_keys

ROOT = Path(__file__).parents[1]
Node = tuple[str, str]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    yield model.__name__, prefix
    for name, entry in model.model_fields.items():
        if isinstance(entry.annotation, type) and issubclass(entry.annotation, BaseModel):
            yield from _sections(entry.annotation, f"{prefix}.{name}".strip("."))


SECTIONS = dict(_sections(Config, ""))  # class -> dotted path of the section; "" = the root
PLACES = set(SECTIONS.values()) - {""}
TOPS = {place for place in PLACES if "." not in place}
KEYS = set(known_keys())


def module_files() -> dict[str, Path]:
    files: dict[str, Path] = {}
    for package in ("recdiv_core", "pipelines"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            files[name.removesuffix(".__init__")] = path
    return files


class Source:
    """The nodes of all modules, with the names they use and the settings they read."""

    def __init__(self) -> None:
        self.bodies: dict[Node, ast.AST] = {}
        self.methods: dict[str, list[tuple[Node, Node]]] = {}  # name -> (class, method)
        self.seen: dict[Node, tuple[set[str], set[str], list[Node]]] = {}
        self.imports: dict[str, dict[str, str]] = {}
        for module, path in module_files().items():
            tree = ast.parse(path.read_text(encoding="utf-8"))
            self.imports[module] = dict(_imported(tree))
            for statement in tree.body:
                self._add(module, statement)

    def _add(self, module: str, statement: ast.stmt) -> None:
        if isinstance(statement, ast.ClassDef):
            self.bodies[module, statement.name] = statement
            for inner in statement.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    method = (module, f"{statement.name}.{inner.name}")
                    self.bodies[method] = inner
                    pair = ((module, statement.name), method)
                    self.methods.setdefault(inner.name, []).append(pair)
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            self.bodies[module, statement.name] = statement
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    self.bodies[module, target.id] = statement

    def keys_of(self, pipeline: str) -> set[str]:
        """Return the settings that some node reached from the pipeline reads."""
        reached: set[Node] = set()
        used: set[str] = set()  # names of attributes
        keys: set[str] = set()
        waiting = [node for node in self.bodies if node[0] == f"pipelines.{pipeline}"]
        while waiting := waiting or self._methods(reached, used):
            node = waiting.pop()
            if node in reached or node not in self.bodies:
                continue
            reached.add(node)
            if node not in self.seen:
                self.seen[node] = self._look(node)
            read, attributes, nodes = self.seen[node]
            keys |= read
            used |= attributes
            waiting += nodes
        return keys

    def _methods(self, reached: set[Node], used: set[str]) -> list[Node]:
        """Return the methods, not reached yet, of reached classes whose names are used."""
        return [
            method
            for name, pairs in self.methods.items()
            if name in used or name.startswith("__")
            for owner, method in pairs
            if owner in reached and method not in reached
        ]

    def _look(self, node: Node) -> tuple[set[str], set[str], list[Node]]:
        """Return the settings that a node reads, the attributes it uses and the nodes it names."""
        body = self.bodies[node]
        parts = list(_parts(body))
        attributes: set[str] = set()
        nodes: list[Node] = []
        for part in parts:
            if isinstance(part, ast.Name):
                nodes += self._named(node[0], part.id)
            elif isinstance(part, ast.Attribute):
                attributes.add(part.attr)
                if isinstance(part.value, ast.Name):
                    nodes += self._of_module(node[0], part.value.id, part.attr)
        return reads(body, _owner(node), parts), attributes, nodes

    def _named(self, module: str, name: str) -> list[Node]:
        full = self.imports[module].get(name, f"{module}.{name}")
        found = full.rpartition(".")
        return [(found[0], found[2])] if (found[0], found[2]) in self.bodies else []

    def _of_module(self, module: str, name: str, attribute: str) -> list[Node]:
        full = self.imports[module].get(name, "")
        return [(full, attribute)] if (full, attribute) in self.bodies else []


def _owner(node: Node) -> str:
    return node[1].partition(".")[0]


def _parts(body: ast.AST) -> Iterator[ast.AST]:
    """Walk a node; of a class without its methods, which are nodes themselves."""
    if not isinstance(body, ast.ClassDef):
        yield from ast.walk(body)
        return
    for inner in body.body:
        if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from ast.walk(inner)
    for base in (*body.bases, *body.decorator_list):
        yield from ast.walk(base)


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for part in ast.walk(tree):
        if isinstance(part, ast.ImportFrom) and part.module:
            yield from ((a.asname or a.name, f"{part.module}.{a.name}") for a in part.names)
        elif isinstance(part, ast.Import):
            yield from ((a.asname or a.name, a.name) for a in part.names)


def reads(body: ast.AST, owner: str = "", parts: list[ast.AST] | None = None) -> set[str]:
    """Return the settings that a node reads; a whole section that is dumped counts as all its."""
    parts = list(_parts(body)) if parts is None else parts
    names = dict(_annotated(ast.walk(body) if isinstance(body, ast.ClassDef) else parts))
    if owner in SECTIONS:
        names["self"] = SECTIONS[owner]
    for part in parts:
        if isinstance(part, ast.Assign):
            for target, value in _pairs(part):
                if isinstance(target, ast.Name) and (place := _place(value, names)) in PLACES:
                    names[target.id] = place
    found: set[str] = set()
    for part in parts:
        if isinstance(part, ast.Attribute):
            place = _place(part, names)
            section, _, method = place.rpartition(".")
            if place in KEYS:
                found.add(place)
            elif method in ("model_dump", "model_fields") and section in PLACES:
                found |= {key for key in KEYS if key.startswith(f"{section}.")}
    return found


def _annotated(parts: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    for part in parts:
        annotation = part.annotation if isinstance(part, ast.arg) else None
        if isinstance(annotation, ast.Name) and annotation.id in SECTIONS:
            yield part.arg, SECTIONS[annotation.id]


def _pairs(part: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    target = part.targets[0]
    if isinstance(target, ast.Tuple) and isinstance(part.value, ast.Tuple):
        yield from zip(target.elts, part.value.elts, strict=False)
    else:
        yield target, part.value


def _place(node: ast.expr, names: dict[str, str]) -> str:
    """Return the dotted place in the tree of settings that a chain of attributes names, or ''."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Name) and names.get(node.id):
        return ".".join([names[node.id], *attributes])
    if isinstance(node, ast.Name) and (node.id in names or node.id == "config"):
        return ".".join(attributes)
    for index, name in enumerate(attributes):
        if name in TOPS or (name == "seed" and index and attributes[index - 1] == "config"):
            return ".".join(attributes[index:])
    return ""
