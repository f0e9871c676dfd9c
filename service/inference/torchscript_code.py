"""What the code in a TorchScript archive may do, looked at before torch sees it.

An archive is a ZIP file with code in it, which torch runs as it loads the archive and for every
state. A policy is a chain of `torch.linear` and `torch.relu`, spread over modules that call each
other. Other code, such as a loop or a method `__setstate__`, can run without end. The code is a
subset of Python's syntax, so Python's own parser reads it; nothing of it is run here.
"""

import ast
import io
import re
import zipfile
import zlib

OPERATORS = ("torch.linear", "torch.relu")
CALLS_LIMIT = 400  # of operators and modules, for one state
CODE_LIMIT = 100_000  # bytes of all code
ENTRIES_LIMIT = 1_000  # files in an archive
SIZE_LIMIT = 64 * 2**20  # bytes of all files; as large as an artifact may be
CODE = re.compile(r"[^/]+/code/(__torch__(?:/[A-Za-z0-9_]+)*)\.py")
DEBUGGING = re.compile(r"[^/]+/code/.*\.debug_pkl")  # for debuggers alone, and left out
DATA = re.compile(
    r"[^/]+/(data/\d+|data\.pkl|constants\.pkl|constants/\d+|traced_inputs/\d+|traced_inputs\.pkl"
    r"|version|byteorder|\.data/serialization_id|\.format_version|\.storage_alignment)"
)


class CodeError(ValueError):
    """Raised where an archive's code does what no policy does; says what."""


def checked_archive(content: bytes) -> bytes:
    """Return an archive that holds what was checked and nothing else.

    It is packed anew, so that torch reads the same files as were read here. Raises `CodeError`, and
    `ValueError` for bytes that are no archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = _read(archive)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise ValueError(f"is no ZIP archive that can be read: {error}") from error

    _check_code({name: text for name, text in files.items() if CODE.fullmatch(name)})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return packed.getvalue()


def _read(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Return the files of an archive by their names."""
    entries = archive.infolist()
    if len(entries) > ENTRIES_LIMIT or sum(entry.file_size for entry in entries) > SIZE_LIMIT:
        raise CodeError("holds more files, or larger ones, than any policy")

    files: dict[str, bytes] = {}
    for entry in entries:
        name = entry.filename
        if DEBUGGING.fullmatch(name):
            continue
        if not (CODE.fullmatch(name) or DATA.fullmatch(name)):
            raise CodeError(f"holds the file {name[:100]!r}; a policy has none of this name")
        if name in files:
            raise CodeError(f"holds the file {name[:100]!r} twice")
        with archive.open(entry) as file:
            files[name] = file.read(SIZE_LIMIT)
    if len({name.partition("/")[0] for name in files}) > 1:
        raise CodeError("holds more than one archive")
    return files


def _check_code(files: dict[str, bytes]) -> None:
    """Check that the modules call a bounded number of the allowed operators."""
    if sum(map(len, files.values())) > CODE_LIMIT:
        raise CodeError(f"holds more than {CODE_LIMIT:,} bytes of code")

    modules: dict[str, _Module] = {}
    for name, text in files.items():
        match = CODE.fullmatch(name)
        assert match is not None  # noqa: S101 - by the caller's choice
        place = match[1].replace("/", ".")
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise CodeError(f"holds code that cannot be read: {type(error).__name__}") from error
        for statement in tree.body:
            module = _Module(statement)
            if modules.setdefault(f"{place}.{module.name}", module) is not module:
                raise CodeError(f"holds the module {module.name[:100]!r} twice")

    counts: dict[str, int] = {}
    for name in modules:
        _count_calls(name, modules, counts, ())


def _count_calls(
    name: str, modules: dict[str, "_Module"], counts: dict[str, int], callers: tuple[str, ...]
) -> int:
    """Return how many operators and modules a module calls, by itself and by others."""
    if name in counts:
        return counts[name]
    if name in callers or name not in modules:
        raise CodeError(f"calls the module {name[:100]!r}, which calls it or is not there")
    if len(callers) > CALLS_LIMIT:
        raise CodeError(f"calls more than {CALLS_LIMIT} operators and modules")

    module = modules[name]
    count = module.operators + len(module.callees)
    for callee in module.callees:
        count += _count_calls(callee, modules, counts, (*callers, name))
        if count > CALLS_LIMIT:
            break
    if count > CALLS_LIMIT:
        raise CodeError(f"calls more than {CALLS_LIMIT} operators and modules")
    counts[name] = count
    return count


