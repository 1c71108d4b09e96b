"""The house rules that a program can check: which room imports which, how long things are, what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "joyhallo"
FILES = sorted(SOURCE.rglob("*.py"))

GROUND = {"errors", "presets", "_version", "easing", "cores"}  # modules without imports of ours that every room may use
STATION = {"device"}  # asked by whoever runs networks
_PIPELINE = {"media", "models", "sampling", "weights", "conditioning"}
_RENDER = _PIPELINE | {"animator", "pipeline", "video", "output", "mouth", "idle"}
MAY_IMPORT = {
    "media": set(),
    "models": set(),
    "device": set(),
    "sampling": {"models"},
    "weights": {"models", "sampling"},
    "conditioning": {"media", "models"},
    "idle": {"conditioning"},
    "mouth": {"conditioning", "models"},
    "output": {"media", "conditioning", "mouth", "idle"},
    "video": {"media", "conditioning", "output", "mouth", "idle"},
    "animator": _PIPELINE | {"mouth", "idle"},
    "pipeline": _PIPELINE | {"animator", "video", "output", "mouth", "idle"},
    "job_folder": {"media", "animator"},
    "render": _RENDER | {"job_folder"},
    "data": _RENDER | {"render"},
    "training": _RENDER | {"render", "data"},
    "evaluation": {"media", "models", "conditioning", "weights"},
    "serve": _RENDER | {"render", "job_folder"},
    "cli": _RENDER | {"render", "data", "training", "evaluation", "serve"},
}
FORBIDDEN = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "base", "core"}
HEAVY = (
    "torch",
    "numpy",
    "PIL",
    "diffusers",
    "transformers",
    "av",
    "cv2",
    "onnxruntime",
    "huggingface_hub",
    "rich",
    "cyclopts",
)
# optional, or slow to import: never at the top of a module
OPTIONAL = ("insightface", "onnxruntime", "c2pa", "ai_edge_litert", "av", "transformers", "pypinyin")


def room_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports_of(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_point_one_way(path):
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    others = {
        parts[1]
        for parts in (line.split(".") for line in imports_of(parsed(path)))
        if parts[0] == "joyhallo" and len(parts) > 1
    }
    assert room in MAY_IMPORT or room in GROUND, f"{room} is a new room: give it a place in docs/architecture.md and here"
    allowed = MAY_IMPORT.get(room, set()) | GROUND | {room}
    if room in ("pipeline", "render", "cli", "training", "data", "evaluation", "serve"):
        allowed |= STATION
    assert others <= allowed, f"{name(path)} imports {sorted(others - allowed)}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= 300
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            assert (node.end_lineno or first) - first < 60, f"{node.name} is longer than 60 lines"


def num_parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len([argument for argument in every if argument.arg not in ("self", "cls")])


@pytest.mark.parametrize("path", FILES, ids=name)
def test_functions_take_at_most_seven_parameters(path):
    """Except where a configuration or diffusers decides: a network's constructor has one parameter for every option."""
    for owner in ast.walk(parsed(path)):
        for node in getattr(owner, "body", []) if isinstance(getattr(owner, "body", None), list) else []:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_configured = any("register_to_config" in ast.dump(decorator) for decorator in node.decorator_list)
            is_pipeline = isinstance(owner, ast.ClassDef) and "DiffusionPipeline" in [ast.unparse(base) for base in owner.bases]
            if not (is_configured or (is_pipeline and node.name in ("__init__", "__call__"))):
                assert num_parameters(node) <= 7, f"{node.name} takes {num_parameters(node)} parameters"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_names_say_what_a_module_is_for(path):
    assert not FORBIDDEN & {part.removesuffix(".py") for part in path.relative_to(SOURCE).parts}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_errors_are_caught_by_name_and_nothing_is_printed(path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = "nothing" if node.type is None else ast.unparse(node.type)
            if caught == "BaseException" and ast.unparse(node.body[-1]) == "raise":
                continue  # it cleans up and lets the error go on
            assert caught not in ("nothing", "Exception", "BaseException"), f"line {node.lineno} catches everything"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            assert room_of(path) == "cli", f"line {node.lineno} prints"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_optional_packages_are_imported_where_used(path):
    top = [node for node in parsed(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    for line in imports_of(ast.Module(body=list(top), type_ignores=[])):
        assert line.split(".")[0] not in OPTIONAL, f"{name(path)} imports {line} at its top"


def fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_loads_nothing():
    loaded = fresh("import sys, joyhallo; print(' '.join(sys.modules))").split()
    assert not [module for module in HEAVY if module in loaded]


def test_rendering_loads_no_pipelines_of_others():
    """They bring every network that diffusers has: seconds, for a command that uses none of it."""
    loaded = fresh("import sys, joyhallo.render, joyhallo.models.unet; print(' '.join(sys.modules))").split()
    assert not {"diffusers.pipelines.pipeline_utils", "diffusers.models.autoencoders", "scipy"} & set(loaded)


def test_importing_the_package_is_quick():
    code = "import time; t = time.process_time(); import joyhallo; print(time.process_time() - t)"
    assert min(float(fresh(code)) for _ in range(3)) < 0.2


def test_help_is_quick_and_imports_no_command():
    code = (
        "import sys, time; t = time.process_time(); from joyhallo.cli import main; main(['--help']); "
        "print(time.process_time() - t, *sys.modules)"
    )
    runs = [fresh(code).splitlines()[-1].split() for _ in range(3)]
    assert min(float(run[0]) for run in runs) < 0.5
    assert not [m for m in runs[0] if m in ("torch", "numpy", "av", "joyhallo.cli.animate", "joyhallo.cli.models")]


def test_every_module_can_be_imported_without_side_effects(tmp_path):
    """No module creates a file, changes the environment or starts CUDA when it is imported."""
    modules = [
        ".".join(("joyhallo", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__") for path in FILES
    ]
    modules = [module for module in modules if not module.endswith("__main__")]
    code = (
        "import importlib, os, sys; before = dict(os.environ)\n"
        f"for module in {modules!r}: importlib.import_module(module)\n"
        "ours = {k for k in set(os.environ.items()) ^ set(before.items()) if 'JOYHALLO' in k[0]}\n"
        "import torch; print(len(ours), torch.cuda.is_initialized(), os.listdir('.'))"
    )
    environment = {"HOME": str(tmp_path), "PATH": "", "JOYHALLO_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert done.stdout.strip() == "0 False []"
    assert not (tmp_path / "cache").exists()


def test_loading_the_embedded_weights_loads_no_scipy():
    """diffusers would, to compare a scheduler with all others: seconds before the first frame."""
    code = "import sys; from joyhallo.animator import Animator; Animator.from_pretrained('mini'); print('scipy' in sys.modules)"
    assert fresh(code).splitlines()[-1] == "False"


def test_a_command_loads_neither_compiler_nor_transformers():
    """diffusers would; whoever asks for them afterwards must still find them."""
    code = """
import sys
from joyhallo.cli.startup import leave_out_unused
leave_out_unused()
import joyhallo.render, torch
joyhallo.render.Animator.from_pretrained("mini").to(torch.device("cpu"))
print("torch._dynamo" in sys.modules or "transformers" in sys.modules)
import transformers
print(transformers.Wav2Vec2Config().model_type)
print(float(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(()))))
"""
    assert fresh(code).splitlines()[-3:] == ["False", "wav2vec2", "2.0"]
    others = "import sys, diffusers, joyhallo.cli.startup as s; s.leave_out_unused(); print('torch._dynamo' in sys.modules)"
    assert fresh(f"import torch._dynamo; {others}") == "True"
