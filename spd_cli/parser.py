"""The command line's arguments: written as people write them, with errors of one line."""

from __future__ import annotations

import difflib
import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import register_type

from spd_core.errors import SPDError
from spd_core.files import FileError, expanded, problem, read_text

from .console import say

NUMBERS = re.compile(r"[-+.\de]+(?:, *[-+.\de]+)*")
# What jsonargparse says of a value of the wrong type, which may be optional: the option, the type and the value.
WRONG_TYPE = re.compile(
    r"Parser key \"([\w.]+)\": (?:Does not .* Errors: - )?Expected (?:a )?(?:<class ')?([\w ]+)(?:'>)?"
    r"(?: - Expected (?:a )?<class 'NoneType'> Given value type: .*|\.) (?:Given|Got) value: (.*)"
)
IN_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "numbers",
    "tuple with 2 elements": "two numbers",
}


def _path(text: str | Path) -> Path:
    """With `~` expanded: in YAML, and after `=`, no shell does it."""
    if not str(text):  # an empty variable of a shell, and not the folder that one is in
        raise ValueError("expected the name of a file or a folder, got ''")
    return expanded(text)


register_type(Path, str, _path, type_check=isinstance)


def spelled_out(arguments: list[str]) -> list[str]:
    """Dashes in the names of options may be written for underscores."""
    return [re.sub(r"^--([^=]+)", lambda name: "--" + name[1].replace("-", "_"), word) for word in arguments]


def gathered(arguments: list[str], command: Callable) -> list[str]:
    """The arguments of a command whose only positional is a list: what is neither an option nor its value, in one."""
    parameters = inspect.signature(command).parameters.items()
    flags = {f"--{name}" for name, parameter in parameters if isinstance(parameter.default, bool)}
    positional, options, words = [], [], arguments
    while words:
        word, *words = words
        if word == "--":
            positional += words
            break
        if not word.startswith("--") and word != "-h":
            positional.append(word)
            continue
        options.append(word)
        if word in flags and words[:1] not in (["true"], ["false"]):
            options[-1] += "=true"
        elif "=" not in word and word not in ("--help", "-h"):
            options += words[:1]
            words = words[1:]
    # Characters that YAML does not take as they are; of others, beyond 16 bits, it takes no escapes as JSON has them.
    not_yaml, words_in_one = r"[\x7f-\x9f\ufeff\ufffe\uffff]", json.dumps(positional, ensure_ascii=False)
    return [re.sub(not_yaml, lambda found: f"\\u{ord(found[0]):04x}", words_in_one), *options]


def check_unused(command: Callable, why: str, **options: Any) -> None:
    """Say of options of a command that do nothing beside another one that they were given."""
    parameters = inspect.signature(command).parameters
    if given := [f"--{name} {value}" for name, value in options.items() if value != parameters[name].default]:
        raise SPDError(f"{' and '.join(given)}: {why}")


def check_text(arguments: list[str]) -> None:
    """Say of an argument that it is no text: the parser, which reads YAML, would say something else."""
    encoding = sys.getfilesystemencoding().upper()
    way_on = "rename it" if encoding == "UTF-8" else "rename it, or set PYTHONUTF8=1 where it is UTF-8"
    for argument in arguments:
        if any("\udc80" <= character <= "\udcff" for character in argument):  # Python's bytes that are no text
            raise FileError(f"the name {argument} is not {encoding}; expected one that is: {way_on}")


