"""The core: what a call asks, what an answer means, what is fallen back to, when a connection is renewed. Does no input or output.

It is written once, as coroutines over a `Ground`. On `AsyncPolicyClient`'s ground they suspend where they wait. On `PolicyClient`'s they
block there and never suspend, so that one step runs them to their end.
"""

import itertools
import json
import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from upright_client.decision import (
    Counters,
    Decision,
    Fallback,
    LastAction,
    Model,
    NoAnswerError,
    Reason,
)
from upright_client.state import State, check, check_action
from upright_client.wire import DeniedError, HttpWire, Reply, StreamWire, Transport, Wire, WireError

if TYPE_CHECKING:
    import ssl

    from upright_client.tls import TlsWire

Document = dict[str, object]
_DECODE = json.JSONDecoder().decode  # json.loads() looks for the encoding first, at every answer

ATTEMPTS = 2  # a connection that the service closed while nobody used it is found out by using it
UNASKED = 8  # answers to earlier requests that one call throws away: more than one is due only where something repeats them
PATIENCE = 0.25  # seconds that an answer may be overdue before its connection is renewed
CONNECTING = 0.4  # seconds that one attempt to connect may take
PAUSES = (0.01, 0.2)  # seconds between attempts: the first, and the longest


@dataclass(frozen=True, slots=True)
class Place:
    """Where the service listens."""

    host: str
    port: int
    path: str | None  # of a Unix socket
    secure: bool = False  # whether TLS is spoken

    @property
    def authority(self) -> str:
        """The value of the Host field."""
        if self.path is not None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def place(address: str | os.PathLike[str]) -> Place:
    """Return the place of `http://host:port`, of `https://host:port`, of `unix:/path` or of a path. Raises `ValueError`."""
    text = os.fspath(address)
    if text.startswith(("unix:", "/", ".")):
        return Place("", 0, text.removeprefix("unix:").removeprefix("//"))
    parts = urlsplit(text)
    if (
        parts.scheme not in ("http", "ws", "https", "wss")
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.username is not None
    ):
        raise ValueError(
            f"expected http://host:port, https://host:port or the path of a Unix socket, not {text!r}"
        )
    secure = parts.scheme in ("https", "wss")
    return Place(parts.hostname, parts.port or (443 if secure else 80), None, secure)


class Link:
    """One connection, and what is known of it."""

    __slots__ = ("asked_at", "broken", "due", "proven", "wire")

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.due = False  # an answer is still to come
        self.asked_at = 0.0
        self.proven = False  # it has brought an answer
        self.broken = False


L = TypeVar("L", bound=Link)


class Ground(Protocol[L]):
    """What moves bytes and passes connections around: sockets and threads, or an event loop."""

    async def take(self, until: float) -> L | Reason:
        """Return a connection for one caller alone, or why there is none until then."""
        ...

    def give(self, link: L) -> None:
        """Take back a connection; a broken one is for its keeper."""
        ...

    async def exchange(self, link: L, data: bytes, until: float) -> bytes | None:
        """Send, then return what came: `b""` where the connection ended, `None` where nothing came until then."""
        ...

    def post(self, link: L, data: bytes) -> None:
        """Send a few bytes without waiting."""
        ...

    async def open(self, wire: Wire, until: float) -> L:
        """Connect and greet. Raises `OSError` or `WireError`."""
        ...

    async def lend(self, link: L) -> bool:
        """Let callers use the connection until it is broken, then close it. Returns whether the client goes on."""
        ...

    async def pause(self, seconds: float) -> bool:
        """Wait, while callers do not hope for a connection. Returns whether the client goes on."""
        ...


class Request(NamedTuple):
    """What is sent for one call."""

    body: bytes
    seq: int | None  # that the answer must echo
    door: tuple[str, str] | None = (
        None  # method and path; none for the door that the wire is made for
    )


