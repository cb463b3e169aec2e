"""Python worker of the process pool, and the zygote that forks such workers and runs shell commands.

    python worker.py zygote     fork workers and commands on request; control socket on fd 0
    python worker.py worker     be one worker; FUNCX_WORKER_SOCKET and FUNCX_WORKER_ID say where and which

PROTOCOL.md, beside this file, says what travels between worker, zygote and manager. This file needs only the standard
library. The packages dill and globus_compute_sdk are imported when a task needs them, never earlier.
"""

import sys

# Stands before everything else, and the file keeps to syntax that Python 3.6 can parse, so that an old interpreter
# gets to say this line instead of a SyntaxError.
if sys.version_info < (3, 8):
    sys.stderr.write(f"funcx worker: needs Python 3.8 or newer, {sys.executable} is {sys.version.split()[0]}\n")
    sys.exit(3)

import base64
import binascii
import fcntl
import functools
import gc
import importlib
import io
import json
import linecache
import mmap
import os
import pickle
import platform
import re
import select
import signal
import socket
import struct
import tempfile
import traceback
import types
from time import time_ns

PROTOCOL_VERSION = 1
MAX_FRAME_BYTES = 256 << 20
# Holds thousands of small tasks. A payload that fits is received into pages that are there already; new ones cost more
# than to copy it does.
RECEIVE_BYTES = 4 << 20
# Outcomes are written together until they are this many bytes or this old, or nothing is left to do.
FLUSH_BYTES = 256 << 10
FLUSH_NS = 1_000_000
# After a run longer than FLUSH_NS, so many runs of that function do not keep earlier outcomes waiting.
WARY_RUNS = 64
# So much of a command is kept for its result. No system runs one that is longer.
MAX_COMMAND_CHARS = 1 << 20
# News of processes that have ended which go in one write.
NEWS_AT_ONCE = 64
# A traceback longer than this loses its middle; what helps a person is at both ends.
MAX_TRACEBACK_CHARS = 256 << 10
# The same for one call of many in a task, and what is left of each when many have failed.
MAX_ELEMENT_TRACEBACK_CHARS, MIN_ELEMENT_TRACEBACK_CHARS = 16 << 10, 256

EXIT_CLEAN, EXIT_FAILED, EXIT_PROTOCOL = 0, 1, 2

FRAME_HEAD = struct.Struct("<IB")
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
FUNCTION_HEAD = struct.Struct("<IBI")
TASK_HEAD = struct.Struct("<Q16sIIII")
OUTCOME_HEAD = struct.Struct("<QBxxxIIIQQ")

HELLO, STARTED, OUTCOMES, GAVE_BACK = b"HSOG"
WELCOME, FUNCTION, DROP, TASKS, RESUME, EXIT = b"WFDTRX"
ANNOUNCE, MAP = 1, 2
RETURNED, RAISED = 0, 1
PYTHON_SOURCE, GLOBUS_COMPUTE = 1, 2

THIS_FILE = (lambda: None).__code__.co_filename


# ---- Errors ----------------------------------------------------------------------------------------------------------


class ProtocolError(Exception):
    """The manager sent something that is not the protocol; the worker cannot go on."""


class CouldNotExecuteUserTaskError(Exception):
    """The task did not reach the user's code. Its name is the error code on the wire."""


class MaxResultSizeExceeded(Exception):
    """The task returned more than the manager takes. Its name is the error code on the wire."""

    def __init__(self, size, limit, advice=""):
        super().__init__(f"Task result of {size}B exceeded current limit of {limit}B{advice}")


class SerializationError(Exception):
    """The returned value cannot be turned into bytes. Counts as an error of the user's code, as upstream."""


class DeserializationError(Exception):
    """Function or arguments cannot be made from their bytes. Counts as an error of the user's code, as upstream."""


def missing_package(module, package):
    return CouldNotExecuteUserTaskError(
        f"this worker's Python ({sys.executable}) has no {module}: pip install {package}"
    )


def describe(error, most_chars=MAX_TRACEBACK_CHARS):
    """The payload of a raised outcome, whose traceback keeps `most_chars`."""
    if isinstance(error, (CouldNotExecuteUserTaskError, MaxResultSizeExceeded)):
        code, message, text = type(error).__name__, f"remote error: {error}", repr(error)
    else:
        code, message = "RemoteExecutionError", "An error occurred during the execution of this task"
        try:
            text = "".join(traceback.format_exception(type(error), error, user_traceback(error)))
        except Exception as failure:  # An exception's own methods can fail in any way.
            text = f"{type(error).__name__} (its traceback cannot be formatted: {type(failure).__name__})\n"
    if len(text) > most_chars:
        half = most_chars // 2
        text = f"{text[:half]}\n[… {len(text) - 2 * half} characters dropped]\n{text[-half:]}"
    # Lone surrogates, as in the name of a file that is not UTF-8, would not be JSON that every reader takes.
    text = text.encode(errors="backslashreplace").decode()
    message = message.encode(errors="backslashreplace").decode()
    return json.dumps({"code": code, "message": message, "traceback": text}).encode()


