"""Look up the locked dependencies among known vulnerabilities.

Usage: python -m tests.audit            looks them up, with pip-audit; a finding fails
       python -m tests.audit --lock     writes the lock file from what is installed
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parents[1] / "requirements.lock"
HEAD = """\
# What awm-kernels needs to run, and what that needs: the versions that its tests ran with, on Linux
# with PyTorch for CPUs. `python -m tests.audit --lock` writes this file.
"""
OFFLINE = re.compile(r"requests\.exceptions\.|Could not connect")


def needed(name: str, found: dict[str, str]) -> dict[str, str]:
    """The version of each installed package that one needs to run, added to those found."""
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        key = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and key not in found:
            # A build for CPUs has a version of its own, which nobody reports about.
            found[key] = metadata.version(key).partition("+")[0]
            needed(key, found)
    return found


def audit() -> tuple[str, int]:
    """What to say, and the exit code."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(LOCK), "--no-deps", "--disable-pip"]
    done = subprocess.run(
        [*command, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        if OFFLINE.search(done.stderr):
            return "audit: SKIPPED: the advisory service can't be reached", 0
        return f"audit: pip-audit failed:\n{done.stderr}", 1
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    lines = [
        f"audit: {package['name']} {package['version']}: {found['id']}, "
        f"mended in {', '.join(found['fix_versions']) or 'no version'}"
        for package in packages
        for found in package.get("vulns", [])
    ]
    code = 1 if lines else 0
    lines.append(
        f"audit: {len(packages) - len(skipped)} of {len(packages)} packages were looked up"
    )
    if skipped:
        lines.append(f"audit: SKIPPED, the service does not know them: {', '.join(skipped)}")
    return "\n".join(lines), code


def main() -> int:
    """Audit, or write the lock file."""
    if sys.argv[1:] == ["--lock"]:
        found = needed("awm-kernels", {})
        LOCK.write_text(HEAD + "".join(f"{name}=={found[name]}\n" for name in sorted(found)))
        return 0
    text, code = audit()
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
