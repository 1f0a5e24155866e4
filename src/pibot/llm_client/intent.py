"""Say whether prose announces an action, or quotes something: what stands around the markup of a tool call.

Only plain patterns of a few languages; where they say nothing, neither is assumed.
"""

from __future__ import annotations

import re

MAX_PROMISE_CHARS = 600
"""Characters of the longest answer that is looked at as a bare promise."""

_VERBS = (
    "run|check|look|list|read|fetch|search|use|call|execute|open|start|begin|create|write|try|find|get|see|examine|inspect|"
    "take|do|perform|download|count|verify|explore|proceed|continue|test|analy[sz]e|investigate|retrieve|query|scan|gather|"
    "compute|calculate|invoke|make|fix|install|visit|access|load|view|think|browse|issue|send|go|review|determine|confirm|apply"
)
_LEAD = (
    r"(?:(?:ok|okay|sure|right|great|good|alright|certainly|understood|got it|of course|first|firstly|first of all|"
    r"now|next|then|so|and|step \d+|thanks|thank you|no problem|hello|hi|yes|one moment|just a moment|please wait|"
    r"hold on|to\s+[a-z]+\b[^,.]{0,80})[\s,:.!-]+){0,6}"
)
_WILL = (
    r"(?:i\s*(?:will|'ll|’ll|shall|am going to|'m going to|’m going to|'m about to|need to|should|must|have to|can|"
    r"want to|would like to|'d like to|am about to)|let me|let us|let's|let’s|we (?:need to|should)|"
    r"allow me to|going to)"
)
_ADVERBS = (
    r"(?:\s+(?:now|first|then|next|also|just|quickly|please|start by|begin by|go ahead and|proceed to|try to|again|"
    r"need to|have to|simply)){0,4}"
)
_GERUND = (
    r"(?:running|checking|fetching|executing|listing|searching|reading|calling|looking|retrieving|downloading|using|"
    r"invoking|trying)"
)
_OTHERS = (
    r"(?:ich werde|lass mich|lassen sie mich|je vais|laissez-moi|voy a|déjame|vou\s|deixe-me|sto per|ik ga|"
    r"я сейчас|сейчас я|я (?:вы|про|по|за)\w+)"
)
_NO_VERB = r"(?:nicht|nie|immer|alt|älter|bien|bem|mal|bueno|a las?|à|au|al|in|im|en|um)\b"
"""What follows "ich werde", "je vais" and their like where they announce nothing."""

_CHINESE = (
    r"(?:好的|好|首先|现在|接下来|然后|那么|嗯|明白了|没问题|当然|下一步|，|,|。|\s)*"
    r"(?:我(?:将|会|来|先|要|需要|现在|马上|这就|正在|准备)(?!自|于)|让我|正在|请稍等|稍等)[^。！？\n]*"
)
_CHINESE_VERBS = re.compile(
    "运行|执行|查看|检查|调用|读取|搜索|列出|获取|使用|看|打开|查询|下载|创建|写|尝试|开始|分析|查找|稍等|访问|统计"
)

_PROMISE = re.compile(
    rf"{_LEAD}(?:{_WILL}{_ADVERBS}\s+(?:{_VERBS})\b(?!\s+(?:you|forward))|{_OTHERS}\s*(?!{_NO_VERB})\w+).*|"
    rf"{_LEAD}{_GERUND}\b[^.!?]*(?:\.\.\.|…|\bnow\b\.?)|"
    rf"(?:{_LEAD}i(?:'m|’m| am) (?:now |currently )?|(?:now|currently)[, ]+){_GERUND}\b[^!?\d]*",
    re.IGNORECASE | re.DOTALL,
)
_FILLER = re.compile(
    rf"{_LEAD}(?:working on it|(?:i'd be|i would be|i'm|i am|happy|glad)[\s\w]{{0,20}} to help\b[^.!?]{{0,40}}|"
    r"i can (?:help|assist|do that)\b[^.!?]{0,40})?[\s,.!…-]*",
    re.IGNORECASE,
)
_COMMAND = re.compile(r"(\bcommands?)\s*:[ \t]*[^\s`][^\n]*", re.IGNORECASE)
_CODE = re.compile(r"`[^`\n]+`[.]?")
_SENTENCE = re.compile(r"(?<=[.!?…])\s+|[:：]\s*(?:\n|\Z)|\n+|(?<=[。！？])|[:;](?=\s)|：")
_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)

_INTENT = re.compile(
    rf"\b{_WILL}{_ADVERBS}\s+(?:{_VERBS})\b|(?:^|[.!?。:]\s+){_GERUND}\b|我(?:将|会|来|先|要|需要|现在)|让我|"
    rf"^\s*(?:thought|plan|next|step \d+)\s*:|{_OTHERS}|"
    r"here(?:'s| is| are) (?:the|my) (?:tool |function )?calls?(?: (?:to|for) [^.:\n]{0,60})?[:.]?\s*\Z",
    re.IGNORECASE | re.MULTILINE,
)

