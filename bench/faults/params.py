"""Malformed params.yaml: accepted, or refused with one line, within seconds and a GiB.

Odd numbers are `special`, of which some must be refused, or taken for a certain value; even
ones put a wrong value, key or byte into the default file at random.
"""

import copy
import functools
import string
from collections.abc import Callable
from pathlib import Path
from random import Random

import yaml

from bench.faults.cases import ACCEPTED, REJECTED, Outcome, Place, case_random, first
from bench.faults.watched import judge, run_stage
from bench.measure import ROOT

REFUSE = "refuse"
Content = str | bytes | Callable[[Path], None]  # of a file, or a function that makes what is there

# Any of these in place of any setting.
VALUES = (
    *("", "~", "null", "true", "yes", "No", "on", "[]", "{}", "[1]", "{a: 1}", "''", "' '"),
    *("0", "-1", "1", "2", "1.0", "0.5", "-0.0", "1e3", "1e-05", "1E5", "010", "0o17", "0x1F"),
    *("0b11", "1_000", "1:30", "12e999", "-.inf", ".inf", ".nan", "+1", "99999999999999999999"),
    *("1" * 400, "9" * 5000, "2024-01-01", "2024-01-01T00:00:00Z", "=", "<<", "!!str 1"),
    *("!!int abc", "!!float x", "!!bool 3", "!!timestamp x", "!!binary '*'", "!!set {a, b}"),
    *("!!omap [a: 1]", "!!pairs [a: 1]", "!!null 1", "!unknown 1", "*nowhere", "&a [*a]"),
    *("!!python/object/apply:os.system ['touch escaped']", "!!python/name:os.system"),
    *("!!python/object/new:os.system ['touch escaped']", "!!python/tuple [1]"),
    *("'\\x00'", '"\\0"', '"\\u202e"', '"\\ud800"', "'../../escaped'", "/", "'" + "x" * 5000 + "'"),
    *("[" * 30 + "]" * 30, "|\n  text", ">-\n  text", "? a", "- a", "a: b: c", "'open", "[1, 2"),
    *("{1: 2}", "{[a]: b}", "{~: 1}", "{true: 1}", "\t1", "1 # comment", "#", "@", "`", "%"),
)


@functools.cache
def _default() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def setting(key: str, value: str, **others: str) -> str:
    """The default params.yaml with `value` as the text of the setting `key` (a.b.c)."""
    settings = copy.deepcopy(_default())
    texts = {key: value, **{name.replace("__", "."): text for name, text in others.items()}}
    for number, name in enumerate(texts):
        *sections, last = name.split(".")
        section = settings
        for part in sections:
            section = section[part]
        section[last] = f"@{number}@"
    dumped = yaml.safe_dump(settings, allow_unicode=True)
    for number, text in enumerate(texts.values()):
        dumped = dumped.replace(f"'@{number}@'", text)
    return dumped


def _bomb(first: str, next_level: Callable[[int], str], levels: int) -> str:
    """In a section that takes any keys, what doubles with every level when it is looked into."""
    parts = [f"a0: &a0 {first}"]
    parts += [f"a{level}: &a{level} {next_level(level - 1)}" for level in range(1, levels)]
    return setting("model.settings", "{" + ", ".join(parts) + "}")


def alias_bomb() -> str:
    return _bomb("[x, x]", lambda level: f"[{', '.join([f'*a{level}'] * 9)}]", 10)


MANY_KEYS = "{" + ", ".join(f"k{number}: 1" for number in range(100_000)) + "}"
CODE = "!!python/object/apply:os.system ['touch escaped']"
ARCHIVE, FOLDER = {"download__source": "archive"}, {"download__source": "folder"}


def merge_bomb() -> str:
    return _bomb("{k: 1}", lambda level: f"{{<<: [{', '.join([f'*a{level}'] * 9)}]}}", 30)


