"""The ``unot-fast`` command."""

import importlib.util
import sys

# Import names of the packages of the ``cli`` extra.
_REQUIRED = {"click": "click", "tqdm": "tqdm", "PIL": "pillow", "matplotlib": "matplotlib"}


def main() -> None:
    """Run the command line, or say what is not installed."""
    missing = [package for name, package in _REQUIRED.items() if not importlib.util.find_spec(name)]
    if missing:
        sys.exit(f"unot-fast: {', '.join(missing)} not installed: pip install 'unot-fast[cli]'")
    from unot_fast.cli.group import group

    group(prog_name="unot-fast")