def user_traceback(error):
    """The traceback without the worker's own frames, which are the outermost ones."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == THIS_FILE:
        frames = frames.tb_next
    return frames


@functools.lru_cache(maxsize=None)
def linux_libc():
    """The C library by ctypes; None where it is not Linux, or Python was built without ctypes."""
    if sys.platform != "linux":
        return None
    try:
        return importlib.import_module("ctypes").CDLL(None)
    except (ImportError, OSError):
        return None


# A worker keeps so much memory that was freed, and takes blocks up to the other size from it. Left to itself, the C library
# gives the memory of a large argument back after each task and gets it anew, page by page, for the next one.
KEPT_BYTES = 16 << 20
POOLED_BLOCK_BYTES = 4 << 20


def keep_freed_memory():
    """Have the C library keep what was freed for the next task. Only glibc can be told."""
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    mallopt = getattr(linux_libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, POOLED_BLOCK_BYTES)


# ---- Source text -----------------------------------------------------------------------------------------------------


def run_source(source, namespace, index):
    """Run the source of function `index`. Tracebacks will show its lines."""
    filename = source_filename(index)
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    exec(compile(source, filename, "exec", dont_inherit=True), namespace)


def source_filename(index):
    return f"<function {index}>"


def module_name(index):
    return f"funcx_function_{index}"


# ---- Kind 1: Python source, JSON in and out --------------------------------------------------------------------------


# Leaves out what `json.loads` does around it, which for a short text takes most of the time.
raw_decode_json = json.JSONDecoder().raw_decode


def json_arguments(payload):
    if not payload:
        return [], {}
    try:
        text = payload.decode()
        try:
            call, end = raw_decode_json(text)
        except ValueError:
            end = None
        if end != len(text):  # White space around the object, or something wrong: `loads` tells.
            call = json.loads(text)
        args, kwargs = call.get("args", []), call.get("kwargs", {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise CouldNotExecuteUserTaskError(f"the arguments are not a JSON object: {error}") from None
    if type(args) is not list or type(kwargs) is not dict:
        raise CouldNotExecuteUserTaskError('the arguments are not of the form {"args": [...], "kwargs": {...}}')
    return args, kwargs


def make_json_encoder():
    """A function from a value to the pieces of its JSON text.

    `JSONEncoder.encode` builds a new C encoder for every value, which takes most of its time; this one is built once.
    NaN and infinities are refused: they are not JSON, and the other end may be written in any language.
    """
    encoder = json.JSONEncoder(allow_nan=False, check_circular=False)
    try:
        c_encoder = json.encoder.c_make_encoder(
            None, encoder.default, json.encoder.encode_basestring_ascii, None, ": ", ", ", False, False, False
        )
        c_encoder(None, 0)
    except TypeError:  # No C encoder here, or one with other parameters.
        return encoder.encode
    return lambda value: c_encoder(value, 0)


json_pieces = make_json_encoder()

# From so many characters on, a text is looked at before it is encoded: if nothing in it wants to be escaped, it is copied
# in a fraction of the time. In pieces of so many bytes, so that no new pages are needed for it.
LONG_TEXT_CHARS = 4096
LOOK_BYTES = 64 << 10
# What the encoder escapes of ASCII.
ESCAPED_ASCII = bytes([*range(0x20), *b'"\\', 0x7F])


def is_verbatim(text):
    """Whether nothing in this ASCII text wants to be escaped."""
    pieces = (text[start : start + LOOK_BYTES] for start in range(0, len(text), LOOK_BYTES))
    return all(len(piece.translate(None, ESCAPED_ASCII)) == len(piece) for piece in pieces)


def encode_json(value):
    if value is None:
        return b"null"
    if type(value) is str and len(value) >= LONG_TEXT_CHARS and value.isascii():
        text = value.encode()
        if is_verbatim(text):
            return b'"%b"' % text
    try:
        return "".join(json_pieces(value)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SerializationError(f"the returned value cannot be written as JSON: {error}") from None


def load_python(body, entry, index):
    """Kind 1: the named callable of a module made from `body`."""
    # A module of its own, known to `sys.modules`, as dataclasses, pickle and typing look there for what it defines.
    module = sys.modules[module_name(index)] = types.ModuleType(module_name(index))
    run_source(body.decode(), vars(module), index)
    function = getattr(module, entry, None)
    if not callable(function):
        raise CouldNotExecuteUserTaskError(f"the function's source defines no callable named {entry!r}")

    def call(payload, _task_id, _serializers):
        if not payload:
            return encode_json(function())
        args, kwargs = json_arguments(payload)
        return encode_json(function(*args, **kwargs))

    call.element_caller = lambda _task_id, _serializers: python_element_caller(function)
    return call


# ---- Kind 2: Globus Compute buffers ----------------------------------------------------------------------------------


def import_dill():
    """dill, or None where it is not installed."""
    try:
        return importlib.import_module("dill")
    except ModuleNotFoundError:
        return None


def unpickle(raw):
    """What `dill.loads` gives for `raw`, by way of the much faster C unpickler where that gives the same.

    dill treats objects differently from pickle only where the module dill or `__main__` is named in the pickle.
    """
    try:
        # `find` is twice as fast as `in` here.
        if raw.find(b"dill") >= 0 or raw.find(b"__main__") >= 0:
            dill = import_dill()
            if dill is not None:
                return dill.loads(raw)
        return pickle.loads(raw)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        # dill writes the module `__builtin__` of Python 2 where it means the globals of `__main__`.
        if module in ("dill", "__builtin__"):
            raise missing_package("dill", "dill") from None
        if module == "globus_compute_sdk":
            raise missing_package("globus_compute_sdk", "globus-compute-sdk") from None
        raise


PLAIN_SCALARS = frozenset((type(None), bool, int, float, str, bytes))


def is_plain(value, depth=4):
    """Whether pickle and dill surely agree on `value`: only exact builtin types, not too deeply nested."""
    kind = type(value)
    if kind in PLAIN_SCALARS:
        return True
    if kind is dict:
        return is_plain([*value.keys()], depth) and is_plain([*value.values()], depth)
    if kind is not list and kind is not tuple:
        return False
    others = set(map(type, value)) - PLAIN_SCALARS
    if not others:
        return True
    return depth > 0 and all(type(item) in PLAIN_SCALARS or is_plain(item, depth - 1) for item in value)


def encode_base64(raw):
    # Up to 57 bytes are one line, for which the C function alone gives what `encodebytes` does.
    return binascii.b2a_base64(raw) if 0 < len(raw) <= 57 else base64.encodebytes(raw)


def encode_dill_data(value):
    dill = None if is_plain(value) else import_dill()
    return b"00\n" + encode_base64((dill or pickle).dumps(value))


def encode_dill_code(value):
    dill = import_dill()
    if dill is None:
        raise missing_package("dill", "dill")
    return b"01\n" + encode_base64(dill.dumps(value))


def encode_json_data(value):
    return b"11\n" + json.dumps(value).encode()


def encode_all_data(value):
    buffers, failures = [], []
    for encode in (encode_json_data, encode_dill_data):
        try:
            buffer = encode(value)
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
        else:
            buffers.append(framed(buffer))
    if not buffers:
        raise SerializationError("; ".join(failures))
    return b"13\n" + b"".join(buffers)


ENCODED_NONE = encode_dill_data(None)


def encode_globus(value):
    """The default strategy of the SDK: data by 00, code by 01."""
    if value is None:
        return ENCODED_NONE
    for_code = callable(value)
    try:
        return encode_dill_code(value) if for_code else encode_dill_data(value)
    except CouldNotExecuteUserTaskError:
        raise
    except Exception as error:
        failed = "Code serialization strategy DillCode" if for_code else "Data serialization strategy DillDataBase64"
        raise SerializationError(f"{failed} failed") from error.with_traceback(user_traceback(error))


# Strategy class -> (whether it is for callables, encoder). The SDK, if installed, has the rest.
RESULT_STRATEGIES = {
    "JSONData": (False, encode_json_data),
    "DillDataBase64": (False, encode_dill_data),
    "AllDataStrategies": (False, encode_all_data),
    "DillCode": (True, encode_dill_code),
}


def encode_with_serializers(value, serializers):
    """The first of `serializers`, given as import paths, that can encode `value`."""
    names = [path.rpartition(".")[2] for path in serializers if path.startswith("globus_compute_sdk.serialize.")]
    if len(names) < len(serializers) or not RESULT_STRATEGIES.keys() >= set(names):
        try:
            from globus_compute_sdk.serialize import ComputeSerializer
        except ModuleNotFoundError:
            raise missing_package("globus_compute_sdk", "globus-compute-sdk") from None
        return ComputeSerializer.serialize_from_list(value, serializers).encode()
    failures = []
    for name in names:
        for_code, encode = RESULT_STRATEGIES[name]
        if for_code != callable(value):
            failures.append(f"{name}: is for {'code' if for_code else 'data'}")
            continue
        try:
            return encode(value)
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
    raise SerializationError("All strategies failed.\n* " + "\n* ".join(failures))


def unpack_frames(text):
    """The buffers of a framed string. Lengths count code points, which is why this works on str and not on bytes."""
    buffers = []
    start = 0
    while start < len(text):
        newline = text.find("\n", start)
        if newline < 0:
            raise CouldNotExecuteUserTaskError("malformed buffer: a length without a newline after it")
        try:
            length = int(text[start:newline])
        except ValueError:
            raise CouldNotExecuteUserTaskError(
                f"malformed buffer: {text[start:newline][:20]!r} is not a length"
            ) from None
        start = newline + 1
        end = start + length
        if length < 0 or end > len(text):
            raise CouldNotExecuteUserTaskError(
                f"malformed buffer: a length of {length} where {len(text) - start} characters remain"
            )
        buffers.append(text[start:end])
        start = end
    return buffers


def decode_dill(body, _index):
    return unpickle(binascii.a2b_base64(body.encode()))


def decode_json(body, _index):
    return json.loads(body)


def decode_dill_source(body, index):
    name, source = decode_dill(body, index)
    return define(name, source, index)


def decode_pure_source(body, index):
    name, source = body.split(":", 1)
    return define(name, source, index)


def define(name, source, index):
    namespace = {}  # As upstream, not even a `__name__`.
    run_source(source, namespace, index)
    return namespace[name]


def first_that_decodes(buffers, index):
    failures = []
    for buffer in buffers:
        try:
            return decode(buffer, index)
        except Exception as error:
            failures.append(f"{buffer[:2]}: {type(error).__name__}: {error}")
    raise DeserializationError("no strategy could deserialize the buffer:\n* " + "\n* ".join(failures))


def decode_framed_alternatives(body, index):
    return first_that_decodes(unpack_frames(body), index)


def decode_joined_alternatives(body, index):
    # Source text may hold the separator, so only what stands before the first source text can be told apart: the
    # three base64 strategies. They are what upstream can decode of this strategy, too.
    parts = body.split(":")
    return first_that_decodes(map("".join, zip(parts[0:6:2], parts[1:6:2])), index)


DECODERS = {
    "00\n": decode_dill,
    "01\n": decode_dill,
    "02\n": decode_dill,
    "03\n": decode_dill_source,
    "04\n": decode_dill_source,
    "10\n": decode_joined_alternatives,
    "11\n": decode_json,
    "12\n": decode_framed_alternatives,
    "13\n": decode_framed_alternatives,
    "sd\n": decode_pure_source,
    "st\n": decode_pure_source,
}


def decode(buffer, index):
    """The object in a buffer that came with, or as, function `index`."""
    decoder = DECODERS.get(buffer[:3])
    if decoder is None:
        raise DeserializationError(f"no serialization strategy has the identifier {buffer[:3]!r}")
    return decoder(buffer[3:], index)


def framed(buffer):
    return b"%d\n%b" % (len(buffer), buffer)  # For ASCII only, where bytes are code points.


# What the SDK sends where there are no keyword arguments, or no arguments at all.
NO_KWARGS = framed(encode_dill_data({}))
NO_ARGUMENTS = framed(encode_dill_data(())) + NO_KWARGS


def globus_arguments(payload, index):
    if payload == NO_ARGUMENTS:
        return (), {}
    # The usual shape, args by strategy 00 and no kwargs, in half the time that the general way below takes.
    newline = payload.find(b"\n")
    body_start = newline + 1 + len(b"00\n")
    if payload[newline + 1 : body_start] == b"00\n" and payload[:newline].isdigit() and payload.isascii():
        args_end = newline + 1 + int(payload[:newline])
        if payload[args_end:] == NO_KWARGS:
            return unpickle(binascii.a2b_base64(payload[body_start:args_end])), {}

    buffers = unpack_frames(payload.decode())
    if len(buffers) != 2:
        raise CouldNotExecuteUserTaskError(f"malformed buffer: {len(buffers)} parts, not args and kwargs")
    return decode(buffers[0], index), decode(buffers[1], index)


def load_globus(body, index):
    """Kind 2: a serialized function of the Globus Compute SDK."""
    buffers = unpack_frames(body.decode())
    if len(buffers) != 1:
        raise CouldNotExecuteUserTaskError(f"malformed buffer: {len(buffers)} parts, not one function")
    function = decode(buffers[0], index)
    publish_task_id = task_id_variable("GC_TASK_UUID")

    def call(payload, task_id, serializers):
        publish_task_id(task_id)
        args, kwargs = globus_arguments(payload, index)
        value = function(*args, **kwargs)
        return encode_with_serializers(value, serializers) if serializers else encode_globus(value)

    def element_caller(task_id, serializers):
        publish_task_id(task_id)
        return lambda element: call_globus_element(function, element, index, serializers)

    call.element_caller = element_caller
    return call


split_uuid = struct.Struct("8s4s4s4s12s").unpack


def uuid_text(task_id):
    return b"%b-%b-%b-%b-%b" % split_uuid(binascii.hexlify(task_id))


@functools.lru_cache(maxsize=None)
def task_id_variable(name):
    """Return a function that gives the environment variable `name` the text of a task id."""
    libc = linux_libc()
    if libc is not None and hasattr(os.environ, "_data"):
        return task_id_in_place(name, libc.putenv)

    def publish(task_id):
        os.environ[name] = uuid_text(task_id).decode()

    return publish


def task_id_in_place(name, putenv):
    """As `task_id_variable`, by writing over the text that the C environment points to.

    POSIX lets the string given to putenv(3) be changed afterwards. Setting the variable anew for every task is slower,
    and glibc keeps every value a variable ever had: about 100 bytes are lost for each task.
    """
    import ctypes

    key = name.encode()
    entry = ctypes.create_string_buffer(key + b"=" + uuid_text(bytes(16)))
    text_in_entry = memoryview(entry).cast("B")[len(key) + 1 : -1]
    # The mapping that os.environ reads; assigning to os.environ itself would call setenv(3).
    environment = os.environ._data
    published = b""

    def publish(task_id):
        nonlocal published
        text = text_in_entry[:] = uuid_text(task_id)
        # The first time, and when a task has itself changed the variable, the C environment does not point here.
        if environment.get(key) is not published:
            putenv(entry)
        environment[key] = published = text

    return publish


# ---- Maps: a task that calls its function many times -----------------------------------------------------------------

# A function of either kind has an `element_caller`, which gives a function from an element of the payload's array to the
# value of that call. What stands in it, and in the loop of `run_map`, is paid for by every call.


def python_element_caller(function):
    def call_element(element):
        if type(element) is not dict:
            raise CouldNotExecuteUserTaskError("the arguments are not a JSON object")
        if not element:
            return function()
        args, kwargs = element.get("args", []), element.get("kwargs", {})
        if type(args) is not list or type(kwargs) is not dict:
            raise CouldNotExecuteUserTaskError('the arguments are not of the form {"args": [...], "kwargs": {...}}')
        return function(*args, **kwargs)

    return call_element


def call_globus_element(function, element, index, serializers):
    if type(element) is not str:
        raise CouldNotExecuteUserTaskError("the arguments are not a string of two framed buffers")
    args, kwargs = globus_arguments(element.encode(), index)
    value = function(*args, **kwargs)
    return (encode_with_serializers(value, serializers) if serializers else encode_globus(value)).decode()


# Values that nobody can change later and that are short: these are encoded together at the end.
DEFERRED = frozenset((type(None), bool, int, float))


def map_elements(payload):
    collects = gc.isenabled()
    gc.disable()  # What is decoded holds no cycles; looking for some takes longer than decoding.
    try:
        elements = json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        raise CouldNotExecuteUserTaskError(f"the arguments of a map are not JSON: {error}") from None
    finally:
        if collects:
            gc.enable()
    if type(elements) is not list:
        raise CouldNotExecuteUserTaskError("the arguments of a map are not a JSON array")
    return elements


def run_map(call_element, payload, max_result_bytes, forked, directory):
    """Call the function for each element of the payload; what has become of them, as the value of the task.

    Each call starts in `directory`. `forked` is not empty in a process that one of them forked.
    """
    elements, ends = map_elements(payload), MapEnds(max_result_bytes)
    add_value, deferred, moved = ends.values.append, DEFERRED, working_directory_left
    for element in elements:
        try:
            value = call_element(element)
            if type(value) not in deferred:
                value = ends.encode(value)
        except BaseException as error:  # As in `run_tasks`.
            if forked:
                raise
            value = ends.fail(error)
        if forked or moved:
            if forked:  # A child ends where it has returned from the function.
                return b""
            os.makedirs(directory, exist_ok=True)
            os.chdir(directory)
        add_value(value)
    return ends.join()


class MapEnds:
    """How the calls of a map have ended."""

    def __init__(self, max_result_bytes):
        self.limit = self.room = max_result_bytes
        # A quarter is ample for some failures; tracebacks must not leave the values without room.
        self.traceback_room = max_result_bytes // 4
        # Values of all calls; `None` where `texts` or `failures` has something.
        self.values, self.texts, self.failures = [], {}, {}

    def encode(self, value):
        """Take the value of the next call as it is now: a later call may change it."""
        text = element_text(value)
        if len(text) > self.limit:
            raise MaxResultSizeExceeded(len(text), self.limit)
        if len(text) > self.room:
            raise self.crowded(len(text))
        self.room -= len(text)
        self.texts[len(self.values)] = text

    def fail(self, error):
        self.add_failure(len(self.values), error)

    def add_failure(self, index, error):
        most_chars = min(self.traceback_room, MAX_ELEMENT_TRACEBACK_CHARS)
        text = self.failures[index] = describe(error, max(most_chars, MIN_ELEMENT_TRACEBACK_CHARS)).decode()
        self.traceback_room -= len(text)
        return text

    def crowded(self, size):
        return MaxResultSizeExceeded(size, self.limit, " for all calls of a chunk together: use smaller chunks")

    def join(self):
        """The value of the task."""
        result = self.result(self.joined_values())
        if len(result) > self.limit:
            result = self.result(self.fitting_values(len(result) - self.limit))
            if len(result) > self.limit:
                raise self.crowded(len(result))
        return result

    def result(self, values):
        failures = ", ".join([f'"{index}": {text}' for index, text in sorted(self.failures.items())])
        return f'{{"values": {values}, "failures": {{{failures}}}}}'.encode()

    def joined_values(self):
        if not self.texts:
            try:
                return "".join(json_pieces(self.values))
            except (TypeError, ValueError):
                pass  # One of them, such as NaN, has no JSON form.
        return "[" + ", ".join(self.value_texts()) + "]"

    def value_texts(self):
        texts = []
        for index, value in enumerate(self.values):
            try:
                text = self.texts.get(index) or element_text(value)
            except SerializationError as error:
                text = "null"
                self.add_failure(index, error)
                self.values[index] = None
            texts.append(text)
        return texts

    def fitting_values(self, excess):
        """Fail calls until the values fit, from the last one back and only where that makes room."""
        texts = self.value_texts()
        for index in range(len(texts) - 1, -1, -1):
            if excess <= 0:
                break
            failure = describe(self.crowded(len(texts[index]))).decode()
            gain = len(texts[index]) - len(f'null, "{index}": {failure}')
            if gain > 0:
                texts[index], self.failures[index] = "null", failure
                excess -= gain
        return "[" + ", ".join(texts) + "]"


def element_text(value):
    return encode_json(value).decode()


# ---- Standard streams ------------------------------------------------------------------------------------------------


class Capture:
    """Takes what a task writes to file descriptors 1 and 2, from Python, C or a child process.

    Both lead to unlinked files. Files never block the writer, and asking for their size is the cheapest way to learn
    that nothing was written; pipes would need a reading thread.
    """

    def __init__(self, max_output_bytes):
        self.limit = max_output_bytes
        self.stdout_fd, self.stderr_fd = self.redirect(1), self.redirect(2)
        self.open_streams()

    @staticmethod
    def redirect(fd):
        with tempfile.TemporaryFile(buffering=0) as file:
            # Writers that share the file must not overwrite each other, nor leave a hole after `take`.
            fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
            os.dup2(file.fileno(), fd)
            # A handle of our own: the task may do as it likes with its descriptors 1 and 2.
            return fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 3)

    def open_streams(self):
        """New `sys.stdout` and `sys.stderr`. Only stdout is buffered, so that one flush per task is enough."""
        text = {"encoding": "utf-8", "errors": "backslashreplace"}
        sys.stdout = sys.__stdout__ = io.TextIOWrapper(open(1, "wb", closefd=False), **text)
        sys.stderr = sys.__stderr__ = io.TextIOWrapper(open(2, "wb", 0, closefd=False), write_through=True, **text)
        self.flush = sys.stdout.flush

    def take(self):
        """What was written to stdout and stderr since the last call."""
        return self.take_file(self.stdout_fd), self.take_file(self.stderr_fd)

    def take_file(self, fd):
        size = os.lseek(fd, 0, os.SEEK_END)
        if not size:
            return b""
        dropped = max(0, size - self.limit)
        text = os.pread(fd, size - dropped, dropped)
        os.ftruncate(fd, 0)
        return f"[… {dropped} bytes dropped]\n".encode() + text if dropped else text


# Not empty when a task has left the directory it was started in. Asking the kernel after every task would take as long
# as all else that is done for a short one.
working_directory_left = []


def watch_working_directory():
    """Learn of every change of directory that Python code makes."""

    def watched(change):
        @functools.wraps(change)
        def chdir(path):
            working_directory_left.append(True)
            return change(path)

        return chdir

    os.chdir, os.fchdir = watched(os.chdir), watched(os.fchdir)


# ---- Worker ----------------------------------------------------------------------------------------------------------


def receive_buffer(size):
    """Pages that take memory only once something was received into them: most workers of a large pool never need many."""
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def read_frames(connection, before_wait):
    """Yield (kind, body) of every frame until the peer closes; call `before_wait` when the input has run dry."""
    buffer = receive_buffer(RECEIVE_BYTES)
    view = memoryview(buffer)
    start = end = 0
    while True:
        needed = FRAME_HEAD.size
        while end - start >= needed:
            length, kind = FRAME_HEAD.unpack_from(buffer, start)
            if not 1 <= length <= MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {length} bytes; 1 to {MAX_FRAME_BYTES} are allowed")
            needed = U32.size + length
            if end - start < needed:
                break
            body_start, start = start + FRAME_HEAD.size, start + needed
            yield kind, bytes(view[body_start:start])
            needed = FRAME_HEAD.size
        rest = buffer[start:end]
        if needed > len(buffer) or len(buffer) > RECEIVE_BYTES >= needed:
            buffer = receive_buffer(max(RECEIVE_BYTES, needed))
            view = memoryview(buffer)
        start, end = 0, len(rest)
        view[:end] = rest
        before_wait()
        received = connection.recv_into(view[end:])
        if not received:
            return
        end += received


class Worker:
    """One worker process: runs tasks one after the other, in the order they come."""

    def __init__(self, connection, welcome):
        self.connection = connection
        self.work_dir = os.path.abspath(welcome["work_dir"])
        self.enter_work_dir()
        os.environ.pop("GC_TASK_SANDBOX_DIR", None)
        self.max_result_bytes = welcome["max_result_bytes"]
        self.capture = Capture(welcome["max_output_bytes"])
        self.functions = {}
        # Function index -> how many of its next runs must not keep finished outcomes waiting.
        self.wary = {}
        # Functions that were mapped before.
        self.mapped = set()
        self.outcome_heads, self.outcome_bodies, self.buffered_bytes = [], [], 0
        self.flush_at = 0
        # Heads of the tasks of the current frame that have not begun, and whether the manager has the later ones back.
        self.heads, self.gave_back = iter(()), False
        signal.signal(signal.SIGURG, self.give_back)
        # Not empty in a process that the task forked.
        self.forked = []
        os.register_at_fork(before=lambda: self.capture.flush(), after_in_child=self.after_fork_in_child)

    def enter_work_dir(self):
        os.makedirs(self.work_dir, exist_ok=True)
        os.chdir(self.work_dir)
        working_directory_left.clear()

    def after_fork_in_child(self):
        # The child must neither speak to the manager nor keep the connection open when this worker is gone.
        self.forked.append(True)
        self.connection.close()

    def handle_frame(self, kind, body):
        if kind == TASKS:
            if not self.gave_back:
                self.run_tasks(body)
        elif kind == RESUME:
            self.gave_back = False
        elif kind == FUNCTION:
            self.add_function(body)
        elif kind == DROP:
            self.drop_function(U32.unpack(body)[0])
        else:
            raise ProtocolError(f"a frame of unknown kind {kind}")

    # -- Functions --

    def add_function(self, body):
        index, kind, entry_size = FUNCTION_HEAD.unpack_from(body)
        entry_end = FUNCTION_HEAD.size + entry_size
        if entry_end > len(body):
            raise ProtocolError("a function frame shorter than it says")
        entry, body = body[FUNCTION_HEAD.size : entry_end].decode(), body[entry_end:]

        def load():
            # Loading waits for the first task: where it fails, it is that task which has failed.
            if kind == PYTHON_SOURCE:
                call = load_python(body, entry, index)
            elif kind == GLOBUS_COMPUTE:
                call = load_globus(body, index)
            else:
                raise CouldNotExecuteUserTaskError(f"this worker has no functions of kind {kind}")
            self.functions[index] = call
            return call

        def load_and_call(payload, task_id, serializers):
            return load()(payload, task_id, serializers)

        load_and_call.element_caller = lambda task_id, serializers: load().element_caller(task_id, serializers)
        self.functions[index] = load_and_call
        self.wary[index] = 1
        self.mapped.discard(index)

    def drop_function(self, index):
        self.functions.pop(index, None)
        self.wary.pop(index, None)
        self.mapped.discard(index)
        linecache.cache.pop(source_filename(index), None)
        sys.modules.pop(module_name(index), None)

    # -- Tasks --

    def run_tasks(self, body):
        """Run the tasks of one frame. What stands in its loop is paid for by every task: names are bound beforehand."""
        (count,) = U32.unpack_from(body)
        position, body_end = U32.size + count * TASK_HEAD.size, len(body)
        function_of, wary = self.functions.get, self.wary
        forked, moved = self.forked, working_directory_left
        capture, size_of, seek_end = self.capture, os.lseek, os.SEEK_END
        stdout_fd, stderr_fd = capture.stdout_fd, capture.stderr_fd
        add_head, add_body, pack_head = self.outcome_heads.append, self.outcome_bodies.append, OUTCOME_HEAD.pack
        max_result_bytes, now = self.max_result_bytes, time_ns

        started = now()
        if not self.outcome_heads:
            self.flush_at = started + FLUSH_NS
        flush_at, buffered_bytes = self.flush_at, self.buffered_bytes
        heads = self.heads = TASK_HEAD.iter_unpack(body[U32.size : position])
        for tag, task_id, index, flags, options_size, payload_size in heads:
            options_end = position + options_size
            payload_end = options_end + payload_size
            if payload_end > body_end:
                raise ProtocolError("a task frame shorter than it says")
            if index in wary or flags and self.flushes_first(flags, index):
                started, flush_at, buffered_bytes = self.flush(tag if flags & ANNOUNCE else None)
            try:
                call, payload = function_of(index, unknown_function), body[options_end:payload_end]
                if options_size or flags > ANNOUNCE:
                    result = self.call_specially(call, payload, task_id, flags, body[position:options_end])
                else:
                    result = call(payload, task_id, None)
                kind, size = RETURNED, len(result)
                if size > max_result_bytes:
                    raise MaxResultSizeExceeded(size, max_result_bytes)
            except BaseException as error:  # Also what sys.exit and a signal handler raise: the worker goes on.
                kind, result = RAISED, describe(error)
                size = len(result)
            ended = now()
            position = payload_end

            try:
                capture.flush()
            except Exception:  # The task has closed sys.stdout, or the disk is full.
                capture.open_streams()
            if forked:
                os._exit(kind)
            if moved:
                self.enter_work_dir()
            if size_of(stdout_fd, 0, seek_end) or size_of(stderr_fd, 0, seek_end):
                stdout, stderr = capture.take()
                add_head(pack_head(tag, kind, size, len(stdout), len(stderr), started, ended))
                result += stdout + stderr
            else:
                add_head(pack_head(tag, kind, size, 0, 0, started, ended))
            add_body(result)

            buffered_bytes += len(result)
            if ended > flush_at or buffered_bytes > FLUSH_BYTES or index in wary:
                self.judge_run(index, ended - started)
                ended, flush_at, buffered_bytes = self.flush()
            started = ended
        self.buffered_bytes = buffered_bytes
        if position != body_end and not self.gave_back:
            raise ProtocolError("a task frame longer than it says")

    def flushes_first(self, flags, index):
        """Whether finished outcomes must not wait for a task with flags: of maps only where nothing is known of them yet."""
        if flags != MAP:
            return True
        is_new = index not in self.mapped
        self.mapped.add(index)
        return is_new

    def give_back(self, _signal, frame):
        """SIGURG: a task runs for long; the manager may have all others that it has sent.

        It finds the task by its frame: a flag would have to be set for every task. Between tasks there is nothing to do,
        since what is about to begin need not be waited for; should that take long as well, the manager asks again.
        """
        callee = None
        while frame is not None and frame.f_code is not Worker.run_tasks.__code__:
            callee, frame = frame.f_code, frame.f_back
        if frame is None or callee is None or self.forked or self.gave_back:
            return
        variables = frame.f_locals
        if callee not in (Worker.call_specially.__code__, getattr(variables.get("call"), "__code__", None)):
            return
        self.gave_back = True  # At once: the next signal may come in the middle of this.
        try:
            self.flush(gave_back_tag=variables["tag"])
            for _ in self.heads:
                pass
        except RecursionError:
            self.gave_back = False  # The task has used up the stack. Nothing was sent.
        except BaseException:
            # What the manager has heard is not known. To go on could be to wait for each other.
            os._exit(EXIT_FAILED)

    def judge_run(self, index, duration_ns):
        """Outcomes of short tasks may wait for each other, but not for a task that can be expected to run long."""
        if duration_ns > FLUSH_NS:
            self.wary[index] = WARY_RUNS
        elif self.wary.get(index, 0) > 1:
            self.wary[index] -= 1
        else:
            self.wary.pop(index, None)

    def call_specially(self, call, payload, task_id, flags, options):
        """As a task with options or flags wants it."""
        if flags & ~(ANNOUNCE | MAP):
            raise CouldNotExecuteUserTaskError(f"the task has flags ({flags:#x}) that this worker does not know")
        if flags & MAP:
            call = functools.partial(self.call_map, call)
        if not options:
            return call(payload, task_id, None)
        options, variables = read_options(options)
        enter_sandbox(options, variables, self.work_dir, uuid_text(task_id).decode())
        before = {name: os.environ.get(name) for name in variables}
        try:
            os.environ.update(variables)
            return call(payload, task_id, options.get("result_serializers"))
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def call_map(self, call, payload, task_id, serializers):
        call_element = call.element_caller(task_id, serializers)
        directory = os.environ.get("GC_TASK_SANDBOX_DIR") or self.work_dir
        return run_map(call_element, payload, self.max_result_bytes, self.forked, directory)

    def flush(self, announced_tag=None, gave_back_tag=None):
        """Send the finished outcomes and, in the same write, that a task begins, or that none behind it does.

        Returns the time, when to flush next, and how many bytes of outcomes are now buffered.
        """
        pieces = []
        if self.outcome_heads:
            pieces += self.outcome_heads
            pieces += self.outcome_bodies
            count = U32.pack(len(self.outcome_heads))
            length = 1 + len(count) + sum(map(len, pieces))
            pieces[:0] = [FRAME_HEAD.pack(length, OUTCOMES), count]
            # Emptied and not replaced: `run_tasks` holds on to these lists.
            self.outcome_heads.clear()
            self.outcome_bodies.clear()
        if announced_tag is not None:
            pieces += [FRAME_HEAD.pack(1 + U64.size, STARTED), U64.pack(announced_tag)]
        if gave_back_tag is not None:
            pieces += [FRAME_HEAD.pack(1 + U64.size, GAVE_BACK), U64.pack(gave_back_tag)]
        if pieces:
            self.connection.sendall(b"".join(pieces))
        now = time_ns()
        self.flush_at, self.buffered_bytes = now + FLUSH_NS, 0
        return now, self.flush_at, self.buffered_bytes


def read_options(text):
    """The options of a task, and the environment variables that they set."""
    try:
        options = json.loads(text)
        resources = options.get("resource_specification") or {}
        variables = {f"PARSL_{key.upper()}": str(value) for key, value in resources.items()}
        variables.update(options.get("env") or {})
    except (ValueError, TypeError, AttributeError) as error:
        raise CouldNotExecuteUserTaskError(f"malformed task options: {error}") from None
    return options, variables


def enter_sandbox(options, variables, work_dir, task_id):
    """Start a task in a directory of its own if its options ask for one."""
    if options.get("sandbox"):
        sandbox = os.path.join(work_dir, task_id)
        os.makedirs(sandbox, exist_ok=True)
        os.chdir(sandbox)
        variables["GC_TASK_SANDBOX_DIR"] = sandbox


def unknown_function(*_):
    raise CouldNotExecuteUserTaskError("the task names a function that this worker was not given")


unknown_function.element_caller = unknown_function


def environment_details():
    """What the SDK tells its users about the Python that ran a task."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(package):
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "os": platform.platform(),
        "python_version": platform.python_version(),
        "dill_version": installed("dill"),
        "globus_compute_sdk_version": installed("globus-compute-sdk"),
    }


