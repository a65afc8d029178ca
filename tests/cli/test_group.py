import importlib.util
import subprocess
import sys

import pytest

import unot_fast
from unot_fast.cli import main


def test_help_lists_the_commands(call):
    result = call("--help")
    assert result.exit_code == 0
    for name in ("solve", "pairwise", "evaluate", "neural-ot", "info", "demo"):
        assert f"  {name} " in result.output


def test_version(call):
    assert unot_fast.__version__ in call("--version").output


def test_unknown_command(call):
    result = call("transport")
    assert result.exit_code == 2
    assert "No such command 'transport'" in result.output


@pytest.mark.parametrize("name", ["solve", "pairwise", "evaluate", "neural-ot", "info", "demo"])
def test_help_of_a_command(call, name):
    result = call(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: group {name} ")


def test_help_imports_no_heavy_package():
    code = (
        "import sys\n"
        "from unot_fast.cli.group import group\n"
        "group(['--help'], standalone_mode=False)\n"
        "print([m for m in ('matplotlib', 'PIL', 'skimage', 'ot') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_missing_extra_is_one_clear_line(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("PIL", "tqdm") else find(name)
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert str(stopped.value) == (
        "unot-fast: tqdm, pillow not installed: pip install 'unot-fast[cli]'"
    )
