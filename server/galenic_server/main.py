"""
Assembles a server from its settings and runs it; parts are made here and nowhere else.
"""

import errno
import gc
import os
import signal
import socket
import sys
from datetime import timedelta
from typing import TextIO

import structlog
import uvicorn
from pydantic import SecretStr

from galenic_adapters.backbone.weights import ensure, shape_at
from galenic_adapters.errors import BadInput, GalenicError
from galenic_adapters.package import zoo
from galenic_adapters.package.file import Fit
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.progress import Say
from galenic_adapters.refs import SHARED
from galenic_server import logs
from galenic_server.admission.gate import Admission
from galenic_server.admission.quarantine import Quarantine
from galenic_server.admission.turns import Turns
from galenic_server.answering.service import Service
from galenic_server.audit.chain import Chain, Tampered, acting
from galenic_server.audit.trail import Trail
from galenic_server.audit.witness import Witness
from galenic_server.database.database import Database
from galenic_server.engine.contract import EngineConfig
from galenic_server.engine.make import make_engine
from galenic_server.environment import read_settings
from galenic_server.fleet.follower import Follower
from galenic_server.fleet.replica import Replica
from galenic_server.fleet.residents import Residents
from galenic_server.http.app import make_app
from galenic_server.http.deps import Parts
from galenic_server.http.protocol import Crowd, guarded
from galenic_server.metrics import Metrics
from galenic_server.registry.composer import Composer
from galenic_server.registry.publisher import Publisher
from galenic_server.registry.store import Store
from galenic_server.registry.zoo import Sharing
from galenic_server.secret import keep_private, read_secrets
from galenic_server.settings import Settings
from galenic_server.tenancy.keyring import Keyring
from galenic_server.tenancy.keys import Role
from galenic_server.tenancy.limiter import Limiter
from galenic_server.tenancy.tenant_limits import TenantLimits
from galenic_server.tenancy.tokens import Tokens

log = structlog.get_logger(__name__)

MARGIN_SECONDS = 60
"""Extra time to wait for a silent replica after its caches must have expired."""
SENTENCE = "The patient was diagnosed with colorectal cancer; his mother had ovarian cancer."


def main() -> int:
    settings = read_settings(_say)
    if settings is None:
        return 1
    os.umask(0o077)  # database, secret and temporary files are this user's alone
    logs.configure(settings.log_level)
    logs.adopt()
    try:
        address = bound(settings)
        parts = assemble(settings, say=_say)
        key = first_key(parts.keys, settings)
    except (GalenicError, ImportError) as error:
        _say(f"galenic: {error} (`galenic doctor` looks at this machine)")
        return 1
    if key:
        _say(f"\ngalenic: admin key (shown this once, keep it): {key}\n")
    return serve(parts, invitation(settings, key), address)


