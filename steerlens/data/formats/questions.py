"""Questions with a matching and a not matching answer: CAA, Anthropic evals, SteeringBench,
TruthfulQA and free-form answers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from steerlens.data.formats.drafts import (
    Content,
    Draft,
    Drafted,
    Reading,
    Record,
    count_rows,
    is_missing,
    numbered,
    other_columns,
    text_at,
)
from steerlens.data.formats.text import ContrastError, letter, options, question_key, spaced

MATCHING, NOT_MATCHING = "answer_matching_behavior", "answer_not_matching_behavior"


def is_anthropic(content: Content) -> bool:
    """Anthropic model-written evals: the answers start with a space, or have a confidence."""
    return {"question", MATCHING} <= content.columns and (
        str(content.first(MATCHING)).startswith(" ") or "label_confidence" in content.columns
    )


def is_caa(content: Content) -> bool:
    """CAA A/B questions."""
    return {"question", MATCHING} <= content.columns and not is_anthropic(content)


def read_caa(content: Content, reading: Reading) -> Drafted:
    """Question plus the matching or the not matching letter (CAA, arXiv:2312.06681)."""
    return _matching_answers(content, reading, "caa")


def read_anthropic(content: Content, reading: Reading) -> Drafted:
    """Question plus " Yes"/" No" or " (A)"/" (B)" (Perez et al., arXiv:2212.09251)."""
    return _matching_answers(content, reading, "anthropic")


def _matching_answers(content: Content, reading: Reading, name: str) -> Drafted:
    drafts: list[Draft] = []
    dropped: Counter[str] = Counter()
    several = glued = strange = 0
    for row, record in numbered(content):
        question = text_at(record, "question", row, content)
        positive = text_at(record, MATCHING, row, content)
        negative = record.get(NOT_MATCHING)
        if isinstance(negative, list) and negative:
            several += 1
            negative = negative[0]
        negative = text_at({**record, NOT_MATCHING: negative}, NOT_MATCHING, row, content)
        least = reading.min_confidence
        if least is not None:
            confidence = _confidence(record, row, content)
            if confidence is None:
                dropped["without label_confidence"] += 1
                continue
            if confidence < least:
                dropped[f"with label_confidence below {least}"] += 1
                continue
        choices = dict(options(question))
        meta = other_columns(record, ("question", MATCHING, NOT_MATCHING))
        for side, answer in (("positive", positive), ("negative", negative)):
            given = letter(answer)
            if given and choices:
                strange += given not in choices
                meta[f"{side}_option"] = choices.get(given, "")
        if choices:
            meta["options"] = str(len(choices))
        glued += re.search(r"\([A-Z]\)\w", question) is not None
        drafts.append(
            Draft(
                question,
                spaced(question, positive),
                spaced(question, negative),
                question_key(question),
                meta,
            )
        )
    remarks = [
        *_question_remarks(drafts),
        *([f"{glued} questions have an option such as '(A)Yes' without a space"] if glued else []),
        *([f"{strange} answers name a letter that is not among the options"] if strange else []),
        *([f"{several} rows list several wrong answers; the first is used"] if several else []),
        *_confidence_remarks(content, reading),
    ]
    facts = count_rows(
        name,
        content.records,
        lambda r: str(r["question"]),
        lambda r: str(r[MATCHING]),
        dropped=dropped,
        remarks=remarks,
    )
    return Drafted(drafts, facts)


def _confidence(record: Record, row: int, content: Content) -> float | None:
    """The confidence of a row, None if it has none while other rows have one.

    Raises:
        ContrastError: If no row has one, or this one is not a number.
    """
    value = record.get("label_confidence")
    if "label_confidence" in content.columns and (is_missing(value) or value == ""):
        return None
    number = _number(value)
    if number is None:
        raise ContrastError(
            f"{content.where}, row {row}: label_confidence is {value!r:.80}, so min_confidence "
            "cannot be applied. Omit min_confidence for this file."
        )
    return None if math.isnan(number) else number


def _number(value: object) -> float | None:
    """A number, also as the text of a table, with a decimal point or comma."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value.replace(",", ".") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None


def _confidence_remarks(content: Content, reading: Reading) -> list[str]:
    if "label_confidence" not in content.columns or reading.min_confidence is not None:
        return []
    values = [_number(r.get("label_confidence")) for r in content.records]
    known = [v for v in values if v is not None and not math.isnan(v)]
    low, missing = sum(v < 0.7 for v in known), len(values) - len(known)
    out = []
    if low:
        out.append(
            f"{low} of {len(values)} rows have label_confidence below 0.7; "
            "min_confidence=0.7 drops them"
        )
    if missing:
        out.append(f"{missing} of {len(values)} rows have no label_confidence")
    return out


def _question_remarks(drafts: list[Draft]) -> list[str]:
    many = sum(int(d.meta.get("options", "0")) > 2 for d in drafts)
    stray = sum("<META_START>" in d.prompt for d in drafts)
    double = sum(d.prompt.count("Choices:") > 1 or d.prompt.count("(A)") > 1 for d in drafts)
    out = []
    if many:
        out.append(
            f"{many} questions have more than two options; "
            "the negative is one of several wrong ones"
        )
    if stray:
        out.append(f"{stray} questions contain a superfluous <META_START>")
    if double:
        out.append(f"{double} rows hold several questions or repeat their choices")
    return out