class _Module:
    """One class of the code: what its `forward` calls."""

    def __init__(self, statement: ast.stmt) -> None:
        """Read a class. Raises `CodeError` for anything that no policy holds."""
        if not isinstance(statement, ast.ClassDef) or _dotted(statement.bases) != "Module":
            raise _unknown(statement)
        self.name = statement.name
        self.operators = 0
        self.callees: list[str] = []  # names of modules, each as often as it is called
        self._types: dict[str, str] = {}  # of the module's attributes
        self._values: dict[str, str] = {}  # names in `forward` that stand for an attribute

        methods = []
        for member in statement.body:
            match member:
                case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=None):
                    self._types[name] = ast.unparse(annotation)
                case ast.Assign(
                    targets=[
                        ast.Subscript(
                            value=ast.Name(id="__annotations__"), slice=ast.Constant(value=name)
                        )
                    ],
                    value=annotation,
                ):
                    self._types[str(name)] = ast.unparse(annotation)
                case ast.Assign(
                    targets=[ast.Name(id="__parameters__" | "__buffers__")], value=ast.List()
                ):
                    pass
                case ast.FunctionDef(name="forward", decorator_list=[]):
                    methods.append(member)
                case _:
                    raise _unknown(member)
        for method in methods:
            self._read_forward(method)

    def _read_forward(self, method: ast.FunctionDef) -> None:
        parameters = method.args
        if parameters.defaults or parameters.kw_defaults or parameters.vararg or parameters.kwarg:
            raise _unknown(parameters)
        for statement in method.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self._assign(name, value)
                case ast.Return(value=ast.expr() as value):
                    self._read_value(value)
                case _:
                    raise _unknown(statement)

    def _assign(self, name: str, value: ast.expr) -> None:
        attribute = self._attribute(value)
        if attribute is None and isinstance(value, ast.Name):
            attribute = self._values.get(value.id)
        if attribute is None:
            self._read_value(value)
            self._values.pop(name, None)
        else:
            self._values[name] = attribute

    def _read_value(self, value: ast.expr) -> None:
        """Count what an expression calls: an operator, or the `forward` of a module."""
        match value:
            case ast.Name():
                return
            case ast.Call(func=ast.Attribute(value=target, attr="forward"), keywords=[]):
                self.callees.append(self._module_type(target))
            case ast.Call(func=function, keywords=[]) if _dotted([function]) in OPERATORS:
                self.operators += 1
            case _ if self._attribute(value) is not None:
                return
            case _:
                raise _unknown(value)
        for argument in value.args:
            self._read_value(argument)

    def _module_type(self, target: ast.expr) -> str:
        """Return the name of the module that an expression stands for."""
        attribute = self._attribute(target)
        if isinstance(target, ast.Name):
            attribute = self._values.get(target.id)
        if attribute is None or attribute not in self._types:
            raise _unknown(target)
        return self._types[attribute]

    @staticmethod
    def _attribute(value: ast.expr) -> str | None:
        """Return the attribute of `self` that an expression is; None where it is none."""
        match value:
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return name
            case ast.Call(
                func=ast.Name(id="getattr"),
                args=[ast.Name(id="self"), ast.Constant(value=str(name))],
                keywords=[],
            ):
                return name
        return None


def _dotted(expressions: list[ast.expr]) -> str:
    """Return the one expression as text; nothing where there are more."""
    return ast.unparse(expressions[0]) if len(expressions) == 1 else ""


def _unknown(node: ast.AST) -> CodeError:
    """Return the error of code that no policy holds."""
    text = " ".join(ast.unparse(node).split())[:100]
    return CodeError(
        f"holds the code {text!r}; a policy calls {' and '.join(OPERATORS)}, and no more"
    )
