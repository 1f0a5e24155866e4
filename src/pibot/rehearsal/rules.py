"""The table of what the rehearsal model knows. **To add a rule, add an entry to :data:`RULES`.**

A rule is a pattern for the text of one part of a task. It has either ways to do the part with a tool (one function
makes the call's arguments, another makes an outcome of the tool's answer), or a function that answers without a tool.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Callable, Optional

from pibot.rehearsal import answers, calls
from pibot.rehearsal.outcome import Outcome, Situation
from pibot.rehearsal.rule import Match, Rule, Way

MAX_PART_CHARS = 5_000
"""A longer text fits no rule, which bounds the time of the patterns."""


def find_rule(text: str) -> Optional[Match]:
    """Return the first rule whose pattern fits the whole ``text``."""
    text = trimmed(text)
    if len(text) > MAX_PART_CHARS:
        return None
    for rule in RULES:
        match = rule.pattern.fullmatch(text)
        if match:
            found = {name.rstrip("23"): value for name, value in match.groupdict().items() if value is not None}
            return Match(rule, found)
    return None


def trimmed(text: str) -> str:
    """Remove surrounding space and the end of a sentence. A dot on its own stays, since it is a path."""
    return _SENTENCE_END.sub("", text.strip())


def examples() -> str:
    """Return an example of each rule, for people."""
    return "; ".join(rule.example for rule in RULES)


_SENTENCE_END = re.compile(r"(?<=[\w)'\"`”’~/=])[.!?。！？]+\Z")

# --- patterns ---------------------------------------------------------------

_QUOTED = "'[^']+'|\"[^\"]+\"|“[^”]+”|‘[^’]+’"
_PATH = rf"{_QUOTED}|[\w~./-]*[./][\w~./-]*\w"
_PIECES = {
    "me": "(?: me)?",
    "url": r"(?P<url>https?://[^\s'\"<>]*[^\s'\"<>.,;:!?])",
    "text": f"(?P<text>{_QUOTED})",
    "file": f"(?:the )?(?:file )?(?P<file>{_PATH})",
    "target": f"(?:the )?(?:file )?(?P<target>{_PATH})",
    "where": "(?:the |your |my )?(?:(?:directory|folder|path) )?"
    rf"(?P<where>{_QUOTED}|~[\w./-]*|/[\w./-]*|\.[\w./-]*|home(?: directory| folder)?"
    "|(?:current|working) (?:directory|folder)|workspace|here)(?: directory| folder)?",
    "part": "title|text|content|links?|status",
    "results": "(?:,? (?:the|all|these|those|their|earlier|previous|of|from|both|its|a|and|other|final|results?"
    "|reports?|summary|answers?|findings?|numbers?|outputs?|steps?|tasks?|parts?|everything|them|it|this|that|above|up))+",
    # One list of words, so that each word can match in one way only: two lists in a row would take exponential time.
    "topics": "(?P<topics>(?:,? (?:the|your|this|its|a|an|of|on|and|or|current|free|used|available|total|average"
    "|usage|use|system|machine|worker|pi|computer|node|board|temperatures?|memory|ram|swap|load|cpu|processor|disks?"
    "|storage|space|uptime|throttling|under-?voltage|power|model|kernel|os|operating|status|state|health|hot|busy|is"
    "|info|information)(?:'s|s')?)+)",
    "topic": r"\b(?:system|machine|temperature|memory|ram|swap|load|cpu|processor|disk|storage|space|uptime|throttling"
    r"|under-?voltage|power|kernel|os|hot|busy|health)",
}


def _pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern in which a space stands for any white space, and ``<name>`` for an entry of ``_PIECES``.

    A group's name must be unique, so ``<name2>`` is the same piece with its group called ``name2``.
    """

    def piece(match: re.Match[str]) -> str:
        name, number = match.groups()
        return _PIECES[name].replace(f"(?P<{name}>", f"(?P<{name}{number}>")

    return re.compile(re.sub(r"(?<!P)<([a-z]+)(\d?)>", piece, text).replace(" ", r"\s+"), re.IGNORECASE | re.DOTALL)


