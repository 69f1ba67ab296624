"""The shape of the project: floors, sizes, what stays light, and a README that is true."""

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
import readme_tables

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("unibert/**/*.py"), *ROOT.glob("kernels/**/*.py")])
README = (ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else ""
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md")]

MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60
HEAVY = ("torch", "transformers", "deepspeed", "tensorboard", "datasets", "matplotlib")
PURE = """unibert unibert.config unibert.schema unibert.errors unibert.languages unibert.plan unibert.runtime.dsconfig
unibert.data.sampler unibert.data.shards unibert.cli""".split()
# Imported where it is installed; nothing needs it.
OPTIONAL = {"apex", "triton"}


def run(*command: str, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


# --- floors and sizes -------------------------------------------------------------------------------------------------


def test_imports_go_down_only():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stdout + result.stderr


def test_files_are_short():
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {path: lines for path, lines in lengths.items() if lines > MOST_LINES_OF_A_FILE}


def test_functions_are_short():
    long = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_LINES_OF_A_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines")
    assert not long


def test_pytest_passes_over_no_folder_of_tests(pytestconfig):
    passed_over = pytestconfig.getini("norecursedirs")
    folders = {folder.name for file in ROOT.glob("tests/**/test_*.py") for folder in file.relative_to(ROOT).parents}
    assert not [(name, glob) for name in folders for glob in passed_over if name and fnmatch(name, glob)]


def test_every_import_is_a_requirement():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    declared = {normal(line.partition("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
    packages = metadata.packages_distributions()
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name in imported(path) - sys.stdlib_module_names - OPTIONAL - {"unibert", "kernels"}
        if not declared & {normal(package) for package in packages.get(name, [name])}
    }
    assert not missing, f"add to requirements.txt: {sorted(missing)}"


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package.strip()).lower()


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


# --- what stays light -------------------------------------------------------------------------------------------------


def test_pure_modules_import_nothing_heavy():
    code = f"""
import importlib, json, sys
brought, before = {{}}, set()
for name in {PURE!r}:
    importlib.import_module(name)
    now = {{heavy for heavy in {HEAVY!r} if heavy in sys.modules}}
    brought[name] = sorted(now - before)
    before = now
print(json.dumps(brought))
"""
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    assert not {name: heavy for name, heavy in json.loads(result.stdout).items() if heavy}


@pytest.mark.parametrize(
    "line", ["--help", "train --help", "fields", "plan demo", "plan demo --world 2", "slurm status demo"]
)
def test_login_node_commands_need_no_torch(line: str):
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Blocked())
from unibert.cli import main
main()
"""
    result = run(sys.executable, "-c", code, *shlex.split(line))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip()


def test_transformers_works_beside_our_kernels_folder():
    """Hugging Face has a package `kernels` that transformers looks for; ours must not be taken for it."""
    code = """
import kernels, pathlib, torch
from transformers import BertConfig, BertForMaskedLM
assert pathlib.Path(kernels.__file__).parent == pathlib.Path.cwd() / "kernels", kernels.__file__
tiny = BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
print(BertForMaskedLM(tiny)(torch.arange(8).view(1, 8)).logits.shape)
"""
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    assert "[1, 8, 32]" in result.stdout


# --- recipes, objectives, DeepSpeed files -----------------------------------------------------------------------------


def test_every_objective_has_a_table_and_a_contract():
    from unibert.objective_tables import Objectives
    from unibert.objectives import OBJECTIVES

    assert list(OBJECTIVES) == list(Objectives.model_fields)
    for name, kind in OBJECTIVES.items():
        assert kind.__doc__ and len(kind.__doc__.split()) >= 10, f"{name}: the class docstring is the contract"


def test_deepspeed_files_hold_mechanics_only():
    from unibert.runtime import dsconfig

    files = sorted((ROOT / "ds_configs").glob("*.json"))
    readme = (ROOT / "ds_configs" / "README.md").read_text(encoding="utf-8")
    assert files
    for path in files:
        tree = dsconfig.load(str(path))
        assert tree["gradient_clipping"] == "auto", f"{path.name}: DeepSpeed's default has changed once; say 'auto'"
        assert f"`{path.stem}`" in readme, f"ds_configs/README.md does not say what {path.name} is for"


def test_recipes_name_engines_that_exist():
    from unibert.config import RECIPES, load_recipe
    from unibert.runtime import dsconfig

    for path in RECIPES.glob("[!_]*.toml"):
        recipe = load_recipe(path.stem)
        for engine in (recipe.engines.student, recipe.engines.discriminator):
            assert dsconfig.find(engine).is_file()


# --- pages ------------------------------------------------------------------------------------------------------------


def test_generated_tables_are_current():
    assert readme_tables.rendered(README) == README, "run `make readme`"


def fenced_lines(page: Path) -> Iterator[str]:
    for block in re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.removeprefix("$ ").strip()


def documented_commands() -> list[str]:
    lines = [line for page in PAGES for line in fenced_lines(page)]
    return sorted({line for line in lines if re.search(r"(^|[ /])unibert ", line)})


@pytest.mark.parametrize("line", documented_commands())
def test_documented_command_is_accepted(line: str):
    from unibert.cli import parse
    from unibert.config import load_recipe

    words = shlex.split(line, comments=True)
    at = next(index for index, word in enumerate(words) if word.rpartition("/")[2] == "unibert")
    command, overrides = parse(words[at + 1 :])
    recipe = getattr(command, "recipe", None)
    if recipe is None:
        assert not overrides
    elif not recipe.endswith(".toml"):  # a file of the reader's own
        load_recipe(recipe, overrides)


def test_there_are_commands_in_the_readme():
    assert len([line for line in fenced_lines(ROOT / "README.md") if "unibert" in line]) >= 10


def test_readme_loads_the_folder_that_the_demo_writes():
    from unibert.config import load_recipe

    recipe = load_recipe("demo")
    assert f'"{recipe.run_folder}/hf/step_{recipe.train.steps:08d}"' in README


def test_documented_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z]+)", page.read_text(encoding="utf-8"))}
    named |= {line.split()[1] for page in PAGES for line in fenced_lines(page) if re.match(r"make [a-z]", line)}
    assert {"setup", "demo", "test", "lint"} <= named <= targets


def test_named_files_exist():
    """Links, and paths of our own folders in backticks."""
    missing = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        missing += [f"{page.name}: {link}" for link in links if link and not (page.parent / link).exists()]
        paths = re.findall(r"`((?:unibert|kernels|launch_slurm|ds_configs|tests|benchmarks|docs)/[\w./-]+)`", text)
        missing += [f"{page.name}: {path}" for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_no_path_of_this_machine_is_in_the_project():
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if listed.returncode:
        pytest.skip("not a git checkout")
    places = {str(path) for path in (ROOT, Path(sys.prefix), Path.home()) if len(path.parts) > 2}
    pattern = re.compile("|".join([*map(re.escape, places), r"/(?:hom[e]|User[s]|roo[t])/\w"]).encode())
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        hit = pattern.search(path.read_bytes()) if path.is_file() else None
        if hit:
            found.append(f"{name}: {hit.group().decode()}")
    assert not found


SCRIPTS = [
    ".ci/run",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("launch_slurm/*.*") if path.suffix != ".md"),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_shell_scripts_parse(script: str):
    assert run("bash", "-n", script).stderr == ""