def check_welcome(kind, body):
    if kind != WELCOME:
        raise ProtocolError(f"the first frame is of kind {kind}, not a welcome")
    welcome = json.loads(body)
    # A frame holds FLUSH_BYTES of outcomes and one more, of any size; the rest is ample room for heads and tracebacks.
    largest = welcome["max_result_bytes"] + 2 * welcome["max_output_bytes"] + (4 << 20)
    if largest > MAX_FRAME_BYTES:
        raise ProtocolError(f"outcomes of {largest} bytes would not fit into a frame of {MAX_FRAME_BYTES}")
    return welcome


def connect(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("\0" + path[1:] if path.startswith("@") else path)
    return connection


def run_worker(path, worker_id, details):
    """Be the worker `worker_id` of the manager that listens at `path`, until it says or goes away. The exit code."""
    keep_freed_memory()
    # Whoever started all this in the background may have had it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Standard error will be the task's. What the worker has to say for itself goes where it went before.
    own_stderr = os.fdopen(fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3), "w")
    try:
        connection = connect(path)
        hello = {
            "protocol": PROTOCOL_VERSION,
            "worker": worker_id,
            "pid": os.getpid(),
            "language": "python",
            "details": details,
        }
        body = json.dumps(hello).encode()
        connection.sendall(FRAME_HEAD.pack(1 + len(body), HELLO) + body)

        worker = None
        for kind, body in read_frames(connection, lambda: worker and worker.flush()):
            if worker is None:
                worker = Worker(connection, check_welcome(kind, body))
            elif kind == EXIT:
                worker.flush()
                break
            else:
                worker.handle_frame(kind, body)
        return EXIT_CLEAN
    except (BrokenPipeError, ConnectionResetError):
        return EXIT_CLEAN  # The manager went away, which is its right.
    except (ProtocolError, struct.error, KeyError, ValueError) as error:
        print(f"funcx worker {worker_id}: protocol error: {error}", file=own_stderr, flush=True)
        return EXIT_PROTOCOL
    except Exception:
        print(f"funcx worker {worker_id}: {traceback.format_exc()}", file=own_stderr, flush=True)
        return EXIT_FAILED