def _shell(arguments: Callable[[Situation], Mapping[str, Any]], outcome: Callable[[Situation, str], Outcome]) -> Way:
    return Way("shell_exec", "shell_exec", arguments, outcome)


RULES: tuple[Rule, ...] = (
    Rule(
        "greeting",
        "Hello",
        _pattern(
            "(?:hi|hello|hey|good (?:morning|afternoon|evening|day)|thanks|thank you|how are you|help"
            r"|(?:who|what) are you|what can you do)(?: there| pibot)?"
        ),
        answer=answers.greeting,
    ),
    Rule(
        "remember",
        "Remember this: secret123",
        _pattern(r"remember\b(?: this| that)?\s*:?\s*(?P<what>.+)"),
        answer=answers.remember,
    ),
    Rule(
        "recall",
        "What did I say?",
        _pattern(
            "(?:what did i (?:say|tell you|ask you to remember)|what do you remember|what (?:is|was) (?:the|my) secret)"
            r"(?: before| earlier| last| just now| to you)*"
        ),
        answer=answers.recall,
    ),
    Rule(
        "calculate",
        "Calculate 2 + 3 * 4",
        _pattern(
            "(?:(?:calculate|compute|evaluate|work out|what is|what's|how much is) |计算 ?)"
            r"(?P<sum>(?=.*\d)[\d()+*/%^.×÷\s-]+)(?:=\s*)?"
        ),
        answer=answers.calculate,
    ),
    Rule(
        "sleep",
        "Sleep for 2 seconds",
        _pattern(
            r"(?:sleep|wait|pause)(?: for)? (?P<number>\d{1,6}(?:\.\d{1,6})?)\s*"
            r"(?P<unit>s|secs?|seconds?|mins?|minutes?)"
        ),
        ways=(_shell(calls.sleep, answers.slept),),
    ),
    Rule(
        "list",
        "List files in home directory",
        _pattern(
            "(?:list|show|display|ls)<me>(?: all| the| my)* (?:files|contents?|entries)"
            "(?: and (?:folders|directories))?(?: (?:in|of|at|under|from|inside) <where>)?|(?:list|ls) <where2>"
        ),
        ways=(
            _shell(calls.shell_list, answers.shell_listed),
            Way("file_ops", "list_files", calls.list_files, answers.listed),
        ),
        looks_around=True,
    ),
    Rule(
        "fetch",
        "Download https://example.com and return the title",
        _pattern(
            "(?:download|fetch|get|open|load|visit|read)(?: the)?(?: web)?(?: ?page| ?site)?(?: at| from)? <url>"
            "(?:,? (?:and|then|to)(?: then)? (?:return|give|tell|report|show|print|get|find|extract|list)<me>"
            "(?: only| the| its| all)* (?P<what><part>)(?: of (?:it|the page))?)?"
            "|(?:what is|what's|return|get|give|tell|report|show|find|fetch|list)<me>(?: the| all)* (?P<what2><part>)"
            r"(?: of| from| on| at| the| web| page| site)* <url2>"
        ),
        ways=(Way("web_fetch", "web_fetch", calls.fetch, answers.fetched),),
    ),
    Rule(
        "write results",
        "Write the results to report.txt",
        _pattern("(?:write|save|put|store)<results> (?:to|into|in|as) <file>"),
        ways=(
            Way("file_ops", "write_file", calls.write_results, answers.wrote),
            _shell(calls.shell_write_results, answers.shell_wrote),
        ),
        needs_earlier=True,
        writes=True,
    ),
    Rule(
        "write",
        "Write 'hello' to notes.txt",
        _pattern(
            "(?:write|save|put|store)(?: the)?(?: text| line| words?)? <text> (?:to|into|in|as) <file>"
            "|(?:create|make)(?: a| the| new| small| empty| text| test)* file(?:(?: called| named)? <file2>)?"
            "(?: (?:with|containing|that says|that contains)(?: the| text| content)*:? <text2>)?"
        ),
        ways=(
            Way("file_ops", "write_file", calls.write_file, answers.wrote),
            _shell(calls.shell_write, answers.shell_wrote),
        ),
        writes=True,
    ),
    Rule(
        "append",
        "Append 'more' to notes.txt",
        _pattern("(?:append|add)(?: the)?(?: text| line)? <text> (?:to|at the end of) <file>"),
        ways=(
            Way("file_ops", "append_file", calls.append_file, answers.wrote),
            _shell(calls.shell_append, answers.shell_wrote),
        ),
        writes=True,
    ),
    Rule(
        "read",
        "Read notes.txt",
        _pattern("(?:read|show|print|display|cat|open)<me>(?: the (?:contents?|text) of)? <file>(?: back)?"),
        ways=(
            Way("file_ops", "read_file", calls.read_file, answers.read),
            _shell(calls.shell_read, answers.ran),
        ),
    ),
    Rule(
        "move",
        "Move notes.txt to old.txt",
        _pattern("(?:move|rename) <file> (?:to|into|as) <target>"),
        ways=(
            Way("file_ops", "move_file", calls.move_file, answers.read),
            _shell(calls.shell_move, answers.ran),
        ),
        writes=True,
    ),
    Rule(
        "delete",
        "Delete notes.txt",
        _pattern("(?:delete|remove) <file>"),
        ways=(
            Way("file_ops", "delete_file", calls.delete_file, answers.read),
            _shell(calls.shell_delete, answers.ran),
        ),
    ),
    Rule(
        "search",
        "Search for 'hello' in notes.txt",
        _pattern("(?:search|find|look|grep)(?: for)? <text> (?:in|under|inside) (?:<file>|<where>)"),
        ways=(
            Way("file_ops", "search_files", calls.search_files, answers.read),
            _shell(calls.shell_search, answers.ran),
        ),
    ),
    Rule(
        "count",
        "Count the files in /usr/bin",
        _pattern(
            "(?:count(?: the)?(?: number of)?|how many) (?P<what>files|entries|lines|words|characters)"
            "(?: are)?(?: there)? (?:in|of|under) (?:<where>|<file>)"
        ),
        ways=(
            _shell(calls.shell_count, answers.shell_counted),
            Way("file_ops", "read_file", calls.read_file, answers.counted),
        ),
    ),
    Rule(
        "run",
        "Run `uname -a`",
        _pattern(r"(?:run|execute)(?: the)?(?: shell)?(?: command)?:? `(?P<command>[^`]+)`"),
        ways=(_shell(calls.run, answers.ran),),
        looks_around=True,
    ),
    Rule(
        "date",
        "What is the date?",
        _pattern(
            "(?:what is|what's|show|tell|give|report|print)<me>(?: the)?(?: current)? (?:date|time)"
            r"(?: and(?: the)? (?:date|time))?"
        ),
        ways=(_shell(calls.date, answers.ran),),
    ),
    Rule(
        "system",
        "Report the system's temperature, memory and load",
        _pattern(
            "(?:report|show|check|get|tell|measure|read|give|display|what is|what's|what are|how|how much)"
            r"<me>(?=.*<topic>)<topics>"
        ),
        ways=(Way("system_info", "system_info", calls.system_info, answers.system_reported),),
    ),
    Rule(
        "sum up",
        "Sum up the results",
        _pattern(
            "(?:sum up|sum|add up|summari[sz]e|combine|collect|total)<results>?"
            "|(?:write|make|give|create)<me>(?: a| the)?(?: short| brief)? (?:summary|total|report)(?: of<results2>)?"
            "|(?:give|tell|report)<me>(?: the)?(?: final| overall| combined)? (?:results?|answers?|total)"
        ),
        answer=answers.summed_up,
        needs_earlier=True,
    ),
)
