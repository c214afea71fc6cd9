"""
Prints the OpenAPI document of the server's routes, which ``galenic openapi`` runs.
"""

import json
import sys

from galenic_server.http.app import describe_api


def main() -> int:
    json.dump(describe_api().openapi(), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