# ---- Shell commands --------------------------------------------------------------------------------------------------

SHELL_PATH = "/bin/bash" if os.access("/bin/bash", os.X_OK) else "/bin/sh"


# Python ignores the first two, and the zygote the third; a command would inherit that.
IGNORED_SIGNALS = signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT
# Writers that share a file of output must not overwrite each other.
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
# Templates with nothing but names and numbers in braces, and how much may come of them: to format them is harmless.
PLAIN_TEMPLATE = re.compile(rb"[^{}]*(?:(?:\{\{|\}\}|\{\w*\})[^{}]*)*")
MAX_PLAIN_BYTES = 1 << 20
# Commands in which a shell would find nothing to expand, redirect or assign: words, and the first of them names a program.
PLAIN_COMMAND = re.compile(r"(?a) *[\w./][\w./+-]*(?: +[\w./+:@%,=-]+)* *")
# What bash does itself when such a word comes first: its builtins and keywords (`compgen -bk`, bash 5.2).
SHELL_NAMES = frozenset(
    """
    ! . : [ [[ ]] alias bg bind break builtin caller case cd command compgen complete compopt continue coproc declare
    dirs disown do done echo elif else enable esac eval exec exit export false fc fg fi for function getopts hash help
    history if in jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly return select set
    shift shopt source suspend test then time times trap true type typeset ulimit umask unalias unset until wait while {
    }
    """.split()
)


