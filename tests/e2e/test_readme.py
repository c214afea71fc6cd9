"""The README's first request, as a reader pastes it."""

import json
import re
import subprocess
from pathlib import Path

from tests.support.real_server import RealServer

README = Path(__file__).parents[2] / "README.md"
CURL = re.compile(r"^    (curl -s \S+/v1/ner .*?)\n\n", re.MULTILINE | re.DOTALL)


class TestTheReadme:
    def test_its_curl_finds_the_diseases(self, server: RealServer):
        """
        It finds each where it stands, in a sentence that no training set holds.
        """
        (pasted,) = CURL.findall(README.read_text())
        pasted = pasted.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(
            ["bash", "-c", pasted],
            env={"KEY": server.api_key, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        (document,) = json.loads(done.stdout)["documents"]
        (text,) = re.findall(r'"text": "(.*?)"', pasted)

        assert "clean" == document["reading"]
        found = {entity["text"] for entity in document["entities"]}
        assert {"colorectal cancer", "ovarian cancer"} == found
        for entity in document["entities"]:
            assert entity["text"] == text[entity["start"] : entity["end"]]