def bound(settings: Settings) -> socket.socket:
    """
    Bind the server's address, before anything is loaded or a key is made.

    Raises `BadInput` if another program has it, or this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    address = socket.socket(family)
    address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        address.bind((settings.host, settings.port))
    except OSError as error:
        address.close()
        if error.errno == errno.EADDRINUSE:
            problem = f"{settings.port} is taken at {settings.host} by another program"
            raise BadInput("GALENIC_PORT", problem) from error
        if error.errno == errno.EACCES:
            problem = f"{settings.port} needs more rights; above 1023 none are needed"
            raise BadInput("GALENIC_PORT", problem) from error
        raise BadInput("GALENIC_HOST", f"{settings.host[:80]!r}: {error.strerror}") from error
    return address


def assemble(settings: Settings, *, say: Say) -> Parts:
    """Make every part of a server, and publish the zoo; nothing runs yet."""
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    secrets = read_secrets(settings.home, _revealed(settings.secret))
    keep_private(settings.home)
    found = ensure(settings.backbone, progress=say)
    backbone = BackboneId(name=found.name, revision=found.revision)
    metaprompts = zoo.metaprompts_of(backbone, settings.metaprompt, zoo=settings.zoo)
    if not metaprompts:
        say(
            f"galenic: no metaprompt for {backbone}: only adapters that stand alone are served,"
            " until `galenic train` makes one, which GALENIC_METAPROMPT names"
        )
    if settings.batch_invariant:
        os.environ.setdefault("VLLM_BATCH_INVARIANT", "1")  # read by vLLM's processes, on a GPU
    store = Store.open(settings.database, default_quota=settings.quota)
    chain = begin_chain(settings, store.database, *secrets)
    config = EngineConfig(
        backbone=str(found.path),
        secret=secrets[0],
        dtype=settings.engine_dtype,
        num_slots=settings.num_slots,
        places=tuple(settings.places),
        prompt_bytes=settings.prompt_bytes,
        context_tokens=settings.context_tokens,
        enforce_eager=settings.enforce_eager,
        tensor_parallel_size=settings.tensor_parallel_size,
        tool_parser=settings.tool_parser,
        silent_seconds=settings.engine_silent_seconds,
    )
    fit = Fit(
        backbone,
        metaprompts,
        shape_at(found.path),
        places=config.places,
        max_rank=settings.max_rank,
    )
    sharing = Sharing(store.versions, store.aliases, fit)
    with acting({"action": "share_zoo", "actor": "server"}):
        new = sharing.share(zoo.folder_of(settings.zoo, backbone), say)
    say(f"galenic: {len(new)} new shared adapters for {backbone}")
    keys = Keyring(
        store.keys,
        store.tenants,
        store.changes,
        secrets=secrets,
        admin_keys=settings.admin_keys,
        stale_seconds=settings.stale_seconds,
        life=timedelta(days=settings.key_days) if settings.key_days else None,
        tokens=Tokens(settings.provider) if settings.provider else None,
    )
    return join(settings, store, keys, chain, config, fit)


def begin_chain(settings: Settings, database: Database, *secrets: bytes) -> Chain:
    """Open the audit chain, and begin it at the first start. Raises `Tampered`."""
    witness = Witness.of(settings.home, settings.database)
    chain = Chain(database, *secrets, seen=witness.read())
    try:
        chain.begin()
    except Tampered as error:
        raise Tampered(
            f"{error}. The database was cut off or replaced; if you did that, by a backup, delete"
            f" {witness.path}"
        ) from None
    return chain


def join(
    settings: Settings,
    store: Store,
    keys: Keyring,
    chain: Chain,
    config: EngineConfig,
    fit: Fit,
) -> Parts:
    """Make the engine over *store*, and the parts around both."""
    limiter = Limiter()
    turns = Turns(
        most=settings.max_running, shared=settings.shared_running, weight_of=limiter.weight
    )
    admission = Admission(turns, Quarantine(settings.engine_deaths), spend=limiter.spend)
    composer = Composer(store.packages, fit)
    engine = make_engine(settings.engine, config, composer, admission)
    limits = TenantLimits(
        store.limits,
        limiter,
        default=settings.limits,
        stale_seconds=settings.stale_seconds,
    )
    publisher = Publisher(store, engine, fit=fit, signatures=settings.signatures)
    follower = Follower(
        store,
        engine,
        place=settings.place,
        silent_seconds=settings.stale_seconds + MARGIN_SECONDS,
        retention=timedelta(days=settings.retention_days),
    )
    residents = Residents(composer, engine, chain)
    replica = Replica(engine, residents, follower)
    service = Service(
        store.names,
        store.changes,
        engine,
        fit=fit,
        is_open=replica.is_open,
        spend=limiter.spend,
        stale_seconds=settings.stale_seconds,
    )
    trail = Trail(chain, Witness.of(settings.home, settings.database))
    metrics = Metrics()
    metrics.watch(turns)
    return Parts(service, store, publisher, keys, metrics, settings, trail, limits, replica)


def first_key(keys: Keyring, settings: Settings) -> str | None:
    """Create an admin key for the first start, unless there is one."""
    if keys.has_admin():
        return None
    with acting({"action": "first_key", "actor": "server"}):
        return keys.create(SHARED, Role.ADMIN)[0]


def invitation(settings: Settings, key: str | None) -> str:
    """Return a command to paste that sends a first request."""
    bearer = "${GALENIC_ADMIN_KEY%%,*}" if settings.admin_key else key or "<your key>"
    url = f"http://{settings.host}:{settings.port}"
    return (
        f"\ngalenic: ready on {url}; ask:\n\n"
        f'  curl -s {url}/v1/ner -H "authorization: Bearer {bearer}" \\\n'
        "    -H 'content-type: application/json' \\\n"
        f"""    -d '{{"documents": [{{"id": "1", "text": "{SENTENCE}"}}]}}'\n"""
    )


def serve(parts: Parts, invitation: str, address: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT, then drain: refuse new requests and finish running ones."""
    settings = parts.settings
    failed = False

    def give_up() -> None:
        nonlocal failed
        failed = True
        server.should_exit = True

    crowd = Crowd(settings.max_connections, settings.max_connections_of_peer)
    config = uvicorn.Config(
        make_app(parts, on_ready=lambda: _be_ready(invitation), on_failed_start=give_up),
        log_config=None,  # logging is configured by `logs`
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.drain_seconds,
        http=guarded(settings.patience_seconds, crowd),
        forwarded_allow_ips=settings.trusted_proxies,
        ws="none",
    )
    server = uvicorn.Server(config)
    for ending in (signal.SIGTERM, signal.SIGINT):
        # After draining, uvicorn raises the signal again for the previous handler: ignore it.
        signal.signal(ending, lambda *_: None)
    server.run(sockets=[address])
    return 1 if failed else 0


def _be_ready(invitation: str) -> None:
    """
    Print the invitation, and exempt all objects made so far from garbage collection.

    They stay alive. A collection over these 700,000 objects, mostly vLLM's and torch's, took 0.5 s
    on a busy core, during which nobody is answered. vLLM's own server does the same.
    """
    gc.collect()
    gc.freeze()
    _say(invitation)


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _say(text: str, out: TextIO = sys.stderr) -> None:
    out.write(text + "\n")
    out.flush()