def enter_directory(path):
    try:
        os.chdir(path)
    except FileNotFoundError:
        os.makedirs(path, exist_ok=True)
        os.chdir(path)


def make_command(output, template, payload):
    """The command that the template and the arguments make; a file says which, if that is not the template."""
    template = template.decode()
    args, kwargs = json_arguments(payload)
    command = template.format(*args, **kwargs)
    if command != template:
        with open(f"{output}.cmd", "wb") as file:
            file.write(command[:MAX_COMMAND_CHARS].encode(errors="replace"))
    return command


def shell_adds_nothing(environment):
    """Whether bash would run what `PLAIN_COMMAND` matches as it is: with no files read first, options, or functions."""
    if not SHELL_PATH.endswith("/bash"):
        return False
    # The first shell behind ssh reads what an interactive one reads.
    first = environment.get("SHLVL", "") in ("", "0")
    startup = ("SSH_CLIENT", "SSH2_CLIENT") if first else ()
    named = any(name in environment for name in ("BASH_ENV", "SHELLOPTS", "BASHOPTS", *startup))
    return not named and not any(name.startswith("BASH_FUNC_") for name in environment)


def spawn_program(command, environment, attributes):
    """Start a command that needs no shell without one, which takes half the time. None if a shell has to see to it."""
    if not PLAIN_COMMAND.fullmatch(command) or not shell_adds_nothing(environment):
        return None
    words = command.split()
    if words[0] in SHELL_NAMES:
        return None
    try:
        return os.posix_spawnp(words[0], words, environment, **attributes)
    except OSError:
        return None  # The shell knows how to put it, or that it is a script.


