import json
from typing import Any

import pytest
from pydantic import ValidationError

from galenic_adapters.package.manifest import Manifest
from tests.support.packages import make_manifest

SCORE = {
    "dataset": "ncbi_disease",
    "split": "test",
    "metric": "f1",
    "value": 0.71,
    "untuned": 0.02,
    "num_examples": 100,
}


def with_(**changes: Any) -> str:
    """A manifest as JSON with *changes*, right or wrong."""
    return json.dumps(json.loads(make_manifest().model_dump_json()) | changes)


class TestManifest:
    def test_round_trip(self) -> None:
        """JSON and back is the same value, and the same bytes again."""
        manifest = Manifest.model_validate_json(
            with_(scores=[SCORE], trained_on=[{"dataset": "ncbi", "licence": "CC0-1.0"}])
        )
        text = manifest.model_dump_json()
        assert manifest == Manifest.model_validate_json(text)
        assert text == Manifest.model_validate_json(text).model_dump_json()

    def test_cannot_be_changed(self) -> None:
        with pytest.raises(ValidationError):
            make_manifest().name = "other"

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("schema_version", 3),
            ("name", "../evil"),
            ("name", "Ncbi"),
            ("name", "a" * 10_240),
            ("task", "translation"),
            ("labels", ["Disease", "Disease"]),
            ("labels", []),
            ("labels", [" Disease"]),
            ("labels", ["Dis\nease"]),
            ("labels", ["a" * 129]),
            ("labels", [f"l{i}" for i in range(257)]),
            ("labels", "Disease"),
            ("template_version", 0),
            ("template_version", "1"),
            ("template_version", 1.5),
            ("backbone", "SmolLM2"),
            ("backbone", {"name": "SmolLM2"}),
            ("backbone", {"name": "SmolLM2", "revision": "1", "url": "file:///"}),
            ("backbone", {"name": "", "revision": "1"}),
            ("backbone", {"name": "a\0", "revision": "1"}),
            ("metaprompt", "sha256:" + "0" * 63),
            ("metaprompt", "sha256:" + "A" * 64),
            ("metaprompt", "sha256:" + "0" * 64 + "\n"),
            ("metaprompt", "md5:" + "0" * 64),
            ("shapes", {}),
            ("shapes", {"u": [4, 0], "v": [0, 8]}),
            ("shapes", {"u": [4, -1], "v": [1, 8]}),
            ("shapes", {"u": [4, True], "v": [1, 8]}),
            ("shapes", {"u": [4, "1"], "v": [1, 8]}),
            ("shapes", {"u": [4, 10**30], "v": [1, 8]}),
            ("shapes", {"u": [4]}),
            ("shapes", {"w": [4, 1]}),
            ("rank", 1),
            ("dtype", "float64"),
            ("scores", [SCORE | {"value": float("nan")}]),
            ("scores", [SCORE | {"untuned": float("inf")}]),
            ("scores", [SCORE | {"num_examples": 0}]),
            ("scores", [SCORE] * 33),
            ("trained_on", [{"dataset": "ncbi"}]),
            ("licence", ""),
            ("licence", None),
            ("created", "yesterday"),
            ("created", 20260131),
            ("description", "a" * 4001),
            ("description", "a\0b"),
            ("description", "a\x1b[2Jb"),
            ("description", "a\u202eb"),
            ("secret", 1),
        ],
    )
    def test_refuses(self, field: str, value: Any) -> None:
        """The one fault is told at the field's own path."""
        with pytest.raises(ValidationError) as caught:
            Manifest.model_validate_json(with_(**{field: value}))
        assert {field} == {error["loc"][0] for error in caught.value.errors()}

    @pytest.mark.parametrize("field", ["name", "task", "labels", "shapes", "licence", "metaprompt"])
    def test_fields_that_must_be_there(self, field: str) -> None:
        fields = json.loads(with_())
        del fields[field]
        with pytest.raises(ValidationError, match="Field required"):
            Manifest.model_validate(fields)

    def test_labels_suit_the_task(self) -> None:
        """NLI without two labels could answer nothing; the task itself says so."""
        with pytest.raises(ValidationError, match="NLI needs at least 2 labels"):
            Manifest.model_validate_json(with_(task="nli", labels=["entails"]))