@functools.cache
def special() -> list[tuple[str, Content, object]]:
    """What it is, the file, and what must come of it: REFUSE, a setting and its value, or any."""
    return [
        ("default", setting("train.epochs", "30"), ("train.epochs", 30)),
        ("empty", "", None),
        ("comments only", "# nothing\n", None),
        ("a list", "- download\n- train\n", REFUSE),
        ("a number", "12\n", REFUSE),
        ("a text", "download\n", REFUSE),
        ("two documents", setting("train.epochs", "3") + "---\ntrain: {epochs: 4}\n", REFUSE),
        ("a section is a list", setting("train", "[1, 2]"), REFUSE),
        ("a section is a number", setting("augment", "3"), REFUSE),
        ("a key is a list", setting("train.epochs", "3") + "? [a, b]\n: 1\n", REFUSE),
        ("a key is a number", setting("train.epochs", "3") + "7: 1\n", REFUSE),
        ("unknown section", setting("train.epochs", "3") + "trian: {}\n", REFUSE),
        ("unknown key", setting("train.epochs", "3\n  epocs: 4"), REFUSE),
        ("a key twice", setting("train.epochs", "3\n  epochs: 4"), REFUSE),
        ("a section twice", setting("train.epochs", "3") + "train: {epochs: 4}\n", REFUSE),
        ("a key twice in a free section", setting("model.settings", "{a: 1, a: 2}"), REFUSE),
        (
            "as DVC writes small numbers",
            setting("train.optimizer.learning_rate", "1e-05"),
            ("train.optimizer.learning_rate", 1e-5),
        ),
        (
            "large without a point",
            setting("train.optimizer.weight_decay", "1e-2"),
            ("train.optimizer.weight_decay", 0.01),
        ),
        ("a zero in front", setting("train.epochs", "010"), ("train.epochs", 10)),
        ("eight in front", setting("train.epochs", "08"), ("train.epochs", 8)),
        ("octal", setting("train.epochs", "0o17"), ("train.epochs", 15)),
        ("hexadecimal", setting("train.epochs", "0x1F"), ("train.epochs", 31)),
        ("minutes", setting("train.epochs", "1:30"), REFUSE),
        ("a date", setting("train.epochs", "2024-01-01"), REFUSE),
        ("a date that is none", setting("model.name", "2024-13-45"), None),
        ("infinite rate", setting("train.optimizer.learning_rate", ".inf"), REFUSE),
        ("no number as rate", setting("train.optimizer.learning_rate", ".nan"), REFUSE),
        ("infinite memory", setting("train.memory_limit", ".nan"), REFUSE),
        ("infinite share", setting("train.clip_norm", ".inf"), REFUSE),
        ("infinite mixup", setting("augment.mixup", ".inf"), REFUSE),
        ("5,000 digits", setting("train.epochs", "9" * 5000), REFUSE),
        (
            "5,000 digits in a free section",
            setting("model.settings", "{a: " + "9" * 5000 + "}"),
            None,
        ),
        ("5,000 digits after the point", setting("train.clip_norm", "0." + "1" * 5000), None),
        ("thousand devices", setting("train.devices", "1000"), REFUSE),
        ("10**30 devices", setting("train.devices", "1" + "0" * 30), REFUSE),
        ("a thousand million layers", setting("augment.randaugment.layers", "1000000000"), REFUSE),
        ("workers without end", setting("preprocess.workers", "1" + "0" * 12), None),
        ("a batch without end", setting("train.batch_size", "1" + "0" * 30), None),
        ("epochs without end", setting("train.epochs", "1" + "0" * 30), None),
        ("alias bomb", alias_bomb(), REFUSE),
        ("merge bomb", merge_bomb(), REFUSE),
        ("an alias of itself", setting("model.settings", "&a {b: *a}"), REFUSE),
        ("a list in itself", setting("train.image_sizes", "&a [*a]"), REFUSE),
        (
            "an alias, as meant",
            setting("split.test", "&a 0.1", split__val="*a"),
            ("split.val", 0.1),
        ),
        ("5,000 deep", setting("model.settings", "{a: " + "[" * 5000 + "]" * 5000 + "}"), None),
        ("5,000 deep in maps", setting("model.settings", "{a: " * 5000 + "1" + "}" * 5000), None),
        ("200,000 deep", "[" * 200_000, REFUSE),
        ("200,000 deep in questions", "? " * 200_000, REFUSE),
        ("20 MB of text", setting("model.name", "x" * 20_000_000), None),
        ("100,000 keys", setting("model.settings", MANY_KEYS), None),
        ("a tag of Python", setting("model.settings", CODE), REFUSE),
        ("a tag that lies", setting("train.epochs", "!!int abc"), REFUSE),
        ("a tag that lies of numbers", setting("train.clip_norm", "!!float abc"), REFUSE),
        ("a date tag that lies", setting("model.name", "!!timestamp abc"), REFUSE),
        ("a pattern without end", setting("split.group_by", "'(a+)+$'"), None),
        ("a pattern that is none", setting("split.group_by", "'(a'"), REFUSE),
        ("download.url, broken", setting("download.url", "'https://[::1'", **ARCHIVE), None),
        ("download.path with NUL", setting("download.path", '"a\\0b"', **FOLDER), None),
        ("download.path, a lone surrogate", setting("download.path", '"\\ud800"', **FOLDER), None),
        ("tabs", "train:\n\tepochs: 3\n", REFUSE),
        ("NUL", "train: {epochs: 3}\0\n", REFUSE),
        ("ESC", "train: {epochs: 3}\x1b[31m\n", REFUSE),
        ("not UTF-8", b"train: {epochs: 3} # \xff\xfe\n", REFUSE),
        ("UTF-16", "train: {epochs: 3}\n".encode("utf-16"), None),
        ("a mark of byte order", "train: {epochs: 3}\n".encode("utf-8-sig"), None),
        (
            "lines of Windows",
            setting("train.epochs", "30").replace("\n", "\r\n"),
            ("train.epochs", 30),
        ),
        ("a zip", b"PK\3\4" + bytes(range(256)), REFUSE),
        ("a directive", "%YAML 9.9\n---\ntrain: {epochs: 3}\n", None),
        ("a folder in its place", Path.mkdir, REFUSE),
        ("none", lambda path: None, REFUSE),
        ("a link to itself", lambda path: path.symlink_to(path.name), REFUSE),
        ("a link to nothing", lambda path: path.symlink_to("nowhere"), REFUSE),
    ]


