"""
What is shipped for containers, carried out without a container engine.

The Dockerfile's instructions run in order in a clean environment, its absolute paths moved into a
temporary folder; steps for root (packages of the operating system, accounts) are left to the host.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from galenic_server.http.routes import health
from galenic_server.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
KINDS = {
    "Deployment": "deployment-apps-v1",
    "NetworkPolicy": "networkpolicy-networking-v1",
    "Service": "service-v1",
}
NETWORK = re.compile(r"(PIP_|SSL_CERT|REQUESTS_CA|.*_proxy$|.*_PROXY$)")


@dataclass(frozen=True, slots=True)
class Instruction:
    word: str
    rest: str

    @property
    def command(self) -> list[str]:
        """Its exec form."""
        return json.loads(self.rest[self.rest.index("[") :])


def instructions() -> list[Instruction]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    halves = [line.split(maxsplit=1) for line in lines]
    return [Instruction(word, rest) for word, rest in halves]


def one(word: str) -> Instruction:
    return next(found for found in instructions() if found.word == word)


@dataclass
class Image:
    """A folder that stands for the image's file system, and the environment of its steps."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"

    @property
    def here(self) -> Path:
        return self.root / self.folder.lstrip("/")

    def run(self, *command: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            cwd=self.here,
            env=self.environment | extra,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )

    def build(self) -> None:
        as_root = True
        for found in instructions():
            as_root = as_root and found.word != "USER"
            if not (found.word == "RUN" and as_root):
                getattr(self, f"_{found.word.lower()}", lambda _: None)(found.rest)

    def _arg(self, rest: str) -> None:
        name, _, default = rest.partition("=")
        self.arguments[name] = default

    def _env(self, rest: str) -> None:
        known = self.environment | self.arguments
        for name, value in (word.split("=", 1) for word in shlex.split(rest)):
            placed = re.sub(r"(?<![\w$])/(srv|var)/", rf"{self.root}/\1/", value)
            self.environment[name] = re.sub(r"\$(\w+)", lambda m: known[m[1]], placed)

    def _workdir(self, rest: str) -> None:
        self.folder = rest
        self.here.mkdir(parents=True)

    def _copy(self, rest: str) -> None:
        source, target = (word for word in shlex.split(rest) if not word.startswith("--"))
        for name in context():
            if source == "." or name == source or name.startswith(f"{source}/"):
                path = self.here / target / os.path.relpath(name, source)
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, path)

    def _run(self, rest: str) -> None:
        done = self.run("sh", "-c", rest)
        assert done.returncode == 0, f"{rest}\n{done.stdout}"


def context() -> list[str]:
    """The files that a build gets: those of the repository that .dockerignore leaves in."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = [line for line in lines if line and not line.startswith("#")]
    return [
        name
        for name in listed
        if (ROOT / name).is_file()
        and not any(fnmatch(name, line) or fnmatch(name, f"{line}/*") for line in ignored)
    ]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The Dockerfile, carried out from nothing."""
    root = tmp_path_factory.mktemp("image")
    (root / "home").mkdir()
    base = f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    network = {name: value for name, value in os.environ.items() if NETWORK.match(name)}
    # Compiling every module takes a minute, and most are never imported.
    once = {"PATH": base, "HOME": str(root / "home"), "GALENIC_PIP_ARGS": "--no-compile"}
    image = Image(root, once | network)
    image.build()
    yield image
    shutil.rmtree(root)  # gigabytes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(1500)