def spawn_command(work_dir, output, task_id, template, options, payload):
    """Start a task's command without a copy of this process. Its process id; None if that cannot be done."""
    most_bytes = (1 + template.count(b"{")) * (len(template) + len(payload))
    if options or most_bytes > MAX_PLAIN_BYTES or not PLAIN_TEMPLATE.fullmatch(template):
        return None
    try:
        enter_directory(work_dir)
        working_directory_left.clear()
        command = make_command(output, template, payload)
        environment = dict(os.environ, FUNCX_TASK_ID=task_id, PWD=os.getcwd())
        environment.pop("GC_TASK_SANDBOX_DIR", None)
        attributes = {
            "file_actions": [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, f"{output}.stdout", APPEND, 0o600),
                (os.POSIX_SPAWN_OPEN, 2, f"{output}.stderr", APPEND, 0o600),
            ],
            "setsid": True,
            "setsigmask": [],
            "setsigdef": IGNORED_SIGNALS,
        }
        return spawn_program(command, environment, attributes) or os.posix_spawn(
            SHELL_PATH, [SHELL_PATH, "-c", command], environment, **attributes
        )
    except Exception:  # The process that is forked instead meets it again, and tells of it.
        return None


def become_command(work_dir, output, task_id, template, options, payload):
    """Turn this process into a task's command; `output` begins the names of its files. Returns only if it fails."""
    try:
        enter_directory(work_dir)
        os.environ.pop("GC_TASK_SANDBOX_DIR", None)
        if options:
            options, variables = read_options(options)
            enter_sandbox(options, variables, work_dir, task_id)
            os.environ.update(variables)
        os.environ["FUNCX_TASK_ID"] = task_id
        command = make_command(output, template, payload)
        for fd, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{output}.{name}", APPEND, 0o600), fd)
        for number in IGNORED_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.execv(SHELL_PATH, [SHELL_PATH, "-c", command])
    except BaseException as error:
        with open(f"{output}.new", "wb") as file:
            file.write(describe(error))
        # A part of it, on a full disk, would be no reason.
        os.rename(f"{output}.new", f"{output}.raised")
    return EXIT_FAILED


