"""Read a YAML file of settings, as YAML 1.2 defines it and DVC reads it."""

import copy
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from stages.errors import UserError

# More is no file of settings; what is larger could keep the parser busy for minutes.
LARGEST_FILE = 2**18
LARGEST_TREE = 20_000  # values, each mention of an alias counted with all that it stands for

CORE_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which knows YAML 1.1, with the plain scalars of YAML 1.2.

    So 1e-5 is a number (DVC writes `-S train.optimizer.learning_rate=1e-5` like that), 010 is
    ten, `no` and dates are text, and a key that comes twice is a mistake.
    """

    yaml_implicit_resolvers: dict = {}
    yaml_constructors = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in CORE_TAGS
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} comes twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "").lower()
        digits = text.lstrip("+-")
        base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2], 10)  # int(text, 0) refuses 010
        return int(text, base)


# https://yaml.org/spec/1.2.2/#103-core-schema
for kind, pattern, first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?([0-9][0-9_]*|0o[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", "<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"), first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_int)


def read_yaml(path: str | Path) -> Any:
    """The content of the YAML file `path`: dicts, lists, text, numbers.

    Raises `FileNotFoundError`, and `UserError` for a file that is no valid YAML or too large.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file of settings; take it away")
    try:
        if not path.is_file() and path.exists():
            raise UserError(f"{path} is no regular file; put a file of settings in its place")
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise UserError(f"{path} has {size:,} bytes; that is no file of settings")
        return copy.deepcopy(_parse(path, path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path} is not valid YAML: it is nested too deeply") from None
    # Scalars with a tag that they do not suit raise nearly anything.
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError, LookupError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None


@lru_cache(maxsize=4)
def _parse(path: Path, text: str) -> Any:
    """What `text` says, of the file `path`. A stage reads params.yaml once for each section of it,
    and parsing it takes longer than many a stage's work."""
    loader = _Loader(text)
    loader.name = path.name
    try:
        node = loader.get_single_node()
        if _size(node, {}) > LARGEST_TREE:
            raise UserError(f"{path} has aliases for more than {LARGEST_TREE:,} values")
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Values in the tree below `node`. `known` are the sizes by node."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = LARGEST_TREE  # what contains itself has no end
        children = node.value
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]
