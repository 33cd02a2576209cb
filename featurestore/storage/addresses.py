"""A stretch of addresses that files are mapped into one after the other, so that together they are one array.

mmap with MAP_FIXED, which Python's own mmap does not offer; called through ctypes, on Linux. Elsewhere there are none,
and every file is mapped on its own.
"""

import ctypes
import mmap
import os
import sys
import weakref
from pathlib import Path
from typing import Final

_MAP_FIXED: Final = 0x10
_MAP_NORESERVE: Final = 0x4000
_FAILED: Final = ctypes.c_void_p(-1).value


class AddressRange:
    """Addresses that read as zeros until files are mapped into them; given back when no array uses them any more.

    Parameters
    ----------
    n_bytes
        How many; a multiple of the page size. They take no memory.

    Raises
    ------
    OSError
        If the system gives none.

    Attributes
    ----------
    buffer
        The bytes. They are read only: writing to them ends the process, so wrap them accordingly.
    """

    def __init__(self, n_bytes: int) -> None:
        self._mmap, munmap = _functions()
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._address = self._checked(self._mmap(None, n_bytes, mmap.PROT_READ, flags, -1, 0))
        self.buffer = (ctypes.c_char * n_bytes).from_address(self._address)
        # Arrays keep the buffer alive. At the end of the process threads may still read from it.
        weakref.finalize(self.buffer, munmap, self._address, n_bytes).atexit = False

    def map_file(self, path: Path, offset: int, n_bytes: int) -> bool:
        """Map a whole file at an offset, in whole pages; False if it is not there, or of another size."""
        try:
            handle = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            if os.fstat(handle).st_size != n_bytes:
                return False
            place = self._address + offset
            flags = mmap.MAP_SHARED | _MAP_FIXED
            self._checked(self._mmap(place, n_bytes, mmap.PROT_READ, flags, handle, 0))
        finally:
            os.close(handle)
        return True

    @staticmethod
    def _checked(address: int | None) -> int:
        if address is None or address == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, f"No addresses to map a file at: {os.strerror(code)}")
        return address


def reserve(n_bytes: int) -> AddressRange | None:
    """Addresses for so many bytes; None where the system has no such thing, or the length is not one of whole pages."""
    if sys.platform != "linux" or not n_bytes or n_bytes % mmap.PAGESIZE:
        return None
    try:
        return AddressRange(n_bytes)
    except OSError:
        return None  # a limit on the process's addresses


def _functions() -> "tuple[ctypes._NamedFuncPointer, ctypes._NamedFuncPointer]":
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    library.munmap.restype = ctypes.c_int
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library.mmap, library.munmap
