"""A program that reads one pickle from standard input and answers with plain data.

It runs in a process of its own, with limits that it sets itself, and imports neither numpy nor
torch: that is why it starts in some hundredths of a second, and why nothing that a pickle can name
has any effect. What a pickle may name becomes a description (of a tensor, of an array); everything
else becomes a stand-in that does nothing. A call of one is refused. So is a pickle with others than
calls, unless it holds a module that was saved whole: of that its tensors are taken.

The argument says what to expect: "zip" (the data.pkl of `torch.save`), "legacy" (the start of what
`torch.save` wrote before) or "batch" (a batch of CIFAR-10). The answer is the length of JSON text
and that of pixels, eight bytes each; the text; and of a batch its pixels. Values are tagged lists:

    ["d", [[key, value], ...]]    a dict
    ["l", [...]], ["t", [...]]    a list, a tuple
    ["T", storage, dtype, numel, offset, shape, stride, own dtype]    a tensor
    ["A", "<i8", shape, fortran, text]    an array of NumPy, its bytes in base 64
    ["o", "set"]                  something else that is harmless, by its type

A module is the dict that its `state_dict()` would be.
"""

import binascii
import io
import json
import math
import runpy
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import Any, BinaryIO

MEMORY = 768 << 20
SECONDS = 4
VALUES = 400_000
TENSORS = 50_000
ANSWER = 64 << 20
STORAGES_LIMIT = 50_000
DEPTH = 32
DIMENSIONS = 32
LONGEST = 1000
SMALL = 1 << 63

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
DTYPES = {
    *STORAGES.values(),
    *("uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
}
# What torch's own careful reader knows besides, and what is of no use here.
HARMLESS = {
    "torch": {
        *("device", "Tensor", "memory_format", "strided", "contiguous_format", "channels_last"),
        *("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine"),
        *("per_channel_symmetric", "per_channel_affine_float_qparams"),
        *("qint8", "quint8", "qint32", "quint4x2", "quint2x4"),
        *("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage"),
    },
    "torch.nn.parameter": {"Parameter"},
    "torch.serialization": {"_get_layout"},
    "torch._utils": {
        *("_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage"),
        *("_rebuild_nested_tensor", "_rebuild_wrapper_subclass"),
        "_rebuild_device_tensor_from_numpy",
        "_rebuild_device_tensor_from_cpu_tensor",
    },
    # BackdoorBench keeps images of a small data set beside the weights.
    "PIL.Image": {"Image"},
    "PIL.PngImagePlugin": {"PngImageFile"},
    "PIL.JpegImagePlugin": {"JpegImageFile"},
}
# Numbers that NumPy has in arrays, and how `struct` calls them.
NUMBERS = {
    **{"b1": "?", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q", "f2": "e", "f4": "f", "f8": "d"},
}
# What a module may have among its attributes though it is made by a call.
CALLED = {"functools.partial", "timm.layers.format.Format"}
# Bytes of an array that count as one value.
ARRAY_PIECE = 64


class Other:
    """Something harmless that is not looked into."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class Dict(dict[Any, Any]):
    """An OrderedDict or Counter; attributes that a pickle gives it are dropped."""

    def __setstate__(self, _: Any) -> None:
        pass


class Fixed:
    """A description whose attributes were checked when it was made, and that no pickle changes."""

    def __setstate__(self, _: Any) -> None:
        raise UnpicklingError(f"it sets attributes of a {type(self).__name__}")


class Dtype(Fixed):
    """A dtype of torch."""

    def __init__(self, name: str) -> None:
        self.name = name


class Storage(Fixed):
    """A run of numbers that stands elsewhere in the file."""

    def __init__(self, key: str, dtype: str, numel: int) -> None:
        self.key, self.dtype, self.numel = key, dtype, numel


class Tensor(Fixed):
    """A view of a storage."""

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any, dtype: str) -> None:
        if not isinstance(storage, Storage):
            raise UnpicklingError("it has a tensor without a storage")
        if len(shape) > DIMENSIONS:
            raise UnpicklingError(f"it has a tensor of {len(shape)} dimensions")
        numbers = (offset, *shape, *stride)
        if len(shape) != len(stride) or not all(map(is_size, numbers)):
            raise UnpicklingError("it has a tensor whose shape, stride or offset is none")
        self.storage, self.dtype = storage, dtype
        self.offset, self.shape, self.stride = offset, list(shape), list(stride)


class Refused(UnpicklingError):
    """What a pickle names is the reason."""

    def __init__(self, full: str, more: str = "") -> None:
        super().__init__(f"it holds {full}, which is not plain data{more}")


class StandIn(type):
    """The type of all that stands for a global which is not known."""

    full = ""

    def __call__(cls, *_: Any, **__: Any) -> Any:
        """What a pickle does where `__reduce__` names a function."""
        if cls.full not in CALLED:
            raise Refused(cls.full)
        return type.__call__(cls)

    @property
    def __setstate__(cls) -> Any:
        """A pickle can only give a state to what such a class made, not to the class."""
        raise Refused(cls.full)


class Unknown(metaclass=StandIn):
    """What a class that is not known would have made: its state, and no behaviour."""

    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> "Unknown":
        """Takes the arguments of any class."""
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


def is_module(value: Any) -> bool:
    """Whether a value is a torch.nn.Module, by what one keeps."""
    return (
        isinstance(value, Unknown)
        and isinstance(value.state, dict)
        and all(
            isinstance(value.state.get(name), dict)
            for name in ("_parameters", "_buffers", "_modules")
        )
    )


class NumpyDtype:
    """The dtype of an array; one with fields is refused."""

    def __init__(self, code: Any, *_: Any) -> None:
        # In a pickle of Python 2, text is bytes.
        self.code = code.decode("latin-1") if isinstance(code, bytes) else code
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        # Version, byte order, and what only dtypes with fields or subarrays have.
        if state[1] not in ("<", ">", "|", "=", b"<", b">", b"|", b"="):
            raise UnpicklingError("it has an array with an unknown byte order")
        if any(part is not None for part in state[2:5]):
            raise UnpicklingError(f"it has an array of {self.code!r}, with fields")
        self.order = ">" if state[1] in (">", b">") else "<"

    def numbers(self, raw: bytes) -> list[Any]:
        """What so many bytes are."""
        letter = NUMBERS[self.code]
        return list(struct.unpack(f"{self.order}{len(raw) // int(self.code[1])}{letter}", raw))


class Array:
    """An array of numbers, as NumPy pickles it."""

    def __init__(self, *_: Any) -> None:
        self.shape: list[int] = []
        self.fortran = False
        self.raw = b""
        self.dtype = NumpyDtype("u1")

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, NumpyDtype) or not isinstance(raw, bytes):
            raise UnpicklingError("it has an array without a dtype or numbers")
        if dtype.code not in NUMBERS:
            raise UnpicklingError(f"it has an array of {dtype.code!r}, expected numbers")
        if not all(map(is_size, shape)) or len(shape) > DEPTH:
            raise UnpicklingError("it has an array whose shape is none")
        wanted = math.prod(shape) * int(dtype.code[1])
        if wanted != len(raw):
            raise UnpicklingError(f"it has an array of {wanted} bytes with {len(raw)} in the file")
        self.shape, self.dtype, self.fortran, self.raw = list(shape), dtype, bool(fortran), raw

    def numbers(self) -> list[Any]:
        """All its numbers, in the order in which they are stored."""
        return self.dtype.numbers(self.raw)


def numpy_scalar(dtype: Any, raw: Any = None) -> Any:
    """One number of NumPy's, such as an accuracy or an index, as one of Python's."""
    known = isinstance(dtype, NumpyDtype) and dtype.code in NUMBERS and isinstance(raw, bytes)
    if not known or len(raw) != int(dtype.code[1]):
        return Other()
    (number,) = dtype.numbers(raw)
    return number


def is_size(value: Any) -> bool:
    """Whether a value can be a length or an offset."""
    return type(value) is int and 0 <= value < SMALL


def encode_text(text: Any, encoding: Any) -> bytes:
    """What pickles of protocol 2 make bytes with."""
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise UnpicklingError("it has bytes in an unknown encoding")
    return text.encode("latin-1")


def no_bytes() -> bytes:
    """`bytes()`, what pickles of protocol 2 make none with."""
    return b""


def tensor_v1(storage: Any, offset: Any, shape: Any, stride: Any) -> Tensor:
    """torch._utils._rebuild_tensor."""
    return Tensor(storage, offset, shape, stride, getattr(storage, "dtype", ""))


def tensor_v2(
    storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, meta: Any = None
) -> Tensor | Other:
    """torch._utils._rebuild_tensor_v2; conjugated or negated views are no weights."""
    return Other() if meta else tensor_v1(storage, offset, shape, stride)


def tensor_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    meta: Any = None,
) -> Tensor | Other:
    """torch._utils._rebuild_tensor_v3, whose storage has no dtype."""
    if not isinstance(dtype, Dtype):
        raise UnpicklingError("it has a tensor without a dtype")
    return Other() if meta else Tensor(storage, offset, shape, stride, dtype.name)


def parameter(data: Any, *_: Any) -> Any:
    """torch._utils._rebuild_parameter: the tensor in it."""
    return data


def typed(make: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """torch._tensor._rebuild_from_type_v2: a tensor with attributes, without them."""
    return make(*arguments)


NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): NumpyDtype,
    ("numpy", "ndarray"): Other,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Array for core in ("core", "_core")},
    ("_codecs", "encode"): encode_text,
    ("__builtin__", "bytes"): no_bytes,
}
TORCH: dict[tuple[str, str], Any] = {
    **NUMPY,
    **{(f"numpy.{core}.multiarray", "scalar"): numpy_scalar for core in ("core", "_core")},
    ("collections", "OrderedDict"): Dict,
    ("collections", "Counter"): Dict,
    ("torch", "Size"): tuple,
    ("builtins", "bytearray"): bytearray,
    ("builtins", "set"): set,
    ("builtins", "complex"): complex,
    ("__builtin__", "bytearray"): bytearray,
    ("__builtin__", "set"): set,
    ("__builtin__", "complex"): complex,
    ("torch._utils", "_rebuild_tensor"): tensor_v1,
    ("torch._utils", "_rebuild_tensor_v2"): tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): tensor_v3,
    ("torch._utils", "_rebuild_parameter"): parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): typed,
    **{("torch", name): Dtype(name) for name in DTYPES},
    **{
        (module, name): Dtype(dtype)
        for module in ("torch", "torch.cuda", "torch.storage")
        for name, dtype in STORAGES.items()
    },
    **{(module, name): Other for module, names in HARMLESS.items() for name in names},
}


class Reader(Unpickler):
    """Makes descriptions of what a pickle names; stand-ins have to be refused, or found useful."""

    def __init__(self, file: BinaryIO, known: dict[tuple[str, str], Any], encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self.known = known
        self.storages: dict[str, Storage] = {}
        self.unknown: dict[tuple[str, str], StandIn] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a global."""
        if (module, name) in self.known:
            return self.known[module, name]
        if self.known is not TORCH:
            raise Refused(f"{module}.{name}")
        if (module, name) not in self.unknown:
            made = StandIn(ascii(f"{module}.{name}")[1:-1], (Unknown,), {})
            made.full = f"{module}.{name}"
            self.unknown[module, name] = made
        return self.unknown[module, name]

    def load(self) -> Any:
        """What is pickled; where a global is not known, it must be plain data around a module."""
        try:
            value = super().load()
        except (Refused, MemoryError, RecursionError):
            raise
        except Exception as error:
            if not self.unknown:
                raise
            raise Refused(self._first(), f" ({error})") from error
        if self.unknown and not holds_module(value):
            raise Refused(self._first())
        return value

    def _first(self) -> str:
        return next(iter(self.unknown.values())).full

    def persistent_load(self, pid: Any) -> Any:
        """The storage that a tensor refers to."""
        if pid[0] == "module":  # of the old format, which keeps its source text, too
            return pid[1]
        kind, dtype, key, _, numel, *view = pid
        if kind != "storage" or not isinstance(key, str) or not is_size(numel) or any(view):
            raise UnpicklingError("it refers to something that is no storage")
        if len(key) > LONGEST:
            raise UnpicklingError(f"it holds a storage with a name of {len(key)} characters")
        if not isinstance(dtype, Dtype):
            return Other()
        return self.storages.setdefault(key, Storage(key, dtype.name, numel))


def holds_module(value: Any) -> bool:
    """Whether a value is a module, or a dict with one among its values."""
    inside = dict.values(value) if isinstance(value, dict) else (value,)
    return any(map(is_module, inside))


class Encoder:
    """Turns descriptions into tagged lists, so many and so deep at most."""

    def __init__(self) -> None:
        self.left = VALUES
        self.tensors = 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        """The tagged form of a value."""
        self.left -= 1
        if self.left < 0:
            raise UnpicklingError(f"it holds more than {VALUES} values")
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int) and -SMALL <= value < SMALL:
            return value
        if isinstance(value, str) and len(value) <= LONGEST:
            return value
        if isinstance(value, Tensor):
            # Each time that one is named: a reference takes two bytes here, its answer hundreds.
            self.left -= len(value.shape)
            self.tensors += 1
            if self.tensors > TENSORS:
                raise UnpicklingError(f"it holds more than {TENSORS} tensors")
            storage = value.storage
            own = [storage.key, storage.dtype, storage.numel]
            return ["T", *own, value.offset, value.shape, value.stride, value.dtype]
        if depth >= DEPTH:
            raise UnpicklingError(f"it is nested more than {DEPTH} levels deep")
        if is_module(value):
            return ["d", self._state(value.state, "", depth)]
        if isinstance(value, dict):
            return ["d", [self._pair(*pair, depth) for pair in dict.items(value)]]
        if isinstance(value, list | tuple):
            tag = "l" if isinstance(value, list) else "t"
            return [tag, [self.encode(inner, depth + 1) for inner in value]]
        if isinstance(value, Array):
            self.left -= len(value.raw) // ARRAY_PIECE
            text = binascii.b2a_base64(value.raw, newline=False).decode("ascii")
            return ["A", value.dtype.order + value.dtype.code, value.shape, value.fortran, text]
        return ["o", type(value).__name__]

    def _state(self, state: dict[str, Any], prefix: str, depth: int) -> list[Any]:
        """Pairs of names and tensors, in the order of a state dict."""
        if depth >= DEPTH:
            raise UnpicklingError(f"it is nested more than {DEPTH} levels deep")
        found: list[Any] = []
        passing = state.get("_non_persistent_buffers_set")
        skipped = passing if isinstance(passing, set) else ()
        for kind in ("_parameters", "_buffers"):
            for name, value in dict.items(state[kind]):
                if isinstance(value, Tensor) and not (kind == "_buffers" and name in skipped):
                    found.append(self._pair(self._join(prefix, name), value, depth))
        for name, module in dict.items(state["_modules"]):
            self.left -= 1
            if is_module(module):
                found += self._state(module.state, f"{self._join(prefix, name)}.", depth + 1)
        return found

    def _join(self, prefix: str, name: Any) -> str:
        if not isinstance(name, str) or len(prefix) + len(name) > LONGEST:
            raise UnpicklingError("it holds a module with a name that no module has")
        return prefix + name

    def _pair(self, key: Any, value: Any, depth: int) -> list[Any]:
        if isinstance(key, str) and len(key) > LONGEST:
            raise UnpicklingError(f"it holds a name of {len(key)} characters")
        return [self._key(key), self.encode(value, depth + 1)]

    def _key(self, key: Any) -> Any:
        """As of any value where it is a plain one; of others, such as tuples, the type alone."""
        if isinstance(key, int) and not -SMALL <= key < SMALL:
            return ["o", "int"]
        plain = key is None or isinstance(key, str | int | float)
        return self.encode(key) if plain else ["o", type(key).__name__]


def read_zip(content: bytes) -> tuple[Any, bytes]:
    """The data.pkl in a file of `torch.save`."""
    value = Reader(io.BytesIO(content), TORCH, "utf-8").load()
    return {"content": Encoder().encode(value)}, b""


def read_legacy(content: bytes) -> tuple[Any, bytes]:
    """The five pickles that open a file of `torch.save` before PyTorch 1.6."""
    file = io.BytesIO(content)
    magic, protocol, system = (Reader(file, {}, "utf-8").load() for _ in range(3))
    if (magic, protocol) != (MAGIC, PROTOCOL):
        raise UnpicklingError("it is of another version of PyTorch's old format")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnpicklingError(
            "it was written on a big-endian machine; save it there as safetensors"
        )
    reader = Reader(file, TORCH, "utf-8")
    value = reader.load()
    keys = Reader(file, {}, "utf-8").load()
    if not isinstance(keys, list) or not all(key in reader.storages for key in keys):
        raise UnpicklingError("it lists storages that no tensor has")
    if len(keys) > STORAGES_LIMIT:
        raise UnpicklingError(f"it lists more than {STORAGES_LIMIT} storages")
    found = [reader.storages[key] for key in keys]
    order = [[storage.key, storage.dtype, storage.numel] for storage in found]
    return {"content": Encoder().encode(value), "order": order, "start": file.tell()}, b""


def read_batch(content: bytes) -> tuple[Any, bytes]:
    """The images and labels of a batch of CIFAR-10; Python 2 wrote it, so its keys are bytes."""
    value = Reader(io.BytesIO(content), NUMPY, "bytes").load()
    if type(value) is not dict:
        raise UnpicklingError(f"expected a dict, got a {type(value).__name__}")
    for key in (b"data", b"labels"):
        if key not in value:
            raise UnpicklingError(f"it lacks {key.decode()!r}")
    data, labels = value[b"data"], value[b"labels"]
    if not isinstance(data, Array) or data.dtype.code != "u1":
        got = repr(data.dtype.code) if isinstance(data, Array) else type(data).__name__
        raise UnpicklingError(f"data: expected an array of bytes, got {got}")
    if isinstance(labels, Array) and len(labels.shape) == 1:
        labels = labels.numbers()
    if not isinstance(labels, list | tuple) or not all(map(is_size, labels)):
        raise UnpicklingError("labels: expected whole numbers")
    if len(labels) > VALUES:
        raise UnpicklingError(f"labels: expected at most {VALUES}")
    answer = {"shape": data.shape, "fortran": data.fortran, "labels": list(labels)}
    return answer, data.raw


READERS: dict[str, Callable[[bytes], tuple[Any, bytes]]] = {
    "zip": read_zip,
    "legacy": read_legacy,
    "batch": read_batch,
}


def answer(kind: str, content: bytes) -> tuple[Any, bytes]:
    """What a reader found, or why there is nothing."""
    try:
        return READERS[kind](content)
    except MemoryError:
        return {"error": f"reading it takes more than {MEMORY >> 20} MiB of memory"}, b""
    except RecursionError:
        return {"error": "it is nested too deep"}, b""
    except UnpicklingError as error:
        return {"error": str(error)[:LONGEST]}, b""
    except Exception as error:  # a broken or hostile pickle can fail in any way
        return {"error": f"it is broken ({type(error).__name__}: {str(error)[:LONGEST]})"}, b""


def reply(kind: str, content: bytes) -> bytes:
    """All that is written as the answer."""
    found, payload = answer(kind, content)
    text = json.dumps(found).encode("ascii")
    if len(text) > ANSWER:
        text = json.dumps({"error": "it holds too much text"}).encode("ascii")
    lengths = (len(part).to_bytes(8, "little") for part in (text, payload))
    return b"".join([*lengths, text, payload])


def main() -> None:
    """Read, answer, end."""
    # No package can be imported here, and this file is none.
    limits = runpy.run_path(str(Path(__file__).with_name("child_limits.py")))
    limits["set_limits"](MEMORY, SECONDS)
    sys.stdout.buffer.write(reply(sys.argv[1], sys.stdin.buffer.read()))


if __name__ == "__main__":
    main()
