"""Known vulnerabilities of the installed packages, by pip-audit; and plainly how many packages were looked at.

pip-audit says "no known vulnerabilities" also of packages that its service does not know, or of none at all. Here a
package without an answer counts as not audited, and an audit that could not be made is said to be none.

Exit status: 0 when no vulnerability is known, or nothing could be asked (which is said); 1 for a vulnerability; 2 when
`--required` is given and not every package was audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

NOT_DONE = "audit: NOT DONE. This is no statement about the packages."


def report(document: dict[str, Any] | None, complaint: str, *, required: bool = False) -> tuple[int, str]:
    """The exit status and what is to be said.

    Args:
        document: what pip-audit wrote, or None when it wrote nothing that can be read.
        complaint: what it said otherwise.
        required: fail unless every package was audited.
    """
    if document is None:
        lines = [line for line in complaint.strip().splitlines() if line.strip()]
        return (2 if required else 0), f"{NOT_DONE} pip-audit could not ask: {lines[-1] if lines else 'no answer'}"
    packages = document.get("dependencies", [])
    skipped = [one for one in packages if "skip_reason" in one]
    audited = [one for one in packages if "skip_reason" not in one]
    # This project itself is installed from its own folder.
    skipped = [one for one in skipped if one["name"] != "iclens"]
    found = [(one, hole) for one in audited for hole in one.get("vulns", [])]
    lines = []
    for one, hole in found:
        fixed = ", ".join(hole.get("fix_versions") or []) or "no version yet"
        lines.append(f"{one['name']} {one['version']}: {hole['id']}, fixed in {fixed}")
    if found:
        lines.append(f"audit: {len(found)} known vulnerabilities in {len(audited)} packages.")
    elif audited:
        lines.append(f"audit: no known vulnerability in {len(audited)} packages.")
    if skipped and audited:
        lines.append(f"audit: {len(skipped)} packages were not audited: {', '.join(one['name'] for one in skipped)}.")
    if not audited:
        reasons = sorted({one["skip_reason"].partition(":")[0] for one in skipped})
        lines.append(
            f"{NOT_DONE} None of {len(skipped)} packages could be looked up ({'; '.join(reasons) or 'no packages'})."
        )
    return (1 if found else 2 if required and (skipped or not audited) else 0), "\n".join(lines)


def main() -> int:
    """Run pip-audit on this environment."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", "--format", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        output, complaint = done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        output, complaint = "", "no answer within 10 minutes"
    try:
        document = json.loads(output)
    except ValueError:
        document = None
    status, text = report(document, complaint, required="--required" in sys.argv[1:])
    sys.stdout.write(text + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