def keys(settings: dict, prefix: str = "") -> list[str]:
    """The name of every setting and section, as train.optimizer.name."""
    found = []
    for name, value in settings.items():
        found.append(prefix + name)
        if isinstance(value, dict):
            found += keys(value, f"{prefix}{name}.")
    return found


def spoilt(random: Random) -> tuple[str, str | bytes]:
    """What was done to the default file, and the file that came out."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    key, value = random.choice(keys(_default())), random.choice(VALUES)
    way = random.randrange(6)
    if way < 3:
        return f"{key} = {value[:40]!r}", setting(key, value)
    if way == 3:
        name = "".join(random.choices(string.ascii_letters + "_-. $:#\u00e9", k=5))
        lines = setting(key, "@here@").splitlines()
        at = next(number for number, line in enumerate(lines) if "@here@" in line)
        indent = " " * (len(lines[at]) - len(lines[at].lstrip()))
        lines[at] = lines[at].replace("@here@", "1")
        lines.insert(at, f"{indent}{name}: {value}")
        return f"{name!r} before {key}", "\n".join(lines) + "\n"
    if way == 4:
        data = bytearray(text.encode())
        for _ in range(random.choice((1, 3, 20))):
            data[random.randrange(len(data))] = random.randrange(256)
        return "bytes flipped", bytes(data)
    lines = text.splitlines(keepends=True)
    at = random.randrange(len(lines))
    if random.random() < 0.5:
        lines[at] = random.choice((" ", "  ", "\t", "- ")) + lines[at]
    else:
        lines = lines[: at + 1]
        lines[at] = lines[at][: random.randrange(len(lines[at]))]
    return f"line {at + 1}", "".join(lines)


def case(seed: int, number: int) -> tuple[str, Content, object]:
    """params.yaml `number`: what it is, its content, and what must come of it."""
    if number % 2:
        return special()[(number // 2 + seed) % len(special())]
    return *spoilt(case_random(seed, "params", number)), None


def write(content: Content, path: Path) -> None:
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def run_case(seed: int, top: Path, number: int) -> Outcome:
    """File `number` read as every stage does."""
    from stages.errors import UserError
    from stages.parameters.whole import read_parameters

    what, content, must = case(seed, number)
    place = Place(top / str(number))
    path = place.project / "params.yaml"
    write(content, path)
    try:
        parameters = read_parameters(path)
    except UserError as error:
        line = " ".join(str(error).split())  # as it is printed
        outcome = Outcome(REJECTED, line) if line else Outcome("no reason", repr(error))
        if isinstance(must, tuple):
            outcome = Outcome("refused", line)
    else:
        outcome = Outcome(ACCEPTED)
        if must == REFUSE:
            outcome = Outcome("accepted what cannot end well")
        elif isinstance(must, tuple):
            value = parameters
            for name in must[0].split("."):
                value = getattr(value, name)
            if value != must[1]:
                outcome = Outcome("wrong value", f"{must[0]} = {value!r}, not {must[1]!r}")
    if outside := place.written_outside():
        outcome = Outcome("outside", first(outside))
    return outcome._replace(detail=f"{what}: {outcome.detail}")


def run_command(seed: int, top: Path, number: int) -> Outcome:
    """File `number` read by a real stage, one that needs nothing else."""
    what, content, must = case(seed, number)
    place = Place(top / f"stage-{number}")
    write(content, place.project / "params.yaml")
    outcome = judge(run_stage("download", place.project))
    if outcome.verdict == ACCEPTED and must == REFUSE:
        outcome = Outcome("accepted what cannot end well")
    if outside := place.written_outside():
        outcome = Outcome("outside", first(outside))
    return outcome._replace(detail=f"{what}, by the stage: {outcome.detail}")


def sample(seed: int, count: int) -> list[int]:
    """Of the first `count` files those that a real stage reads as well: an eighth of them."""
    chosen = case_random(seed, "params", -1).sample(range(count), count // 8)
    of_download = [n for n in range(count) if "download." in case(seed, n)[0]]
    return sorted({*chosen, *of_download})
