"""A program that reads one pickle from standard input and answers with plain data.

It runs in a process of its own, with limits that it sets itself, and imports neither numpy nor
torch: that is why it starts in some hundredths of a second, and why nothing that a pickle can name
has any effect. What a pickle may name becomes a description (of a tensor, of an array); everything
else is refused.

The argument says what to expect: "zip" (the data.pkl of `torch.save`), "legacy" (the start of what
`torch.save` wrote before) or "batch" (a batch of CIFAR-10). The answer is the length of JSON text
and that of pixels, eight bytes each; the text; and of a batch its pixels. Values are tagged lists:

    ["d", [[key, value], ...]]    a dict
    ["l", [...]], ["t", [...]]    a list, a tuple
    ["T", storage, dtype, numel, offset, shape, stride, own dtype]    a tensor
    ["o", "set"]                  something else that is harmless, by its type
"""

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
    # Training scripts keep an accuracy as a number of NumPy's.
    "numpy": {"dtype"},
    "numpy.core.multiarray": {"scalar"},
    "numpy._core.multiarray": {"scalar"},
}


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


class NumpyDtype:
    """The dtype of an array; one with fields or with objects is refused."""

    def __init__(self, code: Any, *_: Any) -> None:
        # In a pickle of Python 2, text is bytes.
        plain = code.decode("latin-1") if isinstance(code, bytes) else code
        if plain not in ("u1", "i1", "i2", "i4", "i8", "u2", "u4", "u8"):
            raise UnpicklingError(f"it has an array of {plain!r}, expected whole numbers")
        self.code, self.order = plain, "<"

    def __setstate__(self, state: Any) -> None:
        # Version, byte order, and what only dtypes with fields or subarrays have.
        if state[1] not in ("<", ">", "|", "=", b"<", b">", b"|", b"="):
            raise UnpicklingError("it has an array with an unknown byte order")
        if any(part is not None for part in state[2:5]):
            raise UnpicklingError("it has an array with fields")
        self.order = ">" if state[1] in (">", b">") else "<"


class Array:
    """An array of whole numbers, as NumPy pickles it."""

    def __init__(self, *_: Any) -> None:
        self.shape: list[int] = []
        self.fortran = False
        self.raw = b""
        self.dtype = NumpyDtype("u1")

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, NumpyDtype) or not isinstance(raw, bytes):
            raise UnpicklingError("it has an array without a dtype or numbers")
        if not all(map(is_size, shape)) or len(shape) > DEPTH:
            raise UnpicklingError("it has an array whose shape is none")
        wanted = math.prod(shape) * int(dtype.code[1])
        if wanted != len(raw):
            raise UnpicklingError(f"it has an array of {wanted} bytes with {len(raw)} in the file")
        self.shape, self.dtype, self.fortran, self.raw = list(shape), dtype, bool(fortran), raw

    def numbers(self) -> list[int]:
        """All its numbers, in the order in which they are stored."""
        kind, width = self.dtype.code[0], self.dtype.code[1]
        letter = {"1": "b", "2": "h", "4": "i", "8": "q"}[width]
        letter = letter.upper() if kind == "u" else letter
        count = len(self.raw) // int(width)
        return list(struct.unpack(f"{self.dtype.order}{count}{letter}", self.raw))


def is_size(value: Any) -> bool:
    """Whether a value can be a length or an offset."""
    return type(value) is int and 0 <= value < SMALL


def encode_text(text: Any, encoding: Any) -> bytes:
    """What pickles of protocol 2 make bytes with."""
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise UnpicklingError("it has bytes in an unknown encoding")
    return text.encode("latin-1")


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


TORCH: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Dict,
    ("collections", "Counter"): Dict,
    ("torch", "Size"): tuple,
    ("_codecs", "encode"): encode_text,
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
NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): NumpyDtype,
    ("numpy", "ndarray"): Other,
    ("numpy.core.multiarray", "_reconstruct"): Array,
    ("numpy._core.multiarray", "_reconstruct"): Array,
    ("_codecs", "encode"): encode_text,
}


class Reader(Unpickler):
    """Makes descriptions of what a pickle names, and refuses what has none."""

    def __init__(self, file: BinaryIO, known: dict[tuple[str, str], Any], encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self.known = known
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a global."""
        if (module, name) not in self.known:
            raise UnpicklingError(f"it holds {module}.{name}, which is not plain data")
        return self.known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """The storage that a tensor refers to."""
        kind, dtype, key, _, numel, *view = pid
        if kind != "storage" or not isinstance(key, str) or not is_size(numel) or any(view):
            raise UnpicklingError("it refers to something that is no storage")
        if len(key) > LONGEST:
            raise UnpicklingError(f"it holds a storage with a name of {len(key)} characters")
        if not isinstance(dtype, Dtype):
            return Other()
        return self.storages.setdefault(key, Storage(key, dtype.name, numel))


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
        if isinstance(value, dict):
            return ["d", [self._pair(*pair, depth) for pair in dict.items(value)]]
        if isinstance(value, list | tuple):
            tag = "l" if isinstance(value, list) else "t"
            return [tag, [self.encode(inner, depth + 1) for inner in value]]
        return ["o", type(value).__name__]

    def _pair(self, key: Any, value: Any, depth: int) -> list[Any]:
        if isinstance(key, str) and len(key) > LONGEST:
            raise UnpicklingError(f"it holds a name of {len(key)} characters")
        plain = key is None or isinstance(key, str | int | float)
        return [self.encode(key if plain else Other(), DEPTH), self.encode(value, depth + 1)]


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
        raise UnpicklingError("data: expected an array of bytes")
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
