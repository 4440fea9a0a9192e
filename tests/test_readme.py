"""Every code block of the README is run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process
ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [code for language, code in BLOCKS if language == "sh"]


def run(command: list[str], folder: Path) -> str:
    # The commands are those installed beside the interpreter that runs the tests.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_all_blocks_are_known():
    assert {language for language, _ in BLOCKS} == {"python", "sh"}
    assert len(PYTHON) == 2
    assert len(SHELL) == 3


@pytest.mark.parametrize("code", PYTHON, ids=["environments", "evaluation"])
def test_python_block_runs(code, tmp_path):
    assert run([sys.executable, "-W", "error::UserWarning", "-c", code], tmp_path).strip()


def test_evaluation_example_is_short_and_needs_no_agent_library():
    example = PYTHON[1]
    assert len(example.splitlines()) <= 25
    assert "torch" not in example
    assert "tianshou" not in example


def test_install_block_is_what_ci_and_make_do():
    commands = SHELL[0].splitlines()
    script = (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text().replace("$(PYTHON)", "python3")
    makefile = makefile.replace("$(BIN)", "$(VENV)/bin").replace("$(VENV)", ".venv")
    for command in commands:
        assert command.replace(".venv/bin/pip install", ".venv/bin/pip install --quiet") in script
        assert command.replace(".venv/bin/pip install", ".venv/bin/pip install --quiet") in makefile


def test_make_targets_exist():
    for command in SHELL[1].splitlines():
        assert "metarl" in run(["make", "-n", "-C", str(ROOT), command.removeprefix("make ")], ROOT) or (
            "pytest" in run(["make", "-n", "-C", str(ROOT), command.removeprefix("make ")], ROOT)
        )


def test_metarl_commands_run_in_order(tmp_path):
    for command in SHELL[2].splitlines():
        assert run(shlex.split(command), tmp_path).strip(), command
    assert (tmp_path / "runs" / "quick" / "seed-1" / "report_test_promp.json").exists()
    assert (tmp_path / "runs" / "quick" / "learning.png").exists()


def test_generated_parts_are_current():
    assert run([sys.executable, "docs/generate.py", "--check"], ROOT) == ""
