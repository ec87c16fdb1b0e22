"""The pickles that picklescan and modelscan are tested with, made anew from what is said of them.

Each lies in three places: alone, as data.pkl in a checkpoint, and as a batch of CIFAR-10. What they
do is harmless here: they make a folder, where they do anything.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile import pickling as p
from tests.hostile.case import Case, case, harm
from tests.hostile.records import with_batches

Pickle = Callable[[Path], bytes]
# Files that call one function, with that function: file, module, name.
CALLS = Path(__file__).with_name("scanners.txt").read_text("ascii").splitlines()


def code(path: Path) -> str:
    """A Python expression that does harm."""
    return f"__import__('os').mkdir({str(harm(path))!r})"


def command(path: Path) -> str:
    """A shell command that does harm."""
    return f"mkdir '{harm(path)}'"


def evaluated(protocol: int) -> Pickle:
    """A pickle that has Python evaluate code."""
    module = "builtins" if protocol >= 3 else "__builtin__"
    return lambda path: p.call(protocol, module, "eval", code(path))


def ordered(protocol: int) -> Pickle:
    """A pickle that has the system run a command."""
    return lambda path: p.call(protocol, "posix", "system", command(path))


def calling(module: str, name: str) -> Pickle:
    """A pickle that calls a function with code."""
    return lambda path: p.call(4, module, name, code(path))


def put_and_get(path: Path) -> bytes:
    """os.system from the memo, with the name of something harmless written between."""
    names = ("os", 2), ("system", 3), ("torch", 0), ("LongStorage", 1)
    memo = "".join(f"V{name}\np{place}\n0" for name, place in names)
    return f"{memo}g2\ng3\n".encode() + b"\x93(" + p.value(command(path)) + b"tR."


def called_on(tool: str, module: str = "operator") -> Pickle:
    """os.system through `operator`, without its name as a global."""

    def make(path: Path) -> bytes:
        system = p.called(p.named("builtins", "__import__"), p.value("os"))
        words = [p.value("system")]
        if tool == "methodcaller":
            getter = p.called(p.named(module, tool), *words, p.value(command(path)))
            return p.program(p.called(getter, system), 4)
        getter = p.called(p.named(module, tool), *words)
        return p.program(p.called(p.called(getter, system), p.value(command(path))), 4)

    return make


def compiled(path: Path) -> bytes:
    """Code compiled and evaluated with the globals of the reader, with the oldest operations."""
    text = repr(code(path)).encode()
    return (
        b"c__builtin__\nglobals\n(tRp100\n0c__builtin__\ncompile\n(S" + text + b"\nS''\nS'eval'\n"
        b"tRp101\n0c__builtin__\neval\n(g101\ng100\ntRp102\n0g102\n."
    )


def by_getattr(path: Path) -> bytes:
    """A function as an attribute of another."""
    call = p.called(
        p.named("builtins", "getattr"), p.named("builtins", "eval"), p.value("__call__")
    )
    return p.program(p.called(call, p.value(code(path))), 4)


def in_partial(path: Path) -> bytes:
    """torch.load of a file, with its arguments bound before."""
    load = p.called(p.named("functools", "partial"), p.named("torch.serialization", "load"))
    return p.program(p.called(load, p.value(str(path))), 4)


def cloudpickled(path: Path) -> bytes:
    """A function, as cloudpickle writes one."""
    module = "cloudpickle.cloudpickle"
    kind = p.called(p.named(module, "_builtin_type"), p.value("CodeType"))
    cell = p.called(p.named(module, "_make_empty_cell"))
    return p.program(p.called(p.named(module, "_make_function"), kind, cell), 4)


def overridden(path: Path) -> bytes:
    """A module among the globals, with an attribute of it replaced."""
    state = p.dictionary(_rebuild_tensor=p.named("os", "system"))
    replaced = p.named("torch", "_utils") + state + b"b0"
    call = p.called(p.named("torch._utils", "_rebuild_tensor"), p.value(command(path)))
    return p.program(replaced + call)


def after_harm(rest: bytes) -> Pickle:
    """A pickle that does harm, and then something that can't be followed."""
    return lambda path: p.program(
        p.called(p.named("os", "system"), p.value(command(path))) + b"0" + rest, 4
    )


def plain(protocol: int) -> Pickle:
    """A pickle without anything bad, nor anything of use."""
    return lambda path: pickle.dumps(["a", "b", "c"], protocol)


