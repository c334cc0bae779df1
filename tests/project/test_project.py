"""What the documents promise, and what an installation must not drag in."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
import typer

import hybridprompt

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "onnx", "onnxscript", "matplotlib", "PIL", "safetensors")

README = (ROOT / "README.md").read_text()


def modules_after(statement: str) -> set[str]:
    """Names of the top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def shell_lines(program: str) -> list[str]:
    """Lines of the README's shell blocks that call a program."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.partition(" #")[0].partition("|")[0].strip() for b in blocks for line in b.splitlines()]
    return [line for line in lines if line.startswith(program + " ")]


@pytest.mark.parametrize(
    "statement",
    [
        "import hybridprompt",
        "import hybridprompt.cli",
        "import hybridprompt\nhybridprompt.VideoFile, hybridprompt.inspect_file",
        "import hybridprompt.encode.settings",
        "import hybridprompt.generator.registry",
    ],
)
def test_a_client_loads_no_heavy_package(statement: str) -> None:
    assert not modules_after(statement) & set(HEAVY)


def test_importing_the_package_costs_nothing() -> None:
    assert not modules_after("import hybridprompt") & {"av", "numpy", "onnxruntime", "rich", "typer"}


def test_the_version_is_installed_and_in_the_changelog() -> None:
    assert metadata.version("hybridprompt") == hybridprompt.__version__
    versions = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == hybridprompt.__version__


@pytest.mark.parametrize("line", shell_lines("hybridprompt"))
def test_readme_commands_are_understood(line: str) -> None:
    from hybridprompt.cli.app import app

    group = typer.main.get_command(app)
    _, name, *arguments = line.split()
    command = group.get_command(click.Context(group), name)  # type: ignore[attr-defined]
    assert command is not None, f"there is no command {name}"
    # Parsing alone: raises for unknown options and missing arguments, and does not run the command.
    command.make_context(name, arguments)


def test_readme_names_the_options_that_encode_has() -> None:
    from hybridprompt.cli.app import app

    group = typer.main.get_command(app)
    encode = group.get_command(click.Context(group), "encode")  # type: ignore[attr-defined]
    known = {option for parameter in encode.params for option in parameter.opts}
    assert {
        "--gop-seconds",
        "--preset",
        "--anchor-interval",
        "--generator",
        "--overwrite",
        "--json",
        "--crf",
    } <= known


@pytest.mark.parametrize("line", shell_lines("make"))
def test_readme_targets_are_in_the_makefile(line: str) -> None:
    target = line.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert missing == []


def test_the_licence_is_complete() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
