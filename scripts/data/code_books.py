#!/usr/bin/env python3
"""Makes crates/formats/src/blocks/books: the code books of ggml's IQ2 and IQ3 formats, a part of the file format.

    python3 scripts/data/code_books.py          (needs the Python package gguf, llama.cpp's own; MIT)

NAME.bin: for each point a little-endian u16. Coordinate j is a number in bits 2 j and 2 j + 1 (IQ2: 8 coordinates) or 3 j to
3 j + 2 (IQ3: 4 coordinates), which counts the magnitudes that a weight can have, ascending (`books.rs` lists them).
"""

from pathlib import Path

import gguf.quants
import numpy as np

OUT = Path(__file__).resolve().parents[2] / "crates/formats/src/blocks/books"


def main():
    OUT.mkdir(exist_ok=True)
    for name in ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"]:
        book = getattr(gguf.quants, name)
        book.init_grid()
        places = np.searchsorted(book.grid_map, np.reshape(book.grid, book.grid_shape))
        bits = 16 // book.grid_shape[1] if name.startswith("IQ2") else 3
        packed = (places << bits * np.arange(book.grid_shape[1])).sum(axis=1)
        (OUT / f"{name.lower()}.bin").write_bytes(packed.astype("<u2").tobytes())


if __name__ == "__main__":
    main()