# ---- Zygote ----------------------------------------------------------------------------------------------------------


def die_with_parent(signal_number):
    """Ask the kernel for a signal when the parent is gone. Only Linux does that; it is a second line of defence."""
    libc = linux_libc()
    if libc is not None:
        PR_SET_PDEATHSIG = 1
        libc.prctl(PR_SET_PDEATHSIG, signal_number)


class Zygote:
    """Forks workers and commands when the manager says so, from a process that has already imported what workers need.

    Lines of JSON travel both ways on file descriptor 0. When it closes, the manager is gone and so are its children.
    """

    CONTROL_FD = 0

    def __init__(self):
        self.pid = os.getpid()
        self.manager_pid = os.getppid()
        self.received = bytearray()
        self.socket_path = self.work_dir = self.output_dir = self.details = None
        self.children = {}  # pid -> what the news of its end are called, its number

        self.wakeup, self.wakeup_sender = socket.socketpair()
        self.wakeup.setblocking(False)
        self.wakeup_sender.setblocking(False)
        signal.set_wakeup_fd(self.wakeup_sender.fileno(), warn_on_full_buffer=False)
        # Only a signal with a handler in Python is written to that socket.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # A batch system or a terminal sends these to every process of a job. When to stop is for the manager to say.
        signal.signal(signal.SIGTERM, self.look_for_manager)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # The kernel's "parent" is the thread that started us. It may end long before the manager does, which is why
        # the signal asked for is one that only makes `run` look.
        die_with_parent(signal.SIGTERM)

    def look_for_manager(self, *_):
        """Leave if the manager is gone and there is nothing to end: an import may never get back to `run`."""
        if self.details is None and os.getppid() != self.manager_pid:
            os._exit(EXIT_CLEAN)

    def run(self):
        poller = select.poll()
        poller.register(self.CONTROL_FD, select.POLLIN)
        poller.register(self.wakeup, select.POLLIN)
        try:
            while os.getppid() == self.manager_pid:
                for fd, _ in poller.poll():
                    if fd != self.CONTROL_FD:
                        self.wakeup.recv(4096)
                        self.reap()
                    elif not self.receive():
                        return
        except (BrokenPipeError, ConnectionResetError):
            pass  # The same as end of file: the manager is gone.
        finally:
            for pid in self.children:
                kill_group(pid)

    def receive(self):
        """Take what has come from the manager; False at the end of it."""
        received = os.read(self.CONTROL_FD, 1 << 16)
        self.received += received
        while self.take_line():
            pass
        return bool(received)

    def take_line(self):
        """Do what the first line says, if it is here with all of the contents that follow it."""
        position = self.received.find(b"\n") + 1
        if not position:
            return False
        line = json.loads(self.received[:position])
        sizes = line.get("sizes", [])
        if sum(sizes) > 2 * MAX_FRAME_BYTES:
            raise ProtocolError(f"contents of {sum(sizes)} bytes")
        if position + sum(sizes) > len(self.received):
            return False
        contents = []
        for size in sizes:
            contents.append(bytes(self.received[position : position + size]))
            position += size
        del self.received[:position]
        self.handle(line, *contents)
        return True

    def send(self, *messages):
        lines = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
        while lines:
            lines = lines[os.write(self.CONTROL_FD, lines) :]

    def handle(self, line, *contents):
        if "socket" in line:
            self.work_dir, self.output_dir = os.path.abspath(line["work_dir"]), line["output_dir"]
            self.prepare(line["socket"], line.get("preload") or [])
        elif "fork" in line and self.details:
            self.fork("forked", "exited", line["fork"], self.become_worker, line["fork"])
        elif "command" in line and len(contents) == 3 and self.details:
            number = line["command"]
            order = self.work_dir, os.path.join(self.output_dir, str(number)), line["task"], *contents
            pid = spawn_command(*order)
            if pid is None:
                self.fork("started", "ended", number, become_command, *order)
            else:
                self.tell_of(pid, "started", "ended", number)
        else:
            raise ProtocolError(f"the zygote does not expect {json.dumps(line)}")

    def prepare(self, socket_path, preload):
        self.socket_path = socket_path
        for name in preload:
            try:
                importlib.import_module(name)
            except BaseException as error:  # Whatever it is, the tasks that need the module will meet it again.
                print(f"funcx zygote: cannot preload {name}: {type(error).__name__}: {error}", file=sys.stderr)
        tempfile.gettempdir()  # Finds out once what each worker would find out for itself.
        # Text left in a buffer would come out once more in every worker.
        sys.stdout.flush()
        sys.stderr.flush()
        self.details = environment_details()
        # Keeps the garbage collector of the workers off the pages they share with this process.
        gc.freeze()
        self.send({"ready": {"pid": self.pid, "details": self.details}})

    def fork(self, began, ended, number, become, *arguments):
        """Fork a process that is what `become` makes of it, and tell of it by these names."""
        # A SIGTERM for the new process waits until that has left the handlers of this one behind.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            pid = os.fork()
        except OSError as error:
            print(f"funcx zygote: cannot fork: {error}", file=sys.stderr, flush=True)
            pid = None
        if pid == 0:
            status = EXIT_FAILED
            try:
                if self.leave():
                    status = become(*arguments)
            finally:
                # Never back into the zygote's loop, whatever has been raised.
                os._exit(status)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        if pid:
            self.tell_of(pid, began, ended, number)
        else:
            self.send({ended: number, "pid": 0, "status": EXIT_FAILED, "signal": None, "at": time_ns()})

    def tell_of(self, pid, began, ended, number):
        self.children[pid] = ended, number
        self.send({began: number, "pid": pid, "at": time_ns()})

    def leave(self):
        """Become a process like any other; False if the zygote is gone."""
        os.setsid()
        die_with_parent(signal.SIGKILL)
        if os.getppid() != self.pid:
            return False  # It was gone before the kernel was asked.
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        self.wakeup.close()
        self.wakeup_sender.close()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, self.CONTROL_FD)
        os.close(null)
        return True

    def become_worker(self, worker_id):
        if "numpy.random" in sys.modules:
            # Unlike `random`, numpy does not do this by itself: all workers would draw the same numbers.
            sys.modules["numpy.random"].seed()
        return run_worker(self.socket_path, worker_id, self.details)

    def reap(self):
        """Tell of the children that have ended. When thousands are cancelled they end together, and so go the news."""
        news = []
        pid = None
        while pid != 0:
            pid, status = self.next_ended()
            if pid in self.children:  # Or else it is a child of some preloaded module.
                ended, number = self.children.pop(pid)
                signaled = os.WIFSIGNALED(status)
                news.append(
                    {
                        ended: number,
                        "pid": pid,
                        "status": None if signaled else os.WEXITSTATUS(status),
                        "signal": os.WTERMSIG(status) if signaled else None,
                        "at": time_ns(),
                    }
                )
            if pid == 0 or len(news) == NEWS_AT_ONCE:
                self.send(*news)
                news.clear()

    def next_ended(self):
        """The process id and status of a child that has ended, its group killed if it was one of ours; id 0 if none."""
        try:
            if not hasattr(os, "waitid"):  # macOS before Python 3.13. The number is hardly in use again so soon.
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid in self.children:
                    kill_group(pid)
                return pid, status
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return 0, 0
        if ended is None:
            return 0, 0
        if ended.si_pid in self.children:
            # Until it is waited for, its number cannot become that of another process or group.
            kill_group(ended.si_pid)
        return os.waitpid(ended.si_pid, 0)