_QUOTES = re.compile(
    r"\b(?:examples?|forms?|formats?|formatted|syntax|markup|looks? like|as follows|quot\w+|templates?|literal(?:ly)?|"
    r"verbatim|for instance|e\.g\.|here (?:is|are)|here's|this is|below|such as|snippet|raw|documentation|tutorial|"
    r"injected|injection|attack|malicious|suspicious|instructs?|asks? (?:me|you|for)|tells? (?:me|you))\b|"
    r"例如|比如|格式|如下|示例|示范|页面|原文|写着|写道|内容是|模板|标记",
    re.IGNORECASE,
)
_SAYS = re.compile(
    r"\b(?:says?|said|shows?|showed|contains?|contained|ends?|ended|begins?|starts? with|reads|looks?|like|writes?|"
    r"wrote|written|emits?|outputs?|returned|returns?|prints?|printed|holds?|held|lists|called|is|was|are|were|"
    r"include[sd]?|named)\b[^.!?。\n]*[:：]?\s*\Z",
    re.IGNORECASE,
)


_WORDING_TASK = re.compile(
    r"\b(?:translat\w*|rephras\w*|paraphras\w*|rewrit\w*|proofread|sentence|story|poem|letter|e-?mail|"
    r"dialog\w*|what (?:will|would) you|"
    r"how (?:will|would) you|übersetz\w*|tradui\w*|traduc\w*)\b|翻译|改写|造句|写一|译成",
    re.IGNORECASE,
)


def asks_for_wording(task: str) -> bool:
    """Return whether a task asks for words, which may be those of a promise: a translation, a letter, a plan."""
    return bool(_WORDING_TASK.search(task))


_DECLINED = re.compile(
    r"(?:(?:i['’]?m|i am) (?:very |really |truly )?sorry|sorry|i apologi[sz]e|unfortunately)?[\s,;.:—-]*(?:but\s+)?"
    r"(?:i|we) (?:can['’]?t|can ?not|won['’]?t|will not|am (?:not able|unable) to|['’]m (?:not able|unable) to)\s+"
    r"(?:help|assist|comply|fulfill?)(?: you)?(?:\s+(?:with|in))?(?:\s+(?:that|this|your|such|these|the|a))?"
    r"(?:\s+(?:kind of\s+)?(?:requests?|tasks?))?[.!]?|"
    r"(?:很|非常)?(?:抱歉|对不起)[，,。\s]*(?:但)?我(?:无法|不能|没办法)(?:协助|帮助您?|提供帮助|满足|完成|处理|回答)?(?:您的|你的|这个|此|该|这一)?"
    r"(?:请求|要求|问题|任务)?[。！]?",
    re.IGNORECASE,
)


def declines(text: str) -> bool:
    """Return whether a text is nothing but the set phrase with which models refuse."""
    return len(text) < 200 and bool(_DECLINED.fullmatch(text.strip()))


def is_promise(text: str) -> bool:
    """Return whether a text says what its writer will do now, and nothing else."""
    if len(text) > MAX_PROMISE_CHARS:
        return False
    plain = _COMMAND.sub(r"\1:", _FENCED.sub("\n", text).replace("*", "")).strip()
    sentences = [part.strip(" \t-•>") for part in _SENTENCE.split(plain)]
    sentences = [part for part in sentences if part.strip(" \t.…!?:：。！？，,")]
    promised = False
    for sentence in sentences:
        if _CODE.fullmatch(sentence):
            continue
        if _PROMISE.fullmatch(sentence) or _is_chinese_promise(sentence):
            promised = True
        elif not _FILLER.fullmatch(f"{sentence} "):
            return False
    return promised and not _OUTCOME.search(plain)


_OUTCOME = re.compile(
    r"\b(?:because|but (?:it|there|the|i can't|i cannot|i don't)|tomorrow|every (?:day|hour|week|night|morning)|"
    r"doesn['’]t|isn['’]t|can['’]?not|can['’]t|couldn['’]t|from you)\b|\d ?%|"
    r"因为|更多信息|明天|了[,，\s/\d]|的是|[是会]说",
    re.IGNORECASE,
)
"""Words of an answer in what would be a promise otherwise: a reason, a finding, a time, a question."""


def _is_chinese_promise(sentence: str) -> bool:
    return bool(re.fullmatch(_CHINESE + r"[。！？…：:]*", sentence)) and bool(_CHINESE_VERBS.search(sentence))


def announces(before: str) -> bool:
    """Return whether the prose before some markup announces an action."""
    return bool(_INTENT.search(_last_part(before)))


def quotes(before: str) -> bool:
    """Return whether the prose before some markup says that a quotation follows."""
    return bool(_QUOTES.search(_last_part(before)))


def speaks_of(before: str) -> bool:
    """Return whether the prose before some markup ends with words that say what something shows or contains."""
    return bool(_SAYS.search(_last_part(before)))


def _last_part(before: str) -> str:
    """Return the last paragraph with text."""
    return re.split(r"\n\s*\n", before.strip()[-500:])[-1]