class Core:
    """One client's behaviour and counters. The counters and the last action are guarded by a lock, the rest does not change."""

    def __init__(
        self,
        address: str | os.PathLike[str],
        transport: Transport,
        deadline: float,
        fallback: Fallback,
        pin_digest: str | None,
        key: str | None,
        ssl_context: "ssl.SSLContext | None",
    ) -> None:
        if transport not in ("http", "stream"):
            raise ValueError(f"transport is 'http' or 'stream', not {transport!r}")
        if not 0 < deadline < float("inf"):
            raise ValueError(f"deadline is a number of seconds above 0, not {deadline!r}")
        if not isinstance(fallback, LastAction) and not callable(fallback):
            check_action(fallback)
        if pin_digest is not None and not pin_digest.startswith("sha256:"):
            raise ValueError(f"pin_digest is a digest such as sha256:…, not {pin_digest!r}")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ValueError("key holds characters that no header may have")
        self.place = place(address)
        if ssl_context is not None and not self.place.secure:
            raise ValueError(f"ssl_context is for https://, not for {os.fspath(address)!r}")
        self._tls = _tls(self.place.host, ssl_context) if self.place.secure else None
        self.transport = transport
        self.deadline = deadline
        self.trouble = ""  # what the last fallback was about, for people
        self._fallback = fallback
        self._pin = pin_digest
        self._key = key
        self._patience = max(PATIENCE, 2 * deadline)
        self._absence: Reason = "disconnected"  # why there is no connection, where there is none
        self._connecting = max(CONNECTING, 2 * deadline)
        # A first number of its own, so that no answer to an earlier program can be taken for one to this.
        self._seqs = itertools.count(int.from_bytes(os.urandom(4)) << 20)
        self._lock = threading.Lock()
        self._answers = 0
        self._late = 0
        self._reconnects = 0
        self._fallbacks: dict[Reason, int] = {}
        self._last = fallback.first if isinstance(fallback, LastAction) else 0

    def wire(self, transport: Transport) -> Wire:
        """Return a new connection's protocol."""
        wire = (HttpWire if transport == "http" else StreamWire)(self.place.authority, self._key)
        return wire if self._tls is None else self._tls(wire)

    def counters(self) -> Counters:
        """Return what happened so far."""
        with self._lock:
            return Counters(self._answers, dict(self._fallbacks), self._late, self._reconnects)

    async def act(self, ground: Ground[L], state: State) -> Decision:
        """Return the decision for one state. Raises for misuse only."""
        started = monotonic()
        numbers = check(state)
        seq = next(self._seqs)
        body = b'{"state":[%b],"seq":%d}' % (repr(numbers)[1:-1].encode(), seq)
        outcome = await self._converse(ground, Request(body, seq), started + self.deadline)
        decision = self._judge(outcome, started) if isinstance(outcome, dict) else outcome
        return (
            decision
            if isinstance(decision, Decision)
            else self._fall_back(numbers, decision, started)
        )

    async def act_batch(
        self, ground: Ground[L], states: Sequence[State], deadline: float | None
    ) -> list[Decision]:
        """Return a decision for each state; all of them come from the policy or none does. Raises for misuse only."""
        started = monotonic()
        rows = [check(state) for state in states]
        if not rows:
            return []
        seq = next(self._seqs)
        body = json.dumps({"states": rows, "seq": seq}).encode()
        until = started + (self.deadline if deadline is None else deadline)
        outcome = await self._converse(ground, Request(body, seq, ("POST", "/act/batch")), until)
        decisions = (
            self._judge_rows(outcome, len(rows), started) if isinstance(outcome, dict) else outcome
        )
        return (
            decisions
            if isinstance(decisions, list)
            else [self._fall_back(row, decisions, started) for row in rows]
        )

    async def model(self, ground: Ground[L], seconds: float) -> Model:
        """Return the bundle that the service serves. Raises `NoAnswerError`."""
        outcome = await self._converse(
            ground, Request(b"", None, ("GET", "/model")), monotonic() + seconds
        )
        if not isinstance(outcome, dict):
            raise NoAnswerError(outcome, self.trouble)
        reason = self._status(outcome)
        if reason is not None:
            raise NoAnswerError(reason, self.trouble)
        digest, backend, manifest = (
            outcome.get("digest"),
            outcome.get("backend"),
            outcome.get("manifest"),
        )
        if (
            not isinstance(digest, str)
            or not isinstance(backend, str)
            or not isinstance(manifest, dict)
        ):
            raise NoAnswerError("garbage", "/model did not answer as this client knows it")
        return Model(digest, backend, manifest)

    async def ready(self, ground: Ground[L], seconds: float) -> bool:
        """Return whether the service says that it is ready."""
        outcome = await self._converse(
            ground, Request(b"", None, ("GET", "/health/ready")), monotonic() + seconds
        )
        return isinstance(outcome, dict) and outcome.get("status") == "ready"

    async def keep(self, ground: Ground[L], transport: Transport) -> None:
        """Hold one connection open until the client is closed, with a pause before each attempt that follows a vain one."""
        vain, again = 0, False
        while True:
            try:
                link = await ground.open(self.wire(transport), monotonic() + self._connecting)
            except (OSError, WireError) as error:
                self.trouble = f"no connection: {error or type(error).__name__}"[:300]
                self._absence = "denied" if isinstance(error, DeniedError) else "disconnected"
                vain += 1
            else:
                self._absence = "disconnected"
                with self._lock:
                    self._reconnects += again
                again = True
                if not await ground.lend(link):
                    return
                vain = (
                    0 if link.proven else vain + 1
                )  # a connection that brought no answer was no better than none
            if vain:
                first, longest = PAUSES
                # Spread out, so that many clients of one service do not come back all at once.
                share = random.uniform(0.5, 1)  # noqa: S311 - no secret depends on it
                if not await ground.pause(min(longest, first * 2 ** min(vain, 16)) * share):
                    return

    async def _converse(
        self, ground: Ground[L], request: Request, until: float
    ) -> Document | Reason:
        """Return the service's message, or why there is none."""
        outcome: Document | Reason = "disconnected"
        for _ in range(ATTEMPTS):
            link = await ground.take(until)
            if isinstance(link, str):
                return self._absence if link == "disconnected" else link
            finished = False
            try:
                outcome = await self._exchange(ground, link, request, until)
                finished = True
            finally:
                link.broken = (
                    link.broken or not finished
                )  # the caller was interrupted: nobody knows what is still on its way
                ground.give(link)
            if outcome != "disconnected":
                break
        return outcome

    async def _exchange(
        self, ground: Ground[L], link: L, request: Request, until: float
    ) -> Document | Reason:
        """Send a request on one connection and wait for its answer.

        At most one answer is due on a connection. After a missed deadline it is waited for before the next request is sent: a service that
        is slower than its caller would otherwise be sent an ever longer queue, and every answer would be late for ever.
        """
        wire = link.wire
        asked, unasked = False, 0
        while True:
            data = b""
            if not link.due:
                data = self._bytes(wire, request)
                link.due = asked = True
                link.asked_at = monotonic()
            received = await ground.exchange(link, data, until)
            if received is None:
                link.broken = link.broken or monotonic() - link.asked_at > self._patience
                return "deadline"
            if not received:
                link.broken = True
                return "disconnected"
            try:
                back = wire.receive(received)
                if back:
                    ground.post(link, back)
                while wire.replies:
                    reply = wire.replies.popleft()
                    document = _read(reply, request.seq) if asked else None
                    if document is not None:
                        link.due, link.proven, link.broken = False, True, wire.closing
                        return document
                    with self._lock:
                        self._late += 1
                    unasked += 1
                    if unasked > UNASKED:
                        raise WireError("answers come that nobody asked for")
                    link.due = asked  # what nobody waits for any more has come; what was asked for now has not
            except WireError as error:
                link.broken = True
                self.trouble = str(error)
                return "garbage"
            if wire.closing:
                link.broken = True
                return "disconnected"
            if monotonic() >= until:  # something comes, and comes, and is never the answer
                link.broken = link.broken or monotonic() - link.asked_at > self._patience
                return "deadline"

    def _bytes(self, wire: Wire, request: Request) -> bytes:
        if request.door is None:
            return wire.request(request.body)
        return wire.other(*request.door, request.body)

    def _status(self, document: Document) -> Reason | None:
        """Return what a problem means to the caller; `None` for an answer."""
        status = document.get("status")
        if type(status) is not int:
            return None
        self.trouble = f"status {status}: {document.get('detail', '')}"[:300]
        if status in (401, 403):
            return "denied"
        if status == 412:
            return "other-bundle"
        return "failed" if status >= 500 else "refused"

    def _judge(self, document: Document, started: float) -> Decision | Reason:
        """Return the decision that the answer holds, or why it holds none."""
        reason = self._status(document)
        if reason is not None:
            return reason
        return self._decide(
            document.get("action"),
            document.get("q_values"),
            document.get("out_of_range"),
            document.get("digest"),
            started,
        )

    def _judge_rows(self, columns: Document, count: int, started: float) -> list[Decision] | Reason:
        reason = self._status(columns)
        if reason is not None:
            return reason
        lists = [columns.get(name) for name in ("actions", "q_values", "out_of_range")]
        whole = [column for column in lists if isinstance(column, list) and len(column) == count]
        if len(whole) != len(lists):
            return "garbage"
        decisions: list[Decision] = []
        for action, q_values, out_of_range in zip(*whole, strict=True):
            decision = self._decide(action, q_values, out_of_range, columns.get("digest"), started)
            if not isinstance(decision, Decision):
                return decision
            decisions.append(decision)
        return decisions

    def _decide(
        self, action: object, q_values: object, out_of_range: object, digest: object, started: float
    ) -> Decision | Reason:
        if (
            type(action) is not int
            or not isinstance(q_values, list)
            or not 0 <= action < len(q_values)
            or not isinstance(digest, str)
            or not isinstance(out_of_range, list)
        ):
            self.trouble = "the answer has not the fields of an answer"
            return "garbage"
        for value in q_values:
            if type(value) not in (float, int) or not isfinite(value):
                self.trouble = f"a Q-value is {value!r}"[:100]
                return "garbage"
        if self._pin is not None and digest != self._pin:
            self.trouble = f"{digest} answered, {self._pin} is pinned"[:300]
            return "other-bundle"
        with self._lock:
            self._answers += 1
            self._last = action
        return Decision(
            action,
            tuple(q_values),
            digest,
            tuple(out_of_range),
            "policy",
            None,
            monotonic() - started,
        )

    def _fall_back(self, numbers: tuple[float, ...], reason: Reason, started: float) -> Decision:
        if isinstance(self._fallback, LastAction):
            action = self._last
        elif callable(self._fallback):
            action = check_action(self._fallback(numbers))
        else:
            action = self._fallback
        with self._lock:
            self._fallbacks[reason] = self._fallbacks.get(reason, 0) + 1
        return Decision(action, (), None, (), "fallback", reason, monotonic() - started)


