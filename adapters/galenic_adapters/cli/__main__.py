"""
``python -m galenic_adapters.cli``: the ``galenic`` command, for launchers that take a module.
"""

from galenic_adapters.cli.main import main

if __name__ == "__main__":
    main()
