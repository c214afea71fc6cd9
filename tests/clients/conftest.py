"""One server over a tiny random backbone, for the client and the command."""

from tests.support.http_fixtures import backbone, running  # noqa: F401  fixtures by their names