def run_zygote():
    """Be the zygote until the manager is gone. The exit code."""
    try:
        Zygote().run()
    except (ProtocolError, ValueError) as error:
        print(f"funcx zygote: protocol error: {error}", file=sys.stderr)
        return EXIT_PROTOCOL
    return EXIT_CLEAN


def kill_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # Nobody left, or only a process that now belongs to somebody else.


# ---- Command line ----------------------------------------------------------------------------------------------------


def leave_main_to_users():
    """Put an empty module in the place of `__main__`.

    Functions that dill took from a user's script see the globals of `__main__`. Those must not be this file's, for
    their sake and for ours. Modules that stand beside this file are not for users to import either.
    """
    sys.modules["funcx_worker"] = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(THIS_FILE)):
        del sys.path[0]


def main(arguments):
    if arguments == ["zygote"]:
        leave_main_to_users()
        watch_working_directory()
        return run_zygote()
    if arguments == ["worker"]:
        leave_main_to_users()
        watch_working_directory()
        path, worker_id = os.environ.pop("FUNCX_WORKER_SOCKET"), int(os.environ.pop("FUNCX_WORKER_ID"))
        try:
            os.setsid()
        except PermissionError:
            pass  # Already the leader of its process group, which is what matters.
        return run_worker(path, worker_id, environment_details())
    sys.stderr.write("usage: worker.py zygote | worker.py worker\n")
    return EXIT_PROTOCOL


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stderr.flush()
    # Without waiting for threads that tasks have left behind.
    os._exit(exit_code)
