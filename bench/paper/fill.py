"""Put what `awm reproduce` wrote into README.md, and its cells and figures beside it.

python bench/paper/fill.py OUT
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    readme = HERE / "README.md"
    text = readme.read_text()
    for number in range(1, 6):
        table = out / f"table{number}.md"
        if table.exists():
            # Its first line begins with the number, which the heading has already.
            _, body = table.read_text().split(": ", 1)
            text = replace_section(text, f"Table {number}", body[0].upper() + body[1:])
    figures = sorted(out.glob("fig*.png"))
    if figures:
        names = (path.stem.removeprefix("fig") for path in figures)
        shown = (f"![Figure {name}](fig{name}.png)" for name in names)
        text = replace_section(text, "Figures", "\n\n".join(shown))
    readme.write_text(text)
    cells = sorted((out / "cells").glob("*.json"))
    (HERE / "cells").mkdir(exist_ok=True)
    for path in cells:
        shutil.copy(path, HERE / "cells")
    for path in figures:
        shutil.copy(path, HERE)
    print(f"{len(cells)} cells, {len(figures)} figures")


def replace_section(text: str, title: str, body: str) -> str:
    """The text with another body under a heading of the second level."""
    section = re.compile(rf"(^## {title}\n).*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    found, count = section.subn(lambda match: f"{match[1]}\n{body.strip()}\n\n", text)
    if count != 1:
        sys.exit(f"README.md: expected one heading '## {title}', got {count}")
    return found.rstrip() + "\n"


if __name__ == "__main__":
    main()