class TestImage:
    def test_nothing_is_missing(self, image):
        """
        The image holds every package that another one requires, and the weights.
        """
        told = image.run("galenic", "doctor", GALENIC_PORT=str(free_port())).stdout

        assert "all well" in told, told

    def test_nothing_is_done_twice(self, image):
        """
        The set-up, run again, finds nothing to do.
        """
        before = time.monotonic()

        done = image.run("make", "weights")

        assert (0, "") == (done.returncode, done.stdout)
        assert time.monotonic() - before < 10

    @pytest.fixture
    def port(self, image: Image) -> Iterator[int]:
        """Where the image's command serves (by the engine that starts in seconds)."""
        port = free_port()
        process = subprocess.Popen(
            one("CMD").command,
            cwd=image.here,
            env=image.environment
            | {
                "PATH": image.environment["PATH"],
                "GALENIC_PORT": str(port),
                "GALENIC_HOST": "127.0.0.1",
                "GALENIC_ENGINE": "transformers",
            },
            executable=shutil.which(one("CMD").command[0], path=image.environment["PATH"]),
        )
        yield port
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in {0, -signal.SIGTERM}

    def test_it_becomes_healthy(self, image, port):
        """
        The image's own health check fails until its command serves, and then holds.
        """
        check = [word.replace(":8000/", f":{port}/") for word in one("HEALTHCHECK").command]

        assert 0 != image.run(*check).returncode
        deadline = time.monotonic() + 300
        while image.run(*check).returncode:
            assert time.monotonic() < deadline, image.run(*check).stdout
            time.sleep(1)


class TestSetup:
    """`deploy/setup` over pins of our own, so that it takes seconds."""

    @staticmethod
    def _setup(folder: Path, *pins: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        shutil.copytree(ROOT / "deploy", folder / "deploy", dirs_exist_ok=True)
        (folder / "deploy/requirements/cpu.txt").write_text("".join(f"{pin}\n" for pin in pins))
        path = f"{folder}/.venv/bin:{os.environ['PATH']}"  # as make has it
        return subprocess.run(
            [folder / "deploy/setup", "requirements"],
            env={**os.environ, "PATH": path, "GALENIC_DEVICE": "cpu", **settings},
            capture_output=True,
            text=True,
            check=False,
        )

    @staticmethod
    def _installed(folder: Path) -> set[str]:
        names = {path.name for path in folder.glob(".venv/lib/python*/site-packages/*.dist-info")}
        return {name for name in names if not name.startswith(("pip-", "setuptools-"))}

    def test_it_follows_the_pins(self, tmp_path):
        """
        New pins make a new environment, in which nothing of the old is left; the same ones do not.
        """
        first = self._setup(tmp_path, "six==1.17.0")
        assert (0, {"six-1.17.0.dist-info"}) == (first.returncode, self._installed(tmp_path))

        same = self._setup(tmp_path, "six==1.17.0")
        assert (0, "") == (same.returncode, same.stdout)

        other = self._setup(tmp_path, "idna==3.20")
        assert (0, {"idna-3.20.dist-info"}) == (other.returncode, self._installed(tmp_path))

    def test_a_failure_is_not_remembered(self, tmp_path):
        """
        Where pip fails, its reason is shown, and the next run tries again.
        """
        failed = self._setup(tmp_path, "six==0.0.0.0")

        assert 1 == failed.returncode
        assert "No matching distribution found for six==0.0.0.0" in failed.stderr
        assert 0 == self._setup(tmp_path, "six==1.17.0").returncode

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"GALENIC_PYTHON": "python-of-nobody"}, "needs Python 3.11 or newer"),
            ({"GALENIC_DEVICE": "tpu"}, "GALENIC_DEVICE is cpu or gpu, not tpu"),
        ],
    )
    def test_it_says_what_it_needs(self, tmp_path, setting: dict[str, str], message: str):
        """
        What it cannot work with is one clear line, and nothing has been made.
        """
        done = self._setup(tmp_path, "six==1.17.0", **setting)

        assert (1, "") == (done.returncode, done.stdout)
        assert done.stderr.startswith(f"galenic: {message}")
        assert not (tmp_path / ".venv").exists()


