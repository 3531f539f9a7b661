"""Stands in for a package of compiled kernels on a machine without a GPU: whatever is imported from it is there, and
whatever is called says that it is not.

SGLang imports such packages at the top of modules that a CPU server loads and never calls.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types


class Absent(type):
    """A name of the absent package: good for an import, an annotation or a base class, and for no call."""

    def __call__(cls, *args, **kwargs):
        raise RuntimeError(f"{cls.__qualname__} was called, and this environment has no GPU kernels")

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        child = absent(f"{cls.__qualname__}.{name}")
        setattr(cls, name, child)
        return child


def absent(name):
    return Absent(name.rpartition(".")[2], (), {"__qualname__": name, "__module__": name.rpartition(".")[0]})


class _Finder:
    """Makes an empty module for every submodule of `package`."""

    def __init__(self, package):
        self.prefix = f"{package}."

    def find_spec(self, fullname, path=None, target=None):
        if not fullname.startswith(self.prefix):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        return types.ModuleType(spec.name)

    def exec_module(self, module):
        stand_in(module.__name__)


def stand_in(name):
    """Let the module of this name have every attribute that is asked of it."""

    def __getattr__(attribute):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return absent(f"{name}.{attribute}")

    sys.modules[name].__getattr__ = __getattr__


def package(name):
    """Make the package of this name, which is being imported, have every submodule and every attribute."""
    sys.meta_path.insert(0, _Finder(name))
    stand_in(name)
