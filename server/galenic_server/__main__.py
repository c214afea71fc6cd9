"""
Runs the server as ``python -m galenic_server``, which `galenic serve` executes.
"""

import sys

from galenic_server.main import main

if __name__ == "__main__":  # workers of the engine import this file again
    sys.exit(main())
