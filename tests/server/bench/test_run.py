"""
The whole bench at the size of a test: what it records and writes. Nothing here asserts how fast.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from galenic_server.bench.__main__ import measure
from galenic_server.bench.preset import PRESETS, Lengths, Peer, Preset
from galenic_server.bench.report import Report
from galenic_server.bench.run import PARTS, of_backbone, of_shape
from galenic_server.bench.shapes import ARCHITECTURES

TINY = Preset(
    num_requests=4,
    num_rounds=2,
    concurrency=4,
    sizes=(1, 16),
    lengths=Lengths((6, 8), (3, 3)),
    mixed=(("long", Lengths((20, 24), (2, 4))),),
    mixed_requests=2,
    alphas=(0.3,),
    cvs=(4,),
    peers=(Peer(16, 2),),
    num_loras=4,
    peer_requests=2,
    peer_rounds=1,
    num_uploads=3,
    num_positions=32,
    context_tokens=256,
    dtype="float32",
)
SHAPE = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def folder(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a whole run with the transformers engine."""
    made = tmp_path_factory.mktemp("bench")
    measure(of_backbone(TINY, "transformers", str(llama)), list(PARTS), made)
    return made


class TestReport:
    def test_every_comparison_is_there(self, folder: Path):
        """
        Each figure has its bar and a verdict, also where its arms did not run, and why is said.
        """
        report = Report.read(folder / "bench.json")
        shown = (folder / "bench.md").read_text()

        assert {"met", "not met", "not measured"} >= {it.verdict for it in report.figures}
        assert all(f"| {it.figure.name} |" in shown for it in report.figures)
        assert {"peers", "HTTP"} == set(report.missing)
        assert 64 == len(report.samples["upload, ms"])

    def test_figures_follow_from_the_raw_rounds(self, folder: Path):
        """
        What the file says is what its own rounds and samples say, every request among them.
        """
        row = json.loads((folder / "bench.json").read_text())
        report = Report.read(folder / "bench.json")

        values = [it.value for it in report.figures]
        assert values == [it["value"] for it in row["figures"]]
        closed = [it for it in report.rounds if it.part == "residency"]
        assert {0, 1} == {it.number for it in closed}
        assert {4} == {len(it.first) for it in closed}
        assert all(it.tokens == [3] * 4 for it in closed)

    def test_arms_make_equal_work(self, folder: Path):
        """
        A constrained answer and its free counterpart have as many tokens, request by request.
        """
        rounds = Report.read(folder / "bench.json").rounds

        bound = {it.number: it.tokens for it in rounds if it.arm == "NLI"}
        free = {it.number: it.tokens for it in rounds if it.arm == "NLI, free"}
        assert bound == free

    def test_is_drawn(self, folder: Path):
        """
        Requests, first tokens, share of bare and memory over the number of adapters.
        """
        assert "<svg" in (folder / "bench.svg").read_text()

    def test_a_part_measured_again_replaces_itself_alone(self, folder: Path, tmp_path: Path):
        """
        A part run later into the same folder takes the place of that part.
        """
        old = Report.read(folder / "bench.json")
        again = Report.read(folder / "bench.json")
        again.rounds = [it for it in again.rounds if it.part == "churn"][:1]

        old.add(again)

        assert 1 == sum(it.part == "churn" for it in old.rounds)
        assert any(it.part == "residency" for it in old.rounds)


@pytest.mark.slow
def test_vllm_peers_and_server(llama: Path, tmp_path: Path):
    """
    vLLM beside itself with LoRA and with embeddings, and a server that is asked over HTTP.
    """
    stage = of_backbone(replace(TINY, form="input"), "vllm", str(llama), eager=True)
    stage.options.update(kv_cache_memory_bytes=32 << 20, max_num_seqs=8)

    report = measure(stage, ["http", "peers"], tmp_path)

    assert {} == report.missing
    arms = {it.arm for it in report.rounds}
    assert {"HTTP", "in process", "ours", "LoRA r16, max_loras 2", "embeds"} <= arms
    assert 64 <= len(report.samples["upload, ms"])


def test_is_a_command():
    """
    `galenic bench` passes on what it is given to the program that measures.
    """
    command = [sys.executable, "-m", "galenic_adapters.cli", "bench", "--preset", "none"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 2 == done.returncode
    assert "choose from" in done.stderr and "gpu" in done.stderr


@pytest.mark.parametrize("name", PRESETS["gpu"].shapes)
def test_a_large_shape_is_made_without_a_hub(tmp_path: Path, name: str):
    """
    The folder has the recipe's vocabulary, and a token for each of it.
    """
    stage = of_shape(PRESETS["gpu"], name, tmp_path)
    recipe = json.loads((ARCHITECTURES / f"{name}.json").read_text())

    assert recipe["vocab_size"] == stage.vocabulary[1]
    assert (recipe["num_hidden_layers"], recipe["hidden_size"]) == (
        stage.shape.num_layers,
        stage.shape.width,
    )
    assert ("gpt-oss" in name) == (stage.preset.peers == ())


@pytest.mark.slow
def test_a_shape_without_weights(tmp_path: Path):
    """
    What runs on a large backbone's shape runs on a tiny one's.
    """
    (tmp_path / "tiny.json").write_text(json.dumps(SHAPE))
    stage = of_shape(TINY, str(tmp_path / "tiny.json"), tmp_path / "shape")
    stage.enforce_eager = True
    stage.options.update(kv_cache_memory_bytes=32 << 20, max_num_seqs=8)

    report = measure(stage, ["residency"], tmp_path / "report")

    assert {"bare", "text prefix, cold", "ours, N = 16, warm"} <= {it.arm for it in report.rounds}
