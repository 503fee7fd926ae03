"""Programs of this workspace for scripts that run them: built first, and found where cargo puts them (CARGO_TARGET_DIR too)."""

import json
import pathlib
import subprocess


def program(package="bantam", example=None):
    """The path of a package's program, or of one of its examples, of the release build."""
    command = ["cargo", "build", "--release", "--package", package, "--message-format=json", *(["--example", example] if example else [])]
    messages = subprocess.run(command, cwd=pathlib.Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, text=True).stdout
    artifacts = [json.loads(line) for line in messages.splitlines() if line.startswith("{")]
    return pathlib.Path(next(a["executable"] for a in reversed(artifacts) if a.get("executable")))
