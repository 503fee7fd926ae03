#!/usr/bin/env python3
"""Cuts the two short texts that BENCHMARKS.md names: one to calibrate on, one to judge on.

    scripts/data/fetch.sh FOLDER
    python3 scripts/data/training.py FOLDER TRAINING
    python3 scripts/data/excerpts.py TRAINING OUTPUT [CHARACTERS]

OUTPUT/calib.txt has about CHARACTERS (20,000 if none are given) of each category of training.py's output: texts from the first on, each cut to
4,000 characters, until there are as many. OUTPUT/eval.txt has the first 4,500 bytes of each category of crates/measure/data, cut
where a character ends. Both have the categories in the order prose, chat, code, math.
"""

import json
import sys
from pathlib import Path

from build import DATA

CATEGORIES = ("prose", "chat", "code", "math")
CHARACTERS, OF_A_TEXT = 20_000, 4_000
BYTES = 4_500


def calibration(lines, characters):
    """The beginnings of the texts of these JSON lines, each with a blank line behind it."""
    taken = []
    for line in lines:
        if sum(map(len, taken)) >= characters:
            break
        taken.append(json.loads(line)["text"][:OF_A_TEXT])
    return "".join(text + "\n\n" for text in taken)


def evaluation(files):
    """The beginning of these files, one after the other, and a line's end."""
    whole = b"".join(path.read_bytes() for path in files)
    return whole[:BYTES].decode("utf-8", errors="ignore") + "\n"


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    training, output = map(Path, sys.argv[1:3])
    characters = int(sys.argv[3]) if len(sys.argv) == 4 else CHARACTERS
    output.mkdir(parents=True, exist_ok=True)
    texts = {
        "calib.txt": [calibration((training / f"{category}.jsonl").open(encoding="utf-8"), characters) for category in CATEGORIES],
        "eval.txt": [evaluation(sorted((DATA / "text" / category).glob("*.txt"))) for category in CATEGORIES],
    }
    for name, parts in texts.items():
        path = output / name
        path.write_text("".join(parts), encoding="utf-8", newline="\n")
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
