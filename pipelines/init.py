"""Look at the files of a shop and write a config file for `prepare`.

    recdiv init clicks.csv products.csv
    recdiv init ml-1m/ --out ml-1m.yaml

FILE is a file, directory, glob or URI; only samples are read. A table on stderr shows the log, the
catalogue and the likely meaning of each column. The config file asks about what the files do not
tell. Prints {"config", "layout", "questions"}.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from recdiv_core.errors import UserError


def main() -> int:
    """Look at the files, write the config file and return the exit status."""
    parser = argparse.ArgumentParser("recdiv init", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="click log and catalogue, in any order"
    )
    parser.add_argument("--out", type=Path, default=Path("shop.yaml"), help="file to write")
    args = parser.parse_args()
    try:
        answer = _answer(args.files, args.out)
    except (UserError, KeyboardInterrupt) as error:
        is_wrong = isinstance(error, UserError)
        print(f"error: {error}" if is_wrong else "interrupted", file=sys.stderr)
        return 2 if is_wrong else 130
    print(json.dumps(answer, ensure_ascii=False), flush=True)
    return 0


def _answer(files: list[str], out: Path) -> dict[str, object]:
    from recdiv_core.adapters import look, shop_config
    from recdiv_core.formats.sniff import printable

    shop_config.check_free(out)
    findings = look.look_at(files)
    shop_config.write(findings, out)
    for name, role, evidence in findings.table:
        print(printable(f"{name[:40]:<42}{role:<11} {evidence}"), file=sys.stderr)
    for question in findings.questions:
        print(printable(f"question: {question.text}"), file=sys.stderr)
    layout = findings.settings.get("data.layout", "")
    questions = [question.text for question in findings.questions]
    if layout:
        print(f"layout: {layout}", file=sys.stderr)
    first = "Answer the questions in it, then run" if questions else "Next, run"
    print(f"Wrote {out}. {first}: recdiv prepare --config {out}", file=sys.stderr)
    return {"config": str(out), "layout": layout, "questions": questions}


if __name__ == "__main__":
    sys.exit(main())
