#!/usr/bin/env python3
"""Writes unlabelled English sentences to learn from, one a line: those of STS-B's training set, without their scores, and the
Brown corpus.

    python3 sentences.py STS_B_FOLDER BROWN_FOLDER OUTPUT_FOLDER

Sentences of STS-B's test and development sets are left out, whatever their case, spaces and punctuation. Standard library only.
"""

import pathlib
import re
import sys

WORDS = range(4, 41)


def key(sentence):
    """What two sentences share that differ in case, spaces and punctuation alone."""
    return "".join(c for c in sentence.casefold() if c.isalnum())


def sts(path):
    """Both sentences of every line; columns 6 and 7 of tab-separated ones."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield from line.split("\t")[5:7]


def brown(folder):
    """The sentences of the tagged files, a line each, `word/tag word/tag`."""
    for path in sorted(p for p in folder.iterdir() if re.fullmatch(r"c[a-r]\d\d", p.name)):
        for line in path.read_text(encoding="latin-1").splitlines():
            text = " ".join(token.rsplit("/", 1)[0] for token in line.split())
            text = re.sub(r" ([.,;:?!)%]|'s\b|n't\b)", r"\1", text.replace("``", '"').replace("''", '"'))
            yield re.sub(r"([.,;:?!])(?: ?\1)+", r"\1", text.replace("( ", "(")).strip()


def main():
    sts_b, brown_folder, out = map(pathlib.Path, sys.argv[1:])
    held_out = {key(s) for name in ["sts-test.csv", "sts-dev.csv"] for s in sts(sts_b / name)}
    seen, dropped = set(), 0
    for name, sentences in [("sts-train.txt", sts(sts_b / "sts-train.csv")), ("brown.txt", brown(brown_folder))]:
        kept = []
        for sentence in map(str.strip, sentences):
            if key(sentence) in held_out:
                dropped += 1
            elif key(sentence) not in seen and (name != "brown.txt" or len(sentence.split()) in WORDS):
                seen.add(key(sentence))
                kept.append(sentence)
        (out / name).write_text("\n".join(kept) + "\n", encoding="utf-8")
        print(f"{name}: {len(kept)} sentences", file=sys.stderr)
    print(f"left out: {dropped} that are in the test or development set", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main()
