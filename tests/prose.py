"""Find words in pages and modules that have a plainer word, and paths that do not exist.

Run it as `python -m tests.prose`. It prints one line per finding, and exits 1 if there is one.
"""

import ast
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "agent/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
APPS = (
    "accounts",
    "authorities",
    "backups",
    "certctrl",
    "dashboard",
    "devices",
    "dnsclient",
    "dnsproviders",
    "issuance",
    "keystore",
    "notices",
    "signin",
    "standalone",
)
PACKAGES = (*APPS, "lab", "agent/certctrl_agent")
MODULES = [
    ROOT / "manage.py",
    *(
        path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.parent.name != "migrations"
    ),
]
# A pattern, and what to write instead. Case does not matter, and a space also matches a line break.
REFUSED = {
    r"whoever('s)?": "name the person, or write 'anyone who'",
    r"whatever (comes|becomes) of": "write 'even if ... fails'",
    r"mend(s|ed|ing)?": "fix",
    r"dear(er|est)?": "expensive",
    r"anew": "again",
    r"to be had": "available",
    r"nudges?": "a message that may be lost",
    r"learns? us": "write what we know then",
    r"so many (seconds|minutes|hours|days|tokens)": "name the parameter, or 'a number of'",
    r"answers (the|an?|with)": "return, respond with, show",
    r"comes? again": "retry, or return later",
    r"(take|takes|took|taken) (it |them |one )?away": "remove",
    r"(is|are|was|were) told": "notify, or 'a notice is sent'",
    r"tells? of": "report, describe",
    r"stands? (in|on|beside|behind|at|there)": "is in, is beside",
    r"(it|that|this) lies": "is",
    r"must only not": "say what must be",
    r"(house|contract),? section": "a page of docs/, or the RFC",
}
CODE = re.compile(r"^```.*?^```|^(?: {4}|\t).*?$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#.*$|^\|.*\|\n(?=\|[-|: ]+\|$)", re.MULTILINE)
QUESTION_AS_SUBJECT = re.compile(r"(?:^|(?<=[.!?:|] )|(?<=[-*] ))(?:What|Who)\b[^.?!|]*[.!|]", re.M)
NAMED = re.compile(r"`((?:[a-z_.0-9-]+/)+(?:[A-Za-z_.0-9-]+\.(?:py|md|yaml|toml|html))?)`")
PLACES = (
    "",
    "issuance",
    "authorities",
    "dnsproviders",
    "agent",
)  # below which a page may name a path

Finding = tuple[int, str]  # the line number, and what is wrong there


def blanked(pattern: re.Pattern[str], text: str) -> str:
    """The text with its matches replaced by as many lines, so that line numbers stay right."""
    return pattern.sub(lambda found: "x" + "\n" * found[0].count("\n"), text)


def whole(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{words})\b".replace(" ", r"\s+"), re.IGNORECASE)


def matches(pattern: re.Pattern[str], text: str) -> list[tuple[int, str]]:
    """(line number, match) of each match."""
    return [
        (text.count("\n", 0, found.start()) + 1, " ".join(found[0].split()))
        for found in pattern.finditer(text)
    ]


def refused_words(prose: str) -> Iterator[Finding]:
    for words, instead in REFUSED.items():
        for line, match in matches(whole(words), prose):
            yield line, f"'{match}': {instead}"


def questions_as_subjects(prose: str) -> Iterator[Finding]:
    """Not "What is no address is not kept." but "Values that are not ... are discarded"."""
    for line, match in matches(QUESTION_AS_SUBJECT, blanked(HEADING, prose)):
        yield line, f"'{match}': a question is the subject: use a noun"


def missing_paths(page: str) -> Iterator[Finding]:
    for line, match in matches(NAMED, page):
        path = match.strip("`")
        if not any((ROOT / place / path).exists() for place in PLACES):
            yield line, f"'{path}': no such path"


def check_page(page: str) -> list[Finding]:
    """Check the text of a page, in Markdown."""
    prose = blanked(CODE, page)
    return sorted([*refused_words(prose), *questions_as_subjects(prose), *missing_paths(page)])


def check_module(source: str) -> list[Finding]:
    """Check the docstrings, comments and messages of a module in Python."""
    return sorted(
        (first + line - 1, finding)
        for texts in (docstrings(source), comments(source), messages(source))
        for first, text in texts
        for line, finding in (
            *refused_words(blanked(CODE, text)),
            *questions_as_subjects(blanked(CODE, text)),
        )
    )


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    for node in docstring_nodes(ast.parse(source)):
        yield node.lineno, inspect.cleandoc(str(node.value))


def docstring_nodes(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str()) as docstring), *_]:
                    yield docstring


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Lines of comment below each other are one text, because a sentence may go on."""
    first, lines = 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        is_alone = token.line.lstrip().startswith("#")
        if lines and not (is_alone and token.start[0] == first + len(lines)):
            yield first, "\n".join(lines)
            lines = []
        first = first if lines else token.start[0]
        lines.append(token.string.lstrip("# "))
    if lines:
        yield first, "\n".join(lines)


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Texts of three words or more that are not docstrings, with an `x` for each `{...}`."""
    tree = ast.parse(source)
    seen: set[ast.AST] = set(docstring_nodes(tree))
    for node in ast.walk(tree):  # an f-string comes before its parts
        if node in seen:
            continue
        text = ""
        if isinstance(node, ast.JoinedStr):
            seen.update(part for part in node.values if isinstance(part, ast.Constant))
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        if len(text.split()) > 2:
            yield node.lineno, text


def main() -> int:
    findings = [
        f"{path.relative_to(ROOT)}:{line}: {finding}"
        for check, paths in ((check_page, PAGES), (check_module, MODULES))
        for path in paths
        for line, finding in check(path.read_text())
    ]
    count = len(PAGES) + len(MODULES)
    print("\n".join(findings) or f"{count} pages and modules have no refused word.")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
