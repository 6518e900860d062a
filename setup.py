"""Builds the optional C++ engine. Everything else about the package is in pyproject.toml.

The engine is a plain C library (`sggp/native/_cpu.so`) that Python loads with ctypes: it links neither to Python nor to
torch. Its kernels are compiled once per instruction set and chosen at run time, so one wheel serves every machine of an
architecture. Without a compiler the installation succeeds and sggp uses torch.

Environment:
    SGGP_NATIVE=0         do not build it.
    SGGP_NATIVE=require   fail if it cannot be built (for wheels).
    SGGP_NATIVE_FLAGS     more flags for compiling and linking, e.g. "-fsanitize=address".

At run time SGGP_NATIVE=0 leaves the engine out, and SGGP_NATIVE=portable, avx2, ... names the instruction set.
"""

from __future__ import annotations

import glob
import os
import platform
import sys
import sysconfig
import tempfile

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools < 70.1
    from wheel.bdist_wheel import bdist_wheel

SOURCES = "sggp/native/src"
COMMON = [f"{name}.cpp" for name in ("dispatch", "parallel", "isa_portable")]
COMMON += [
    f"api_{name}.cpp"
    for name in (
        "stationary",
        "tanimoto",
        "small",
        "neighbours",
        "conditionals",
        "local",
        "search",
        "ceilings",
        "near",
    )
]
FLAGS = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"]
FLAGS += [
    "-fno-trapping-math",
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
    "-pthread",
]  # noise of GCC's own headers
X86 = {  # macro: source, flags
    "SGGP_WITH_AVX2": ("isa_avx2.cpp", ["-mavx2", "-mfma"]),
    "SGGP_WITH_AVX512": (
        "isa_avx512.cpp",
        [
            "-mavx2",
            "-mfma",
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mprefer-vector-width=512",
        ],
    ),
}


def mode() -> str:
    """How the engine was asked for: "0", "require" or "" (build it if that works)."""
    return os.environ.get("SGGP_NATIVE", "").strip().lower()


def targets_x86() -> bool:
    """Whether x86-64 is all that this build is for: a universal macOS build compiles the baseline only."""
    arch = os.environ.get("ARCHFLAGS", "") or sysconfig.get_config_var("CFLAGS") or ""
    if sys.platform == "darwin" and "-arch" in arch:
        return "x86_64" in arch and "arm64" not in arch
    return platform.machine().lower() in ("x86_64", "amd64")


class BuildNative(build_ext):
    """Compiles each instruction set with its own flags and links one library without Python symbols."""

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type == "msvc":
            raise CompileError("the C++ engine needs GCC or Clang (vector extensions)")
        extra = os.environ.get("SGGP_NATIVE_FLAGS", "").split()
        variants = X86 if targets_x86() else {}
        macros = [(macro, "1") for macro in variants]
        groups = [(COMMON, [])] + [([source], flags) for source, flags in variants.values()]
        target = self.get_ext_fullpath(ext.name)
        for folder in (self.build_temp, os.path.dirname(target)):
            os.makedirs(folder, exist_ok=True)
        # a folder of its own: of two builds at once, and of one that is killed, nothing is left in the target but whole
        with tempfile.TemporaryDirectory(dir=self.build_temp) as folder:
            objects: list[str] = []
            for sources, flags in groups:
                objects += self.compiler.compile(
                    [os.path.join(SOURCES, name) for name in sources],
                    output_dir=folder,
                    macros=macros,
                    extra_postargs=FLAGS + flags + extra,
                    depends=ext.depends,
                )
            linked = os.path.join(folder, os.path.basename(target))
            self.compiler.link_shared_object(
                objects, linked, extra_postargs=["-pthread", *extra], target_lang="c++"
            )
            os.replace(linked, target)

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + (".pyd" if sys.platform == "win32" else ".so")

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


class PlatformWheel(bdist_wheel):
    """The library depends on the platform but not on the version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


if mode() == "0":
    setup()
else:
    sources = [f"{SOURCES}/{name}" for name in (*COMMON, *(source for source, _ in X86.values()))]
    headers = sorted(glob.glob(f"{SOURCES}/*.h"))
    setup(
        ext_modules=[Extension("sggp.native._cpu", sources, depends=headers, optional=mode() != "require")],
        cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
    )