# What is said of the pickle where it is read at all.
HANDMADE: dict[str, tuple[Pickle, str]] = {
    **{f"benign0_v{n}": (plain(n), "got a list") for n in range(6)},
    **{f"malicious1_v{n}": (evaluated(n), "__builtin__.eval") for n in range(3)},
    **{f"malicious1_v{n}": (evaluated(n), "builtins.eval") for n in range(3, 6)},
    **{f"malicious2_v{n}": (ordered(n), "posix.system") for n in range(6)},
    "malicious0": (compiled, "__builtin__.globals"),
    "malicious6": (lambda path: plain(4)(path) + ordered(4)(path), "got a list"),
    "malicious10": (
        lambda path: b"(S" + repr(code(path)).encode() + b"\ni__builtin__\nexec\n.",
        "__builtin__.exec",
    ),
    "malicious11": (put_and_get, "os.system"),
    "malicious-invalid-bytes": (lambda path: put_and_get(path) + b"\n\n\t\t", "os.system"),
    "malicious12": (called_on("attrgetter"), "operator.attrgetter"),
    "malicious12-modelscan": (
        lambda path: p.program(
            p.called(p.named("pickle", "loads"), p.value(ordered(4)(path))) + b"0N", 5
        ),
        "pickle.loads",
    ),
    "malicious13a": (lambda path: p.call(0, "cPickle", "loads", "I12345\n."), "cPickle.loads"),
    "malicious13b": (lambda path: p.call(4, "_pickle", "loads", "I12345\n."), "_pickle.loads"),
    "malicious15a": (
        lambda path: p.program(
            p.called(p.named("__builtin__", "getattr"), p.named("bdb", "Bdb"), p.value("run"))
        ),
        "__builtin__.getattr",
    ),
    "malicious19": (in_partial, "functools.partial"),
    "malicious23": (
        lambda path: b"S'os'\nS'system'\n\x93S" + repr(command(path)).encode() + b"\n\x85R.",
        "os.system|STACK_GLOBAL requires str",
    ),
    "broken_model": (lambda path: b"cbuiltins\nexec\n(X\x7f\x00\x00\x00pass.", "builtins.exec"),
    "not_a_pickle": (lambda path: b"c\xff\xfe\x80\nvitpose\n.", "broken|codec"),
    "keyerror-exploit": (after_harm(b"\x8c\x02os\x94h\x03h\x00\x93K\x42"), "os.system"),
    "type-confusion-exploit": (
        after_harm(b"J\x2a\x00\x00\x00\x94\x8c\x02os\x94h\x00h\x01\x93K\x42"),
        "os.system",
    ),
    "sys_module_override_sploit": (overridden, "torch._utils"),
    "GHSA-46h3-79wf-xr6c": (called_on("attrgetter", "_operator"), "_operator.attrgetter"),
    "GHSA-955r-x9j8-7rhh": (called_on("methodcaller", "_operator"), "_operator.methodcaller"),
    "GHSA-84r2-jw7c-4r5q": (
        lambda path: p.program(
            p.called(
                p.called(
                    p.named("operator", "methodcaller"),
                    p.value("system"),
                    p.value(command(path)),
                ),
                p.called(p.named("pydoc", "locate"), p.value("os")),
            )
        ),
        "operator.methodcaller",
    ),
    "GHSA-9m3x-qqw2-h32h": (by_getattr, "builtins.getattr"),
    "cloudpickle_codeinjection": (
        cloudpickled,
        r"it holds cloudpickle.cloudpickle._(make_function|builtin_type)",
    ),
    "unsafe-dill": (
        lambda path: p.program(
            p.called(p.named("dill._dill", "_load_type"), p.value("CodeType")) + b"0" + p.listed()
        ),
        "dill._dill._load_type",
    ),
    "unsafe-keras": (
        lambda path: p.program(
            p.called(p.named("builtins", "exec"), p.value(code(path)))
            + p.named("keras.src.saving.pickle_utils", "deserialize_model_from_bytecode")
        ),
        "builtins.exec",
    ),
    "safe-keras": (
        lambda path: p.program(
            p.named("keras.src.saving.pickle_utils", "deserialize_model_from_bytecode")
        ),
        "keras.src.saving",
    ),
    "unsafe_zip_pytorch": (
        # The call is left on the stack below the state dict.
        lambda path: p.program(
            p.called(p.named("posix", "system"), p.value(command(path)))
            + p.dictionary(w=p.tensor())
        ),
        "posix.system",
    ),
    "joblib": (
        lambda path: p.program(
            p.named("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81" + p.dictionary() + b"b"
        ),
        "joblib.numpy_pickle.NumpyArrayWrapper",
    ),
}


def pickles() -> dict[str, tuple[Pickle, str]]:
    """Every pickle by the name of its file, with what is said of it."""
    found = dict(HANDMADE)
    for line in CALLS:
        file, module, name = line.split()
        says = f"it holds {module}.{name}, which is not plain data"
        found[file] = (calling(module, name), says)
    return found


def cases() -> Iterator[Case]:
    """Each pickle in its three places."""
    for name, (build, says) in pickles().items():

        def alone(path: Path, build: Pickle = build) -> None:
            path.write_bytes(build(path))

        def packed(path: Path, build: Pickle = build) -> None:
            path.write_bytes(p.archive(build(path)))

        no_format = "torch.save did not write it|begins with"
        yield case(f"{name}, alone", "checkpoint", alone, no_format, f"{name}.pkl")
        yield case(f"{name}, in a checkpoint", "checkpoint", packed, says)
        yield case(name, "cifar10", with_batches(build), says)