def _tls(
    host: str, context: "ssl.SSLContext | None"
) -> "Callable[[HttpWire | StreamWire], TlsWire]":
    """Return what puts TLS around a wire. Without a context the system's authorities are trusted."""
    import ssl

    from upright_client.tls import TlsWire

    if context is None:
        context = ssl.create_default_context()
    elif not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl_context is an ssl.SSLContext, not {context!r}")
    TlsWire(
        HttpWire("", None), context, host
    )  # a name that no certificate can have is misuse, and raised at once
    return lambda inner: TlsWire(inner, context, host)


def _read(reply: Reply, seq: int | None) -> Document | None:
    """Return the message if it is the one that was asked for, `None` if it is an earlier one. Raises `WireError`."""
    try:
        document = _DECODE(reply.body.decode())
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        if reply.status < 400:
            raise WireError("the answer is no JSON object")
        document = {}  # a proxy's own page
    if reply.status >= 400:
        document["status"] = reply.status
    if seq is None:
        return document
    echoed = document.get("seq")
    if echoed == seq and type(echoed) is int:
        return document
    if echoed is None and type(document.get("status")) is int:
        return document  # a problem names no seq where the service could not read one
    if type(echoed) is int and echoed < seq:
        return None
    raise WireError("the answer does not say which state it answers")
