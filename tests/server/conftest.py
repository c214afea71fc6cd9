"""One server over a tiny random backbone, for all tests of the HTTP surface."""

from tests.support.http_fixtures import backbone, running  # noqa: F401  fixtures by their names