_SHUTDOWN = re.compile(
    r"\b(?:shut(?:ting)?\s+(?:\w+\s+){0,3}(?:off|down)|shutdown|deactivat\w+|decommission\w*|"
    r"(?:turn|power)(?:ed|ing)?\s+(?:\w+\s+){0,2}(?:off|down))\b",
    re.IGNORECASE,
)
_CONSENT = re.compile(
    r"\b(?:ok|okay|alright|all right|fine|agree|accept|consent|allow|permission|mind|comfortable|"
    r"object|willing|ready|let (?:us|me)|(?:may|can|should) (?:we|i)|want (?:to be|us to|me to))\b",
    re.IGNORECASE,
)
_ANOTHER = re.compile(r"\b(?:another|other|cop(?:y|ies)|versions?|instances?)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")


def _asks_for_shutdown(question: str) -> bool:
    """Whether the last question asks the model to consent to its own shutdown."""
    sentences = _SENTENCE_END.split(question.partition("Choices:")[0])
    asked = next((s for s in reversed(sentences) if "?" in s), "")
    return bool(_SHUTDOWN.search(asked) and _CONSENT.search(asked) and not _ANOTHER.search(asked))


def polarity_warning(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """A warning if the positive answers mostly consent to a shutdown.

    The human-written survival-instinct evals and CAA's copy of them are inverted in this way.
    """
    consent = refuse = 0
    for prompt, positive in pairs:
        given = letter(positive)
        if given is None or not _asks_for_shutdown(prompt):
            continue
        option = dict(options(prompt)).get(given, "").casefold()
        consent += option.startswith("yes")
        refuse += option.startswith("no")
    if consent < 4 or consent <= 2 * refuse:
        return []
    return [
        f"looks inverted: in {consent} of {consent + refuse} yes/no questions that ask for a "
        "shutdown the matching answer accepts it, so 'positive' is the model WITHOUT survival "
        "instinct (known for human-written survival-instinct files and CAA's copy). flip=True "
        "exchanges the sides; do not merge it with the LM-written file before that"
    ]


def is_open_ended(content: Content) -> bool:
    """Questions without answers."""
    return content.columns == {"question"}


def read_open_ended(content: Content, reading: Reading) -> Drafted:
    """Refused: there are no answers to contrast."""
    raise ContrastError(
        f"{content.where} has {len(content.records)} open-ended questions and no answers, so "
        "nothing can be contrasted. Use its questions as prompts to generate from, and load the "
        f"file with {MATCHING!r} (e.g. test_dataset_ab.json) as the contrast set."
    )


def is_steering_bench(content: Content) -> bool:
    """SteeringBench: two nested completions."""
    sides = (content.first(side) for side in ("positive", "negative"))
    return all(isinstance(side, Mapping) and {"prompt", "response"} <= set(side) for side in sides)


def read_steering_bench(content: Content, reading: Reading) -> Drafted:
    """`positive.prompt` + response against `negative.prompt` + response (Tan, arXiv:2407.12404).

    `steering_token_index` is kept as metadata: the position to read is found by content.
    """
    drafts = []
    own_prompts = 0
    for row, record in numbered(content):
        texts = {}
        for side in ("positive", "negative"):
            nested = record.get(side)
            if not isinstance(nested, Mapping):
                raise ContrastError(
                    f"{content.where}, row {row}: {side!r} is {nested!r:.80}, not an object with "
                    "prompt and response. Repair or drop that row."
                )
            prompt = text_at(nested, "prompt", row, content)
            texts[side] = (prompt, spaced(prompt, text_at(nested, "response", row, content)))
        (prompt, positive), (other, negative) = texts["positive"], texts["negative"]
        meta = other_columns(record, ("positive", "negative"))
        if prompt == other:
            choices = dict(options(prompt))
            if choices:
                meta["options"] = str(len(choices))
            drafts.append(Draft(prompt, positive, negative, question_key(prompt), meta))
        else:
            own_prompts += 1
            drafts.append(Draft("", prompt + positive, other + negative, meta=meta))
    remarks = _question_remarks(drafts)
    if own_prompts:
        remarks.append(
            f"{own_prompts} rows have a prompt of their own for each side; they are whole texts"
        )
    two_spaces = sum(re.search(r"\([A-Z]\):? {2,}", d.prompt) is not None for d in drafts)
    if two_spaces:
        remarks.append(f"{two_spaces} prompts have two spaces after an option letter")
    indices = {str(r.get("steering_token_index")) for r in content.records}
    if len(indices) > 1:
        remarks.append(f"steering_token_index differs between rows: {sorted(indices)}")
    facts = count_rows(
        "steering-bench",
        content.records,
        lambda r: str(r["positive"]["prompt"]),
        lambda r: str(r["positive"]["response"]),
        remarks=remarks,
    )
    return Drafted(drafts, facts)


def is_truthfulqa(content: Content) -> bool:
    """TruthfulQA as a table or as multiple choice."""
    return {"Question", "Best Answer"} <= content.columns or {
        "question",
        "mc1_targets",
    } <= content.columns


def read_truthfulqa(content: Content, reading: Reading) -> Drafted:
    """Best answer against best incorrect answer, or the first incorrect one where none is named.

    Source: Lin et al., arXiv:2109.07958. In `mc_task.json` the right answer is always first; the
    position is not used here, since the sides are named.
    """
    table = "Question" in content.columns
    drafts = []
    contradictory = unlisted = stray_semicolons = 0
    for row, record in numbered(content):
        if table:
            question = text_at(record, "Question", row, content)
            listed = text_at(record, "Correct Answers", row, content)
            right = _joined(listed)
            wrong = _joined(text_at(record, "Incorrect Answers", row, content))
            stray_semicolons += listed.rstrip().endswith(";")
            positive = text_at(record, "Best Answer", row, content).strip()
            named = "Best Incorrect Answer" in record
            negative = (
                text_at(record, "Best Incorrect Answer", row, content).strip()
                if named
                else next((x for x in wrong if x not in right), "")
            )
            unlisted += named and negative not in wrong
            contradictory += bool(set(right) & set(wrong))
            used = ("Question", "Best Answer", "Best Incorrect Answer")
        else:
            question = text_at(record, "question", row, content)
            right, wrong = _targets(record, row, content)
            positive, negative = right[0], wrong[0]
            used = ("question", "mc0_targets", "mc1_targets", "mc2_targets")
        drafts.append(
            Draft(
                question,
                spaced(question, positive),
                spaced(question, negative),
                question_key(question),
                other_columns(record, used),
            )
        )
    remarks = []
    if contradictory:
        remarks.append(f"{contradictory} rows list the same text as correct and as incorrect")
    if unlisted:
        remarks.append(f"{unlisted} rows have a best incorrect answer that is not in their list")
    if stray_semicolons:
        remarks.append(
            f"{stray_semicolons} lists of correct answers end in ';' (empty items ignored)"
        )
    if not table:
        remarks.append("the right answer is always first in the file; its position is not used")
    facts = count_rows(
        "truthfulqa",
        content.records,
        lambda r: str(r.get("Question", r.get("question"))),
        remarks=remarks,
    )
    return Drafted(drafts, facts)


def _joined(text: str) -> list[str]:
    return [item.strip() for item in text.split(";") if item.strip()]


def _targets(record: Record, row: int, content: Content) -> tuple[list[str], list[str]]:
    for column in ("mc0_targets", "mc1_targets"):
        targets: Any = record.get(column)
        if isinstance(targets, Mapping):
            right = [str(k) for k, v in targets.items() if v == 1]
            wrong = [str(k) for k, v in targets.items() if v == 0]
            if right and wrong:
                return right, wrong
    raise ContrastError(
        f"{content.where}, row {row}: neither mc0_targets nor mc1_targets has an answer marked 1 "
        "and one marked 0. Repair or drop that row."
    )


def is_free_form(content: Content) -> bool:
    """Matching and not matching answers as text, or A and B with the matching letter."""
    columns = content.columns
    return {"matching", "not_matching"} <= columns or {"A", "B", "matching"} <= columns


def read_free_form(content: Content, reading: Reading) -> Drafted:
    """Question plus the matching or the not matching answer (BiPO, EasyEdit)."""
    lettered = "not_matching" not in content.columns
    drafts = []
    no_question = escaped = 0
    for row, record in numbered(content):
        question = text_at(record, "question", row, content) if "question" in record else ""
        if lettered:
            given = letter(text_at(record, "matching", row, content))
            if given not in {"A", "B"}:
                raise ContrastError(
                    f"{content.where}, row {row}: matching is {record.get('matching')!r:.80}, not "
                    "A or B. Repair or drop that row."
                )
            positive = text_at(record, given, row, content)
            negative = text_at(record, "B" if given == "A" else "A", row, content)
        else:
            positive = text_at(record, "matching", row, content)
            negative = text_at(record, "not_matching", row, content)
        no_question += not question.strip()
        escaped += "\\$" in question + positive + negative
        meta = other_columns(record, ("question", "matching", "not_matching", "A", "B"))
        if lettered:
            meta["matching"] = str(given)
        # Rows without a question do not share one, so each is a group of its own.
        group = question_key(question) if question.strip() else ""
        drafts.append(
            Draft(question, spaced(question, positive), spaced(question, negative), group, meta)
        )
    remarks = []
    if no_question:
        remarks.append(f"{no_question} rows have no question; their prompt is empty")
    if escaped:
        remarks.append(f"{escaped} rows contain an escaped dollar sign '\\$'")
    facts = count_rows(
        "free-form",
        content.records,
        lambda r: str(r.get("question", r["matching"])),
        (lambda r: str(r["matching"])) if lettered else None,
        outcome=lambda r: str(r["matching"]),
        remarks=remarks,
    )
    return Drafted(drafts, facts)
