"""Check the shapes in the signatures of iclens whenever a test calls one.

jaxtyping's own option (`--jaxtyping-packages`) wraps every function, also the many that take no tensor and those that
are made anew at each call. It more than doubles the time of some tests. This hook wraps the functions and dataclasses
whose annotations name a shape, and no others; mypy checks the other types. `make test-all` gives jaxtyping's option,
which then takes precedence.
"""

from __future__ import annotations

import ast
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

PACKAGE = "iclens"

# Names that no module has, and that a class does not mangle.
IMPORTS = """
from tests.typed import check as __check__
from jaxtyping import jaxtyped as __with_shapes__
"""


def _names_shapes(module):
    """Whether what is imported from a module is a shape: jaxtyping's own, or one with a name, from `shapes`."""
    return module == "jaxtyping" or (module or "").endswith(".shapes")


class Wrapped(ast.NodeTransformer):
    """A module whose functions and dataclasses with shapes are wrapped."""

    def visit_Module(self, node):
        imported = [one for one in node.body if isinstance(one, ast.ImportFrom)]
        shaped = [one for one in imported if _names_shapes(one.module)]
        self._shapes = {name.asname or name.name for one in shaped for name in one.names}
        self.generic_visit(node)
        first = max((node.body.index(one) for one in imported if one.module == "__future__"), default=-1) + 1
        node.body[first:first] = ast.parse(IMPORTS).body
        return ast.fix_missing_locations(node)

    def visit_FunctionDef(self, node):
        # As the innermost decorator: a registry then keeps the wrapped function.
        if self._names_a_shape(node.args, node.returns):
            node.decorator_list.append(self._wrapper())
        return node

    def visit_ClassDef(self, node):
        self.generic_visit(node)
        # As the outermost decorator: `__init__` exists once `dataclass` has run.
        if self._names_a_shape(*(one.annotation for one in node.body if isinstance(one, ast.AnnAssign))):
            node.decorator_list.insert(0, self._wrapper())
        return node

    def _names_a_shape(self, *annotations):
        inside = (part for one in annotations if one is not None for part in ast.walk(one))
        return any(isinstance(part, ast.Name) and part.id in self._shapes for part in inside)

    def _wrapper(self):
        return ast.parse("__with_shapes__(typechecker=__check__)", mode="eval").body


class Loader(SourceFileLoader):
    """Load a module wrapped; one that has no shapes as it is, from its cached byte code."""

    def get_code(self, fullname):
        path = self.get_filename(fullname)
        source = self.get_data(path)
        if b"from jaxtyping import" not in source and b".shapes import" not in source:
            return super().get_code(fullname)
        return compile(Wrapped().visit(ast.parse(source, path)), path, "exec", dont_inherit=True)


class Finder:
    """Find the modules of the package."""

    @staticmethod
    def find_spec(name, path=None, target=None) -> ModuleSpec | None:
        if name.partition(".")[0] != PACKAGE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


if Finder not in sys.meta_path:
    assert PACKAGE not in sys.modules
    # Behind a hook of jaxtyping's own, which stands first and does not ask this one.
    sys.meta_path.insert(sys.meta_path.index(PathFinder), Finder)
