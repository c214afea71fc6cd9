"""
Runs the ``galenic`` command as ``python -m galenic_adapters.cli``, for launchers of modules.
"""

from galenic_adapters.cli.command import main

if __name__ == "__main__":
    main()
