"""How a connection ends: by a refusal, by a time-out, or because the service stops."""

from abc import abstractmethod
from time import perf_counter

from service.api import problems
from service.api.problems import ProblemError
from service.server import sockets
from service.server.http.connection import HttpConnection
from service.server.http.reading import IgnoringParser
from service.server.http.request import Phase
from service.server.http.responses import final_problem
from service.server.http.timeouts import Expired
from service.settings import Settings

UNKNOWN_METHOD = "_OTHER"  # OpenTelemetry's word for it


class ClosableConnection(HttpConnection):
    """A connection that ends in order: the client can read why, after its outstanding answers."""

    @abstractmethod
    def _move_to_asgi_path(self) -> None:
        """Give a request of the fast path, as far as it has come, to the ASGI path."""

    # The service stops, or the connection is old

    def close_after_next_answer(self) -> None:
        """Let the next answer be the last one of this connection."""
        self._closes_after_response = True
        if self._fast_request.endpoint is not None:
            self._move_to_asgi_path()  # which knows how to close

    def shutdown(self) -> None:
        """Close, now or with the answer to the request in flight."""
        self._closes_after_response = True
        if self._phase in (Phase.IDLE, Phase.CLOSING):
            self.transport.close()
        elif not self._is_answered():
            self.cycle.keep_alive = False

    # Time-outs

    def check_timeouts(self, now: float, settings: Settings) -> None:
        """End the connection if what it waits for has not come in time."""
        unsent = self.transport.get_write_buffer_size()
        waited = now - self._phase_since
        expired = self._timeouts.expired(self._phase, waited, now, unsent, settings)
        if expired is Expired.UNREAD_ANSWERS:
            sockets.abort_with_reset(self.transport)
            return
        if self.flow.write_paused:
            return
        if self._age.exceeds(settings.max_connection_age, now):
            self.close_after_next_answer()

        match expired:
            case Expired.KEEP_ALIVE:
                self.transport.close()
            case Expired.INCOMPLETE_REQUEST:
                self._fast_path.count_slow(self._phase.value)
                self._refuse(problems.too_slow(self._phase.value))
            case Expired.LINGER:
                self.transport.abort()

    # Refusals. What happens depends on how far the request has come that is refused:
    #
    # | the request             | an earlier answer | is logged by      | the problem is sent     |
    # | ----------------------- | ----------------- | ----------------- | ----------------------- |
    # | not on the ASGI path    | none outstanding  | `_report_unread`  | now                     |
    # | not on the ASGI path    | outstanding       | `_report_unread`  | after that answer       |
    # | waits in the pipeline   | outstanding       | `_report_unread`  | after that answer       |
    # | is answered there       | none outstanding  | the ASGI path     | now                     |
    # | is answered, has begun  | none outstanding  | the ASGI path     | never: it has an answer |

    def _refuse(self, problem: ProblemError) -> None:
        """Answer the request that came last with a problem, and end; nothing more is read."""
        reached_asgi_path = (
            self._phase is Phase.READING_BODY and self._fast_request.endpoint is None
        )
        waits_in_pipeline = reached_asgi_path and bool(self.pipeline)
        if not reached_asgi_path or waits_in_pipeline:
            self._report_unread(problem)

        self._fast_request.clear()
        self.parser = IgnoringParser()  # type: ignore[assignment] # it has what is still called
        self._unread.clear()
        self._closes_after_response = True
        self._phase = Phase.RESPONDING
        if waits_in_pipeline:
            self._refuse_waiting(problem)
        elif reached_asgi_path:
            self._refuse_running(problem)
        else:
            self._refuse_unstarted(problem)

    def _refuse_unstarted(self, problem: ProblemError) -> None:
        """Refuse a request that the ASGI path knows nothing of."""
        if self._is_answered():
            self._close_with(problem)
        else:
            self._deferred_problem = problem

    def _refuse_waiting(self, problem: ProblemError) -> None:
        """Refuse a request that waits on the ASGI path behind an earlier one."""
        self.pipeline.popleft()
        self._deferred_problem = problem

    def _refuse_running(self, problem: ProblemError) -> None:
        """Refuse a request that the ASGI path answers now, by ending that answer."""
        has_begun = self.cycle.response_started
        self.cycle.disconnected = True  # nothing more is read of its body
        self.cycle.waiting_for_100_continue = False
        self.cycle.message_event.set()
        self._close_with(None if has_begun else problem)

    def _report_unread(self, problem: ProblemError) -> None:
        """Have a request logged that no path will answer, as far as it has come."""
        method, target, headers = UNKNOWN_METHOD, b"", []
        if self._phase in (Phase.READING_HEADERS, Phase.READING_BODY):
            target, headers = self.url, self.headers
        if self._phase is Phase.READING_BODY:
            method = self.parser.get_method().decode()
        self._fast_path.report_unread(problem.status, method, target, headers, self._phase_since)

    def _ignore_the_rest(self) -> None:
        """End after an answer that was sent before its request had come whole."""
        self.parser = IgnoringParser()  # type: ignore[assignment] # it has what is still called
        self._unread.clear()
        self._close_with(None)

    def _close_with(self, problem: ProblemError | None) -> None:
        """Send the last answer, and end.

        The connection stays half open for a while: if it were closed at once, a client that still
        sends would find it reset, and nothing to read.
        """
        if self.transport.is_closing():
            return
        if problem is not None:
            self._write_batcher.flush()  # the answers to what came before
            self.transport.write(final_problem(problem, self._default_headers.lines()))
        self._phase = Phase.CLOSING
        self._phase_since = perf_counter()
        self._deferred_problem = None
        self.pipeline.clear()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()  # a TLS connection cannot be half open
