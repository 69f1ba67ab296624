"""The CUDA C++ of kernels/csrc as a torch stable-ABI extension, built by nvcc on first use or ahead of time.

    python -m kernels.extension [FOLDER]

A library lies in UNIBERT_KERNELS (else TORCH_EXTENSIONS_DIR, else ~/.cache/unibert) under a name made of its source,
the torch it was built against and the architectures, so that one folder serves many machines. Where there is no nvcc
the plain form of PyTorch is taken, and a line of the log says so once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("csrc") / "gram_mse.cu"
ARCHITECTURES = ("80", "90a", "100a")
ABI = "0x020a000000000000"  # torch 2.10, the least that the library loads beside


@cache
def loaded() -> bool:
    """Whether torch.ops.unibert.gram_mse_cuda is there; builds the library if need be."""
    try:
        torch.ops.load_library(str(build(folder())))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        log.warning("kernels: no CUDA extension (%s); PyTorch's own products are taken instead", error)
        return False
    return True


def folder() -> Path:
    """Where libraries lie."""
    chosen = os.environ.get("UNIBERT_KERNELS") or os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(chosen) if chosen else Path.home() / ".cache" / "unibert"


def build(into: Path, *, architectures: tuple[str, ...] = ARCHITECTURES) -> Path:
    """The library in a folder, built if it is not there. Several processes may ask at once.

    Raises:
        OSError: no nvcc, or the folder cannot be written.
        subprocess.CalledProcessError: nvcc refuses; its words are in the log.
    """
    key = hashlib.sha256(SOURCE.read_bytes() + repr((torch.__version__, ABI, architectures)).encode()).hexdigest()[:16]
    library = into / f"gram_mse-{key}.so"
    if library.is_file():
        return library
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        made = Path(scratch) / library.name
        found = subprocess.run(command(made, architectures), capture_output=True, text=True, check=False)
        if found.returncode:
            log.warning("kernels: nvcc says: %s", found.stderr.strip()[-2000:])
            found.check_returncode()
        os.replace(made, library)
    return library


def command(library: Path, architectures: tuple[str, ...]) -> list[str]:
    """How nvcc is called.

    Raises:
        FileNotFoundError: there is none.
    """
    torch_folder = Path(torch.__file__).parent
    targets = [f"-gencode=arch=compute_{cc},code=sm_{cc}" for cc in architectures]
    return [
        *(nvcc(), "-std=c++20", "-O3", "-shared", "-Xcompiler", "-fPIC", "-cudart", "static"),
        *(f"-DTORCH_TARGET_VERSION={ABI}", *targets),
        *(f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-o", str(library), str(SOURCE)),
    ]


def nvcc() -> str:
    """The compiler, of CUDA_HOME or on the path.

    Raises:
        FileNotFoundError: there is none.
    """
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=f"{home}/bin" if home else None)
    if found is None:
        raise FileNotFoundError("no nvcc: set CUDA_HOME, or build ahead by python -m kernels.extension elsewhere")
    return found


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else folder()))
