"""The Thrift face: sessions, operations and their results, as the driver's generated TCLIService asks for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import lz4.frame
import pyarrow as pa
from databricks.sql.thrift_api.TCLIService import ttypes

from isthmus.testing.standins.databricks_wire.catalog import Access
from isthmus.testing.standins.databricks_wire.data import Session
from isthmus.testing.standins.databricks_wire.failures import Failure
from isthmus.testing.standins.databricks_wire.statements import Result, Statements

t: Any = ttypes  # generated, without types
VERSION = t.TProtocolVersion.SPARK_CLI_SERVICE_PROTOCOL_V7
INLINE_BYTES = 1_000_000
"""A page above this goes as files behind links, if the driver can fetch them."""
FILE_BYTES = 4_000_000
LINK_S = 900
_OK = t.TStatus(statusCode=t.TStatusCode.SUCCESS_STATUS)

_TYPES = {
    "boolean": t.TTypeId.BOOLEAN_TYPE, "tinyint": t.TTypeId.TINYINT_TYPE, "smallint": t.TTypeId.SMALLINT_TYPE,
    "int": t.TTypeId.INT_TYPE, "bigint": t.TTypeId.BIGINT_TYPE, "float": t.TTypeId.FLOAT_TYPE,
    "double": t.TTypeId.DOUBLE_TYPE, "binary": t.TTypeId.BINARY_TYPE, "date": t.TTypeId.DATE_TYPE,
    "timestamp": t.TTypeId.TIMESTAMP_TYPE, "timestamp_ntz": t.TTypeId.TIMESTAMP_TYPE, "decimal": t.TTypeId.DECIMAL_TYPE,
    "array": t.TTypeId.ARRAY_TYPE, "map": t.TTypeId.MAP_TYPE, "struct": t.TTypeId.STRUCT_TYPE,
    "interval day to second": t.TTypeId.INTERVAL_DAY_TIME_TYPE, "void": t.TTypeId.NULL_TYPE,
}  # fmt: skip


@dataclass
class Operation:
    """A statement that has run, and how far its rows were taken."""

    session: bytes
    result: Result
    compressed: bool
    by_links: bool
    ahead: deque[pa.RecordBatch] = field(default_factory=deque)
    taken: int = 0
    files: list[str] = field(default_factory=list)

    def page(self, max_rows: int, max_bytes: int) -> list[pa.RecordBatch]:
        """The next rows, about as many as were asked for; at least one batch if there is one."""
        batches, rows, size = [], 0, 0
        while self._look() and rows < max_rows and size < max_bytes:
            batch = self.ahead.popleft()
            if batch.num_rows > max_rows - rows:
                self.ahead.appendleft(batch.slice(max_rows - rows))
                batch = batch.slice(0, max_rows - rows)
            batches.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
        return batches

    def has_more(self) -> bool:
        return self._look()

    def _look(self) -> bool:
        while not self.ahead:
            batch = next(self.result.batches, None)
            if batch is None:
                return False
            if batch.num_rows:
                self.ahead.append(batch)
        return True


class Sessions:
    """What the generated service calls, one method for each of its requests; their names are Thrift's."""

    def __init__(self, statements: Statements, folder: Path, link: Callable[[str], str]) -> None:
        self._statements, self._folder, self._link = statements, folder, link
        self._sessions: dict[bytes, Session] = {}
        self._operations: dict[bytes, Operation] = {}
        self._lock = threading.Lock()
        self.log: list[tuple[str, str]] = []
        """Who said which statement, in order."""
        self.asking = threading.local()
        """In the thread of a request: `user` is who asks, `said` the error its statement is to end with, or None."""

    # Sessions

    def OpenSession(self, request: Any) -> Any:
        session, handle = Session(self.asking.user), _handle()
        zone = (request.configuration or {}).get("timezone", "UTC")
        try:
            if zone not in ("UTC", "Etc/UTC"):
                raise Failure("INVALID_CONF_VALUE.TIME_ZONE", f"Cannot resolve the given timezone {zone}.", "22022")
            space = request.initialNamespace
            if space is not None and space.catalogName:
                self._statements.enter(space.catalogName, space.schemaName or "default", session)
        except Failure as e:
            return t.TOpenSessionResp(status=_error(e), serverProtocolVersion=VERSION)
        self._sessions[handle.guid] = session
        return t.TOpenSessionResp(
            status=_OK,
            serverProtocolVersion=VERSION,
            sessionHandle=t.TSessionHandle(sessionId=handle, serverProtocolVersion=VERSION),
            initialNamespace=t.TNamespace(catalogName=session.catalog, schemaName=session.schema),
            canUseMultipleCatalogs=True,
        )

    def CloseSession(self, request: Any) -> Any:
        guid = request.sessionHandle.sessionId.guid
        self._sessions.pop(guid, None)
        for key in [key for key, each in self._operations.items() if each.session == guid]:
            self._close(key)
        return t.TCloseSessionResp(status=_OK)

    def drop_all(self) -> None:
        """As if the warehouse had been restarted: nobody's session is known any more."""
        for each in list(self._operations):
            self._close(each)
        self._sessions.clear()

    @property
    def access(self) -> Access:
        return self._statements.data.access

    @property
    def open_sessions(self) -> int:
        return len(self._sessions)

    @property
    def open_operations(self) -> int:
        return len(self._operations)

    # Operations

    def ExecuteStatement(self, request: Any) -> Any:
        statement = request.statement
        self.log.append((self.asking.user, statement))
        session = self._sessions.get(request.sessionHandle.sessionId.guid)
        if session is None:
            gone = "Invalid SessionHandle: it has not been initialized or had already closed"
            return t.TExecuteStatementResp(status=t.TStatus(statusCode=t.TStatusCode.ERROR_STATUS, errorMessage=gone))
        if request.parameters:
            return self._refused(Failure("UNSUPPORTED_FEATURE", "This stand-in takes no parameters.", "0A000"))
        if self.asking.said:
            return self._refused_as(self.asking.said, "HY000")
        try:
            result = self._statements.execute(statement, session)
        except Failure as e:
            return self._refused(e)
        links = bool(request.canDownloadResult)
        lz4_too = bool(request.canDecompressLZ4Result)
        return self._started(Operation(request.sessionHandle.sessionId.guid, result, lz4_too, links), request)

    def _started(self, operation: Operation, request: Any) -> Any:
        handle = t.TOperationHandle(operationId=_handle(), operationType=0, hasResultSet=True)
        direct = request.getDirectResults
        results = t.TSparkDirectResults(operationStatus=_status(t.TOperationState.FINISHED_STATE))
        page = operation.page(direct.maxRows, min(direct.maxBytes, 2 * INLINE_BYTES)) if direct else []
        # One that is too large for a first answer goes by links, and says so before its rows are asked for.
        operation.by_links = operation.by_links and sum(b.nbytes for b in page) > INLINE_BYTES
        results.resultSetMetadata = self._described(operation)
        if direct:
            results.resultSet = self._rows(operation, page)
        self._operations[handle.operationId.guid] = operation
        return t.TExecuteStatementResp(status=_OK, operationHandle=handle, directResults=results)

    def _refused(self, failure: Failure) -> Any:
        return self._refused_as(str(failure), failure.sqlstate)

    def _refused_as(self, said: str, sqlstate: str) -> Any:
        handle = t.TOperationHandle(operationId=_handle(), operationType=0, hasResultSet=False)
        status = _status(t.TOperationState.ERROR_STATE, errorMessage=said, displayMessage=said, sqlState=sqlstate)
        direct = t.TSparkDirectResults(operationStatus=status)
        return t.TExecuteStatementResp(status=_OK, operationHandle=handle, directResults=direct)

    def GetOperationStatus(self, request: Any) -> Any:
        there = request.operationHandle.operationId.guid in self._operations
        return _status(t.TOperationState.FINISHED_STATE if there else t.TOperationState.CLOSED_STATE)

    def GetResultSetMetadata(self, request: Any) -> Any:
        return self._described(self._operation(request))

    def FetchResults(self, request: Any) -> Any:
        operation = self._operation(request)
        if operation is None:
            gone = f"Invalid OperationHandle: {request.operationHandle.operationId.guid.hex()}"
            return t.TFetchResultsResp(status=t.TStatus(statusCode=t.TStatusCode.ERROR_STATUS, errorMessage=gone))
        with self._lock:
            return self._rows(operation, operation.page(request.maxRows or 100_000, request.maxBytes or 10_000_000))

    def CloseOperation(self, request: Any) -> Any:
        self._close(request.operationHandle.operationId.guid)
        return t.TCloseOperationResp(status=_OK)

    def CancelOperation(self, request: Any) -> Any:
        self._close(request.operationHandle.operationId.guid)
        return t.TCancelOperationResp(status=_OK)

    def _close(self, guid: bytes) -> None:
        operation = self._operations.pop(guid, None)
        for name in operation.files if operation else ():
            (self._folder / name).unlink(missing_ok=True)

    def _operation(self, request: Any) -> Any:
        return self._operations.get(request.operationHandle.operationId.guid)

    # Results

    def _described(self, operation: Operation) -> Any:
        described = [
            t.TColumnDesc(columnName=name, typeDesc=t.TTypeDesc(types=[_type(kind)]), position=place)
            for place, (name, kind) in enumerate(operation.result.columns, start=1)
        ]
        by_links = t.TSparkRowSetType.URL_BASED_SET if operation.by_links else t.TSparkRowSetType.ARROW_BASED_SET
        return t.TGetResultSetMetadataResp(
            status=_OK,
            schema=t.TTableSchema(columns=described),
            resultFormat=by_links,
            lz4Compressed=operation.compressed,
            arrowSchema=operation.result.schema.serialize().to_pybytes(),
            isStagingOperation=False,
        )

    def _rows(self, operation: Operation, page: list[pa.RecordBatch]) -> Any:
        start = operation.taken
        operation.taken += sum(batch.num_rows for batch in page)
        rows = t.TRowSet(startRowOffset=start, rows=[])
        if operation.by_links:
            rows.resultLinks = list(self._files(operation, page, start))
        else:
            rows.arrowBatches = [
                t.TSparkArrowBatch(batch=_packed(batch.serialize().to_pybytes(), operation), rowCount=batch.num_rows)
                for batch in page
            ]
        more = operation.has_more()
        return t.TFetchResultsResp(
            status=_OK, resultSetMetadata=self._described(operation), hasMoreRows=more, results=rows
        )

    def _files(self, operation: Operation, page: list[pa.RecordBatch], start: int) -> Iterator[Any]:
        """The rows of a page in files, with a link to each that ends of itself."""
        while page:
            some, size = [], 0
            while page and size < FILE_BYTES:
                some.append(page.pop(0))
                size += some[-1].nbytes
            written = pa.BufferOutputStream()
            with pa.ipc.new_stream(written, operation.result.schema) as stream:
                for batch in some:
                    stream.write_batch(batch)
            content = written.getvalue().to_pybytes()
            name = uuid4().hex
            (self._folder / name).write_bytes(_packed(content, operation))
            operation.files.append(name)
            rows = sum(batch.num_rows for batch in some)
            yield t.TSparkArrowResultLink(
                fileLink=self._link(name),
                expiryTime=int(time.time()) + LINK_S,
                startRowOffset=start,
                rowCount=rows,
                bytesNum=len(content),
            )
            start += rows


def _packed(content: bytes, operation: Operation) -> bytes:
    return bytes(lz4.frame.compress(content)) if operation.compressed else content


def _handle() -> Any:
    return t.THandleIdentifier(guid=uuid4().bytes, secret=uuid4().bytes)


def _status(state: int, **more: Any) -> Any:
    return t.TGetOperationStatusResp(status=_OK, operationState=state, **more)


def _error(failure: Failure) -> Any:
    code = t.TStatusCode.ERROR_STATUS
    return t.TStatus(statusCode=code, errorMessage=str(failure), sqlState=failure.sqlstate)


def _type(name: str) -> Any:
    bare = name.split("<")[0].split("(")[0]
    qualifiers = None
    if bare == "decimal":
        precision, scale = (int(part) for part in name[8:-1].split(","))
        numbers = {"precision": precision, "scale": scale}
        qualifiers = t.TTypeQualifiers(qualifiers={k: t.TTypeQualifierValue(i32Value=v) for k, v in numbers.items()})
    entry = t.TPrimitiveTypeEntry(type=_TYPES.get(bare, t.TTypeId.STRING_TYPE), typeQualifiers=qualifiers)
    return t.TTypeEntry(primitiveEntry=entry)