class TestDockerfile:
    def test_it_does_not_run_as_root(self):
        assert "galenic" == one("USER").rest

    def test_the_same_steps_as_make(self):
        """
        What the image runs as its user are steps that `make serve` takes as well.
        """
        steps = [found.rest for found in instructions() if found.word == "RUN"]

        assert ["deploy/setup requirements", "make weights"] == steps[-2:]
        assert "serve: weights" in (ROOT / "Makefile").read_text()

    def test_the_context_is_small(self):
        """
        No test, cache or environment travels into the image; what setup needs does.
        """
        names = context()

        assert {"deploy/setup", "pyproject.toml", "README.md", "LICENSE"} <= set(names)
        assert [] == [name for name in names if name.startswith(("tests/", ".git/", ".venv/"))]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The Compose specification's, from the wheel of docker-compose."""
    with _wheel("docker-compose==1.29.2", tmp_path_factory) as wheel:
        return json.loads(wheel.read("compose/config/compose_spec.json"))


def _wheel(pin: str, folders: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = folders.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", pin]
    subprocess.run(command, cwd=folder, check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


class TestCompose:
    def test_it_is_valid(self, schema):
        """
        The file follows the Compose specification.
        """
        validator = jsonschema.Draft7Validator(schema)

        assert [] == [error.message for error in validator.iter_errors(COMPOSE)]

    def test_the_schema_bites(self, schema):
        """
        A misspelt key would not pass.
        """
        wrong = {"services": {"galenic": {"imagee": "galenic"}}}

        assert not jsonschema.Draft7Validator(schema).is_valid(wrong)

    def test_every_setting_exists(self):
        """
        Each GALENIC_ variable, here and in the image, is one that the server or the cache reads.
        """
        known = {f"GALENIC_{name.upper()}" for name in Settings.model_fields}
        known |= {"GALENIC_CACHE", "GALENIC_DEVICE"}
        image = re.findall(r"\b(GALENIC_\w+)=", (ROOT / "Dockerfile").read_text())
        compose = [name for name in _environment("galenic") if name.startswith("GALENIC_")]

        assert set(image + compose) <= known

    def test_secrets_come_from_outside(self):
        """
        Nothing starts with a secret that is written down here: each has to be given.
        """
        secrets = ("POSTGRES_PASSWORD", "GALENIC_ADMIN_KEY", "GALENIC_SECRET")
        text = (ROOT / "docker-compose.yml").read_text()

        for name in secrets:
            found = re.findall(rf"\$\{{{name}(.*?)\}}", text)
            assert found
            assert {f":?set {name}"} == set(found)

    def test_both_ends_of_the_database_agree(self):
        """
        The server asks for the account and the database that PostgreSQL is told to make.
        """
        given = _environment("database")
        url = _environment("galenic")["GALENIC_DATABASE_URL"]

        assert url.startswith(f"postgresql://{given['POSTGRES_USER']}:${{POSTGRES_PASSWORD")
        assert url.endswith(f"@database/{given['POSTGRES_DB']}")

    def test_data_outlives_containers(self):
        """
        What a service keeps is on a declared volume.
        """
        mounts = [m for service in COMPOSE["services"].values() for m in service["volumes"]]
        volumes = dict(mount.split(":") for mount in mounts)

        assert COMPOSE["volumes"].keys() == volumes.keys()
        assert one("VOLUME").rest == volumes["galenic"]

    def test_it_dumps_no_core_and_writes_to_volumes_only(self):
        """
        A core would hold the texts that are being answered.
        """
        ours = COMPOSE["services"]["galenic"]

        assert (0, True) == (ours["ulimits"]["core"], ours["read_only"])
        assert ["/tmp:exec", "/home/galenic"] == ours["tmpfs"]

    def test_the_order_of_starting(self):
        """
        The server starts once PostgreSQL is healthy, which PostgreSQL can tell.
        """
        needed = COMPOSE["services"]["galenic"]["depends_on"]

        assert {"database": {"condition": "service_healthy"}} == needed
        assert "healthcheck" in COMPOSE["services"]["database"]


KUBERNETES = {
    found["kind"]: found
    for found in yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())
}
POD = KUBERNETES["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    labels = KUBERNETES["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels == KUBERNETES["Service"]["spec"]["selector"]
    return POD["containers"][0]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A validator for each kind, by the API's own schemas, which forbid unknown fields."""
    with _wheel("kubernetes-validate==1.37.0", tmp_path_factory) as wheel:
        folder = "kubernetes_validate/kubernetes-json-schema/v1.37.0-local-strict"

        def read(name: str) -> Resource[Any]:
            return DRAFT202012.create_resource(json.loads(wheel.read(f"{folder}/{name}")))

        shared = ("/api/_definitions.json", read("_definitions.json"))
        registry: Registry[Any] = Registry().with_resources([shared])
        return {
            kind: jsonschema.Draft202012Validator(read(f"{name}.json").contents, registry=registry)
            for kind, name in KINDS.items()
        }


class TestKubernetes:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_valid(self, kinds, kind):
        """
        By the API's schema, in which no field is misspelt.
        """
        assert KINDS.keys() == KUBERNETES.keys()
        assert [] == [error.message for error in kinds[kind].iter_errors(KUBERNETES[kind])]

    def test_the_schemas_bite(self, kinds):
        wrong = KUBERNETES["NetworkPolicy"] | {"spek": {}}

        assert not kinds["NetworkPolicy"].is_valid(wrong)

    def test_it_meets_the_restricted_standard(self, container):
        """
        Of Kubernetes' Pod Security Standards.
        """
        own, pod = container["securityContext"], POD["securityContext"]

        assert (True, 1000, 1000) == (pod["runAsNonRoot"], pod["runAsUser"], pod["runAsGroup"])
        assert {"type": "RuntimeDefault"} == pod["seccompProfile"]
        assert (False, ["ALL"]) == (own["allowPrivilegeEscalation"], own["capabilities"]["drop"])
        assert {"emptyDir"} == {key for volume in POD["volumes"] for key in volume} - {"name"}
        assert not POD.keys() & {"hostNetwork", "hostPID", "hostIPC"}

    def test_it_gives_the_pod_nothing_that_it_does_not_need(self, container):
        """
        No token of the cluster, no addresses of other services, no core dump, no writable root.
        """
        assert (False, False) == (POD["automountServiceAccountToken"], POD["enableServiceLinks"])
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert ["sh", "-c", "ulimit -c 0 && exec galenic serve"] == container["command"]
        assert ["galenic", "serve"] == one("CMD").command

    def test_it_can_write_where_it_has_to(self, container):
        """
        Where the image keeps its state, in its home and in /tmp; each volume is declared.
        """
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}

        assert {one("VOLUME").rest, "/home/galenic", "/tmp"} == mounts.keys()
        assert {volume["name"] for volume in POD["volumes"]} == set(mounts.values())

    def test_only_the_ingress_asks_and_only_the_database_is_asked(self):
        """
        Besides name servers.
        """
        policy = KUBERNETES["NetworkPolicy"]["spec"]
        ports = [port["port"] for rule in policy["egress"] for port in rule["ports"]]

        assert KUBERNETES["Deployment"]["spec"]["selector"] == policy["podSelector"]
        assert ["Ingress", "Egress"] == policy["policyTypes"]
        assert [53, 53, 5432] == ports
        assert ["http"] == [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
        assert all(rule["from"] for rule in policy["ingress"])

    def test_it_runs_what_compose_runs(self, container):
        """
        The same image, of the version that is released here, with the same settings.
        """
        ours = COMPOSE["services"]["galenic"]
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

        assert f"galenic:{version}" == ours["image"] == container["image"]
        assert ours["environment"].keys() == {found["name"] for found in container["env"]}

    def test_secrets_come_from_a_secret(self, container):
        assert all("secretKeyRef" in found["valueFrom"] for found in container["env"])

    def test_probes_are_the_servers(self, container):
        """
        Each probe asks a path that the server answers without a key.
        """
        paths = {
            container[f"{name}Probe"]["httpGet"]["path"]
            for name in ("startup", "readiness", "liveness")
        }

        assert paths == {route.path for route in health.router.routes} - {"/metrics"}


def _environment(service: str) -> dict[str, str]:
    return COMPOSE["services"][service]["environment"]
