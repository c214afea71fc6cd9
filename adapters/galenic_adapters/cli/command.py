"""
The entry point of the ``galenic`` command, which is installed even where its libraries are not.
"""

import sys


def main() -> None:
    """Run the command, or say which extra brings what it needs."""
    try:
        from galenic_adapters.cli.main import app
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("galenic"):
            raise
        sys.exit(
            f"galenic: the command needs {missing.name}: pip install 'galenic[server]' serves,"
            " 'galenic[train]' trains; the Python client galenic_client needs neither"
        )
    app()