class _UniqueKeys(yaml.SafeLoader):
    """Says of a name that stands twice what YAML's own would not: it takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is there a second time", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class Parser(ArgumentParser):
    """Reads settings past what other systems leave in a file, and suggests the near name where one is unknown."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *arguments: Any, **options: Any
    ) -> Namespace:
        """`--some_flag` without a value means `--some_flag=true`; another option needs one. Numbers are a list where
        the option takes one: 4,3 for [4,3], and 4x3 where it is a grid (of a size one writes the width first)."""
        words = list(sys.argv[1:] if args is None else args)
        kinds = {name: getattr(action, "_typehint", None) for action in self._actions for name in action.option_strings}
        kinds["--config"] = Path
        for i, (word, following) in enumerate(zip(words, [*words[1:], "--"])):
            if following.startswith("--") and (kind := kinds.get(word)):
                if bool not in (kind, *get_args(kind)):
                    self.error(f"{word} needs a value")
                words[i] += "=true"
            name, equals, value = word.partition("=")
            kind, value = kinds.get(name), value if equals else following
            if name == "--config" and not value.startswith("{") and not expanded(value).is_file():
                # jsonargparse would look for settings in its name.
                raise FileError(f"the settings {value} {problem(expanded(value))}; expected a YAML file")
            value = value.replace("x", ",") if name.endswith("grid") else value
            if value[:1] in ("#", "&") and type(None) in get_args(kind):
                self.error(f"{name} {value} is nothing in YAML; write ./{value} for a file or a folder of that name")
            if any(get_origin(part) in (list, tuple) for part in (kind, *get_args(kind))) and NUMBERS.fullmatch(value):
                words[i if equals else i + 1] = f"{name}=[{value}]" if equals else f"[{value}]"
        return super().parse_args(words, *arguments, **options)

    def parse_path(self, path: Any, *arguments: Any, **options: Any) -> Namespace:
        """The settings in a file: YAML, an object of names."""
        file = expanded(path)
        text = read_text(file)
        try:
            content = yaml.load(text, _UniqueKeys)
        except yaml.YAMLError as error:
            where = getattr(error, "problem_mark", None)
            line = f", line {where.line + 1}" if where else ""
            reason = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise FileError(f"{file}{line}: {reason}; expected YAML, lines of 'name: value'") from error
        if not isinstance(content, dict):
            raise FileError(f"{file} {problem(file)}; expected YAML, lines of 'name: value'")
        if "config" in content:  # a run's own run.json, say
            raise FileError(f"{file} has the key config; expected the settings themselves, which stand below it")
        names = {action.dest for action in self._actions}
        for name, value in content.items():
            if not isinstance(value, dict) and any(other.startswith(f"{name}.") for other in names):
                raise FileError(f"{file}: {name} is {value!r}; expected lines of 'name: value' below it")
        return self.parse_string(text, file.name, *arguments, **options)

    def format_help(self, *arguments: Any, **options: Any) -> str:
        """The help, with arguments as one writes them: words in the place of a list."""
        for action in self._actions:
            if not action.option_strings and get_origin(getattr(action, "_typehint", None)) is list:
                action.metavar = f"{action.dest} ..."
        text = re.sub(r"\s+\(required(,\s+type:[^)]*)?\)", "", super().format_help(*arguments, **options))
        return re.sub(r"<class\s+'(\w+)'>", r"\1", text)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with one line."""
        unknown = re.search(
            r"unrecognized arguments: --([\w.]+)|does not accept (?:option|nested key) '([\w.]+)'|(?:[Kk]ey|Option)"
            r" '([\w.]+)' is not",
            message,
        )
        message = " ".join(message.split())
        if wrong := WRONG_TYPE.fullmatch(message):
            name, kind, value = wrong.groups()
            message = f"{name}: expected {IN_WORDS.get(kind, kind)}, got {value}"
        if unknown:
            name = next(filter(None, unknown.groups()))
            known = [option.lstrip("-") for action in self._actions for option in action.option_strings]
            parts = difflib.get_close_matches(name.split(".")[-1], [k.split(".")[-1] for k in known])
            near = difflib.get_close_matches(name, known) or [k for k in known if k.split(".")[-1] in parts]
            if near:
                message += f". Did you mean {' or '.join(near)}?"
        say(f"{message} (`{self.prog} --help` lists what there is)", "bold red", stderr=True, title="error: ")
        sys.exit(2)
