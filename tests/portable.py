"""The test suite as other processors would run it: other kernels of BLAS, torch and MKL, other code
from numba, two threads.

    python tests/portable.py                    every setting this processor has, resuming
    python tests/portable.py --setting nehalem  one of them
    python tests/portable.py --fresh            forget what has passed

A result that is compared to the last bit, by the sign of a zero or by the order of ties is red in
one of these. What has passed for the files as they are is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / "runs" / "portable.json"


@dataclass(frozen=True)
class Setting:
    """One processor to imitate.

    Attributes:
        name: Its name here.
        why: What differs.
        environment: Variables that make it so.
        needs: Flag of the processor without which it would meet illegal instructions.
        threads: BLAS threads.
    """

    name: str
    why: str
    environment: dict[str, str] = field(default_factory=dict)
    needs: str = ""
    threads: int = 1


SETTINGS = (
    Setting(
        "haswell",
        "AVX2 kernels everywhere",
        {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"},
        needs="avx2",
    ),
    Setting(
        "nehalem",
        "SSE kernels everywhere, compiled code for any x86-64 (no FMA, vectors of two)",
        {
            "OPENBLAS_CORETYPE": "Nehalem",
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_CBWR": "COMPATIBLE",
            "NUMBA_CPU_NAME": "generic",
            "NUMBA_CPU_FEATURES": "",
        },
    ),  # fmt: skip
    Setting("threads", "two threads in BLAS and torch", threads=2),
    Setting(
        "skylakex",
        "AVX-512 kernels",
        {"OPENBLAS_CORETYPE": "SkylakeX", "ATEN_CPU_CAPABILITY": "avx512", "MKL_CBWR": "AVX512"},
        needs="avx512f",
    ),
)


def flags() -> set[str]:
    """What the processor can do, as the kernel lists it; empty where it lists nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return set()
    return {word for line in text.splitlines() if line.startswith("flags") for word in line.split()}


def groups() -> list[list[str]]:
    """The suite in pieces that are remembered one by one: tests by folder, files by initial."""
    tests = ROOT / "tests"
    single = sorted(p.relative_to(ROOT).as_posix() for p in tests.glob("test_*.py"))
    size = -(-len(single) // 8)
    made = [single[i : i + size] for i in range(0, len(single), size)]
    folders = sorted({p.parent for p in tests.glob("*/**/test_*.py")})
    return [*made, *([f.relative_to(ROOT).as_posix()] for f in folders),
            ["gdconv"], ["theorems", "experiments"]]  # fmt: skip


def digest() -> str:
    """Hash of every tracked and new source file."""
    command = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "-co",
        "--exclude-standard",
        "*.py",
        "*.cfg",
        "*.tsv",
    ]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    made = hashlib.sha256()
    for name in sorted(names):
        if (ROOT / name).exists():
            made.update(name.encode() + (ROOT / name).read_bytes())
    return made.hexdigest()[:16]


def run(setting: Setting, group: list[str], workers: int) -> int:
    """Exit code of pytest on one piece under one setting."""
    threads = {
        f"{n}_NUM_THREADS": str(setting.threads) for n in ("OMP", "OPENBLAS", "MKL", "NUMBA")
    }
    environment = {**os.environ, "MPLBACKEND": "Agg", **threads, **setting.environment}
    processes = max(1, workers // setting.threads)
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(processes), *group]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main(argv: list[str] | None = None) -> int:
    """Run what has not passed yet; exit code 1 when something is red."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--setting", choices=[s.name for s in SETTINGS])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fresh", action="store_true")
    asked = parser.parse_args(argv)
    state = json.loads(STATE.read_text()) if STATE.exists() and not asked.fresh else {}
    now, able, red = digest(), flags(), []
    for setting in SETTINGS:
        if asked.setting not in (None, setting.name):
            continue
        if setting.needs and setting.needs not in able:
            print(f"{setting.name}: left out, this processor has no {setting.needs}", flush=True)
            continue
        for group in groups():
            key = f"{setting.name}: {group[0]}"
            if state.get(key) == now:
                print(f"{key}: passed before", flush=True)
                continue
            began = time.monotonic()
            code = run(setting, group, asked.workers)
            print(f"{key}: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
            if code:
                red.append(key)
                continue
            state[key] = now
            STATE.parent.mkdir(exist_ok=True)
            STATE.write_text(json.dumps(state, indent=1))
    print("red: " + "; ".join(red) if red else "every setting is green")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
