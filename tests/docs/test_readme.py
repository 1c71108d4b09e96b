"""What the README tells people to type exists."""

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest

from joyhallo.cli import app
from joyhallo.weights.registry import SETS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for language, block in BLOCKS if language == "bash" for line in block.splitlines()]
COMMANDS = [line for line in COMMANDS if line]
INLINE = re.findall(r"`([^`\n]+)`", TEXT)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make")])
def test_make_targets_exist(command):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)


def test_the_two_commands_are_there():
    assert {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("command", [line for line in COMMANDS if "joyhallo " in line and "make" not in line])
def test_commands_parse(command):
    words = shlex.split(command)
    assert words[0].endswith("joyhallo")
    app.parse_args(words[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("command", [text for text in INLINE if text.startswith("joyhallo ")])
def test_inline_commands_name_real_commands(command):
    words = shlex.split(command)[1:]
    chain = [word for word in words if not word.startswith("-") and word.islower()][
        : 2 if words[0] in ("models", "data") else 1
    ]
    app.parse_args([*chain, "--help"], exit_on_error=False, print_error=False)
    assert app.parse_commands(chain)[0] == tuple(chain)


NAMED_IN_THE_TEXT = [
    ["animate"], ["train"], ["evaluate"], ["serve"], ["data", "prepare"], ["data", "synth"],
    ["models", "verify"], ["models", "convert"], ["models", "pull"],
]  # fmt: skip


def test_options_exist():
    known = set()
    for chain in NAMED_IN_THE_TEXT:
        command = app
        for name in chain:
            command = command[name]
        known |= {name for argument in command.assemble_argument_collection() for name in argument.names}
    for text in INLINE:
        for option in re.findall(r"(?<!\S)--[a-z0-9-]+", text):
            assert option in known, option


@pytest.mark.parametrize(
    "name",
    [text for text in INLINE if re.fullmatch(r"[\w./-]+/[\w.]*", text) and text.startswith(("src", "tests", "docs", "bench"))],
)
def test_named_places_exist(name):
    assert (ROOT / name).exists(), name


def test_files_of_the_demo_and_linked_pages_exist():
    for name in re.findall(r"examples/[\w.]+", TEXT):
        assert (ROOT / name).is_file(), name
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"docs/[\w./-]+\.(?:webp|png|gif)", re.sub(r"<!--.*?-->", "", TEXT, flags=re.DOTALL)):
        assert (ROOT / target).is_file(), target


def test_weights_that_are_pulled_are_known():
    names = {entry.name for entry in SETS}
    for pulled in re.findall(r"pull ([\w-]+)", TEXT):
        assert pulled in names or pulled.startswith("--"), pulled


def test_the_example_uses_names_that_exist():
    code = next(block for language, block in BLOCKS if language == "python")
    tree = ast.parse(code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    imported = next(node for node in tree.body if isinstance(node, ast.ImportFrom))
    import joyhallo

    pipeline = getattr(joyhallo, imported.names[0].name)
    assert callable(pipeline.from_pretrained)
    assert list(inspect.signature(pipeline.__call__).parameters)[1:3] == ["portrait", "speech"]
    assert callable(pipeline.stream)
    from joyhallo.video import Video

    assert callable(Video.write)


def test_extras_exist():
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"joyhallo\[(\w+)\]", TEXT):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
