"""The gRPC side: the Storage Read API's calls, checked and passed on as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from isthmus.testing.standins.bigquery_wire.access import Refused
from isthmus.testing.standins.bigquery_wire.calls import Call, Cut, Lost, Refusal
from isthmus.testing.standins.bigquery_wire.front import Front

_READ = "google.cloud.bigquery.storage.v1.BigQueryRead"


class Rpc:
    """Listens on a port of its own while it is open, without TLS."""

    def __init__(self, front: Front, behind: str) -> None:
        import grpc

        self._front = front
        unbounded = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(behind, options=unbounded)
        self._server = grpc.server(ThreadPoolExecutor(16), options=unbounded)
        answers = {
            "CreateReadSession": grpc.unary_unary_rpc_method_handler(self._session),
            "ReadRows": grpc.unary_stream_rpc_method_handler(self._rows),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_READ, answers),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def open(self) -> None:
        self._server.start()

    def close(self) -> None:
        self._server.stop(None).wait()
        self._channel.close()

    def _session(self, request: bytes, context: Any) -> bytes:
        import grpc
        from google.cloud.bigquery_storage_v1.types import CreateReadSessionRequest

        place = CreateReadSessionRequest.deserialize(request).read_session.table.split("/")
        dataset, table = place[3], place[5]
        account, lost = self._admit("CreateReadSession", context, f"{dataset}.{table}")
        access, denied = self._front.access, grpc.StatusCode.PERMISSION_DENIED
        if not access.may(account, "bigquery.readsessions.create"):
            words = "request failed: the user does not have 'bigquery.readsessions.create' permission for"
            context.abort(denied, f"{words} 'projects/{access.project}'")
        if not dataset.startswith("_") and not access.may(account, "bigquery.tables.getData", dataset):
            words = "request failed: the user does not have 'bigquery.tables.getData' permission for"
            context.abort(denied, f"{words} '{access.project}:{dataset}.{table}'")
        answer = self._call(self._channel.unary_unary(f"/{_READ}/CreateReadSession"), request, context)
        if lost:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return bytes(answer)

    def _rows(self, request: bytes, context: Any) -> Iterator[bytes]:
        import grpc

        _, lost = self._admit("ReadRows", context, "")
        for number, rows in enumerate(self._call(self._channel.unary_stream(f"/{_READ}/ReadRows"), request, context)):
            if lost and number:  # in the middle: after the first rows
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            yield rows

    def _admit(self, what: str, context: Any, text: str) -> tuple[str, bool]:
        """The account that calls, and whether the answer is to get lost."""
        import grpc

        held = dict(context.invocation_metadata()).get("authorization")
        try:
            account = self._front.access.holder(held)
        except Refused as e:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(e))
        fault = self._front.calls.note(Call(account, what, text))
        if isinstance(fault, Refusal):
            codes = {429: grpc.StatusCode.RESOURCE_EXHAUSTED, 403: grpc.StatusCode.PERMISSION_DENIED}
            context.abort(codes.get(fault.status, grpc.StatusCode.UNAVAILABLE), fault.message)
        if isinstance(fault, Cut):
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return account, isinstance(fault, Lost)

    def _call(self, call: Callable[..., Any], request: bytes, context: Any) -> Any:
        import grpc

        try:
            answer = call(request)
            if isinstance(answer, bytes):
                return answer
            return self._while_wanted(answer, context)
        except grpc.RpcError as e:
            context.abort(e.code(), e.details())

    def _while_wanted(self, answer: Any, context: Any) -> Iterator[bytes]:
        import grpc

        context.add_callback(answer.cancel)  # nobody reads on: nobody needs to send
        try:
            yield from answer
        except grpc.RpcError as e:
            context.abort(e.code(), e.details())
