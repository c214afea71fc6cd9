"""
Galenic's client: ``Client().ner(["He has diabetes."]).documents[0].entities``.
"""

from galenic_client.async_client import AsyncClient
from galenic_client.client import Client

__all__ = ["AsyncClient", "Client"]
