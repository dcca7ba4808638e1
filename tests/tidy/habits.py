"""The habits of this code as pure functions: source text in, what breaks the habit out, as `line 3: what`.

The rules are those of the design (cores and shells) and of taste (no stray prints, no test that sleeps). What ruff,
mypy and import-linter see already is left to them.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator

# A core gets time, random bytes and messages as arguments and gives back what to send and store; it never waits.
IMPURE_MODULES = frozenset(
    "asyncio concurrent glob importlib lmdb mmap multiprocessing os pathlib queue random sched secrets select selectors"
    " shutil signal socket socketserver ssl subprocess sys tempfile threading time urllib uuid zmq".split()
)
IMPURE_CALLS = frozenset(
    "breakpoint exec eval input open print __import__"
    " datetime.datetime.now datetime.datetime.today datetime.datetime.utcnow datetime.date.today random.Random".split()
)
# A source of chance that a core is given, seeded by whoever gives it: its type may be named.
TYPES_OF_ARGUMENTS = frozenset({"random.Random"})
# Libraries of cryptography draw random bytes by themselves where a core has to be given them.
RANDOM_CALL = re.compile(r"(cryptography|nacl)\..*(\.generate(_\w+)?|random\w*)$")

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
ASSERTING_HELPER = re.compile(r"_*(check|verify|assert|expect)_")


def impurities(source: str) -> list[str]:
    """What a core may not have: modules and calls that reach the outside, and anything that waits."""
    tree = ast.parse(source)
    found = [
        f"line {line}: imports {module}"
        for line, module in imports(tree)
        if module.split(".")[0] in IMPURE_MODULES and module not in TYPES_OF_ARGUMENTS
    ]
    for call, name in calls(tree):
        if name in IMPURE_CALLS or RANDOM_CALL.match(name):
            found.append(f"line {call.lineno}: calls {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await):
            found.append(f"line {node.lineno}: waits ({type(node).__name__})")
        elif isinstance(node, ast.comprehension) and node.is_async:
            found.append(f"line {node.target.lineno}: waits (async comprehension)")
    return found


def imports_of(source: str, package: str) -> list[str]:
    """Where `package`, or something in it, is imported."""
    return [
        f"line {line}: imports {module}"
        for line, module in imports(ast.parse(source))
        if module == package or module.startswith(package + ".")
    ]


def prints(source: str) -> list[str]:
    """Calls of print."""
    return [f"line {call.lineno}: prints" for call, name in calls(ast.parse(source)) if name == "print"]


def sleeps(source: str) -> list[str]:
    """Calls that let time pass; `asyncio.sleep(0)` only lets others run."""
    found = []
    for call, name in calls(ast.parse(source)):
        yields = name == "asyncio.sleep" and len(call.args) == 1 and is_zero(call.args[0])
        if name in ("time.sleep", "asyncio.sleep") and not yields:
            found.append(f"line {call.lineno}: sleeps; wait for the thing itself, with a deadline")
    return found


def swallowed_exceptions(source: str) -> list[str]:
    """Handlers that catch everything and leave no trace of it."""
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            found.append(f"line {node.lineno}: bare except")
        elif catches_all(node.type) and all(does_nothing(statement) for statement in node.body):
            found.append(f"line {node.lineno}: swallows every exception")
    for call, name in calls(tree):
        if name == "contextlib.suppress" and any(catches_all(argument) for argument in call.args):
            found.append(f"line {call.lineno}: suppresses every exception")
    return found


def unfinished(source: str) -> list[str]:
    """Comments and docstrings that say that something is still to be done."""
    texts = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            texts.append((node.body[0].lineno if node.body else 1, ast.get_docstring(node) or ""))
    return [f"line {line}: {match[0]}" for line, text in texts if (match := UNFINISHED.search(text))]


def missing_docstring(source: str) -> list[str]:
    """Whether the module says what it is."""
    return [] if ast.get_docstring(ast.parse(source)) else ["line 1: the module has no docstring"]


def tests_without_assertion(source: str) -> list[str]:
    """Test functions that cannot fail but by accident.

    An assertion is `assert`, `pytest.raises` or `pytest.warns`, or a helper whose name starts with check_, verify_,
    assert_ or expect_.
    """
    return [
        f"line {function.lineno}: {function.name} asserts nothing"
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and function.name.startswith("test_")
        and not any(is_assertion(node) for node in ast.walk(function))
    ]


def too_long(source: str, limit: int) -> list[str]:
    """Whether there are more lines than `limit`: one file is one idea."""
    lines = source.count("\n")
    return [f"line {limit}: the file goes on to line {lines}; is it one idea?"] if lines > limit else []


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported; `from a import b` is a.b, as b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Calls and what they call, as a dotted name from where it was imported, whatever it is called here."""
    origins = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".")[0]
                origins[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom) and node.module:
            origins |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := dotted_name(node.func)):
            first, *rest = name.split(".")
            yield node, ".".join([origins.get(first, first), *rest])


def dotted_name(node: ast.expr) -> str:
    """`a.b.c` of names and attributes, or nothing where it starts with something else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            before = dotted_name(value)
            return f"{before}.{attribute}" if before else ""
        case _:
            return ""


def is_zero(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == 0


def catches_all(node: ast.expr) -> bool:
    caught = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(dotted_name(each) in ("Exception", "BaseException") for each in caught)


def does_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Continue() | ast.Expr(value=ast.Constant()):
            return True
        case _:
            return False


def is_assertion(node: ast.AST) -> bool:
    match node:
        case ast.Assert():
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in ("raises", "warns") or ASSERTING_HELPER.match(name) is not None
        case _:
            return False
