"""Would the tests notice a fault? Changes a module in small ways, one at a time and in memory only, and runs them.

`python mutants.py <module> <test file>` prints, as JSON, the changes that no test noticed. A change is
tried in a process of its own, forked from one in which all is imported: a fifth of a second instead of ten.
"""

import ast
import importlib
import inspect
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

AT_ONCE = 2
LONGEST = 60  # seconds, after which a change has been noticed: it does not end
_OTHER = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Mod: ast.FloorDiv, ast.And: ast.Or,
    ast.Or: ast.And, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Give each changed source with what was changed: `_hash: 'a % b' → 'a // b'`.

    Parameters
    ----------
    source
        A module's.
    """
    tree = ast.parse(source)
    for top in tree.body:
        name = getattr(top, "name", "module")
        if isinstance(top, ast.Expr):
            continue
        for parent, field, place, node in list(_places(top)):
            for other in _alternatives(node):
                before = ast.unparse(node)
                _put(parent, field, place, other)
                yield f"{name}, line {node.lineno}: {before!r} → {ast.unparse(other)!r}", ast.unparse(tree)
                _put(parent, field, place, node)


def _places(top: ast.AST) -> Iterator[tuple[Any, str, int | None, Any]]:
    """Find what can be changed: all but annotations, decorators and docstrings."""
    for field, value in ast.iter_fields(top):
        if field in {"annotation", "returns", "decorator_list"}:
            continue
        for place, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if isinstance(node, ast.AST) and not docstring:
                if hasattr(node, "lineno"):
                    yield top, field, place, node
                yield from _places(node)


def _put(parent: Any, field: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[place] = node


def _alternatives(node: Any) -> Iterator[ast.AST]:
    """Give what could stand in a node's place by mistake."""
    match node:
        case ast.Constant(value=bool() | int() | str() as value):
            yield ast.Constant(
                not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else f"{value}?"
            )
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in _OTHER:
            yield _with(node, op=_OTHER[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in _OTHER:
            yield _with(node, ops=[_OTHER[type(op)]()])
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.If(test=test) | ast.IfExp(test=test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Return(value=ast.expr()):
            yield ast.Return()
        case ast.Assign(targets=[ast.Subscript()]):
            yield ast.Pass()
        case ast.Call(keywords=keywords):
            for keyword in keywords:
                yield _with(node, keywords=[other for other in keywords if other is not keyword])


def _with(node: Any, **changed: Any) -> Any:
    return type(node)(**({field: getattr(node, field) for field in node._fields} | changed))


class _QuickFirst:
    """Runs the tests that need many examples last."""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: hasattr(item.obj, "hypothesis"))


def run(tests: str) -> int:
    """Run a test file until its first failure, and give pytest's exit code; 0 is healthy."""
    options = "-x -q --no-header --tb=no --hypothesis-profile=quick -p no:cacheprovider -p no:unraisableexception"
    return int(pytest.main([*options.split(), tests], plugins=[_QuickFirst()]))


def survivors(module: Any, tests: str) -> list[str]:
    """Try each change in a process of its own; give those under which all tests pass.

    Parameters
    ----------
    module
        The module to change.
    tests
        The test file.
    """
    running: dict[int, str] = {}
    found = []

    def wait() -> None:
        process, status = os.wait()
        what, code = running.pop(process), os.waitstatus_to_exitcode(status)
        if code > pytest.ExitCode.INTERRUPTED:
            sys.exit(f"{tests} could not be run with {what}: pytest ended with {code}")
        if code == pytest.ExitCode.OK:
            found.append(what)

    for what, source in mutants(inspect.getsource(module)):
        if len(running) == AT_ONCE:
            wait()
        process = os.fork()
        if not process:
            signal.alarm(LONGEST)
            os._exit(_try(module, source, tests))
        running[process] = what
    while running:
        wait()
    return found


def _try(module: Any, source: str, tests: str) -> int:
    try:
        exec(compile(source, module.__file__, "exec"), module.__dict__)  # noqa: S102, our own source with one change
        return run(tests)
    except BaseException:  # a module that cannot be imported has been noticed
        return 1


if __name__ == "__main__":
    output, sys.stdout = sys.stdout, sys.stderr
    _, name, path = sys.argv
    if run(path) != 0:
        sys.exit(f"{path} fails before anything is changed")
    json.dump(survivors(importlib.import_module(name), path), output)
