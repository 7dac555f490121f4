"""Install the wheel as a user would and use it from an empty folder.

The tests run on an editable installation with every developer tool beside it. There, a data file that the
wheel lacks or a dependency that pyproject.toml does not declare goes unnoticed; here it does not.
"""

# ruff: noqa: T201

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ("src", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
COMMANDS = (
    ("--version",),
    ("--help",),
    ("verify",),
    ("explain", "--model", "bundled", "--html", "explain.html", "--json", "explain.json"),
    ("demo", "--out", "out"),
)
WRITTEN = ("explain.html", "explain.json", "out/explain.html", "out/verify.json")


def main() -> int:
    """Build, install, use; the first command that fails ends it."""
    with tempfile.TemporaryDirectory(prefix="iclens-fresh-") as name:
        folder = Path(name)
        source, environment, empty = folder / "source", folder / "venv", folder / "empty"
        copy_source(source)
        empty.mkdir()
        venv.create(environment, with_pip=True)
        pip = [environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
        run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "wheel", source], cwd=folder)
        (wheel,) = (folder / "wheel").glob("iclens-*.whl")
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
        run([*pip, "install", "--quiet", "-c", ROOT / "constraints.txt", wheel], cwd=folder)
        # The user's own settings, caches and modules must not be what makes it work.
        bare = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
        }
        for command in COMMANDS:
            run([environment / "bin" / "iclens", *command], cwd=empty, env=bare)
        missing = [file for file in WRITTEN if not (empty / file).stat().st_size]
        if missing:
            raise SystemExit(f"empty files: {', '.join(missing)}")
    return 0


def copy_source(target: Path) -> None:
    """Copy what would be committed: an ignored file must not find its way into the wheel."""
    target.mkdir()
    for file in committable():
        if file.exists():
            copy = target / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def committable() -> list[Path]:
    """The files of the package that git tracks or would add; without git, all but what building leaves."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SOURCE],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        return [ROOT / name for name in listing.stdout.split("\0") if name]
    files = [file for name in SOURCE for file in [ROOT / name, *(ROOT / name).rglob("*")] if file.is_file()]
    return [file for file in files if "__pycache__" not in file.parts and ".egg-info" not in str(file)]


def run(command: list[object], **options: object) -> None:
    """Run a command, print how long it took, and show its output only if it failed."""
    words = [str(word) for word in command]
    start = time.perf_counter()
    result = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    seconds = time.perf_counter() - start
    shown = " ".join([Path(words[0]).name, *words[1:]])
    print(f"{seconds:6.1f} s  {shown}", flush=True)
    if result.returncode:
        raise SystemExit(f"{result.stdout}{result.stderr}\nexit status {result.returncode}: {shown}")


if __name__ == "__main__":
    sys.exit(main())
