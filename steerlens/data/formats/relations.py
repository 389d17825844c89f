"""Mappings from an input to an output: function vectors, LRE relations, known facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from steerlens.data.formats.drafts import (
    Content,
    Draft,
    Drafted,
    Reading,
    by_digest,
    count_rows,
    numbered,
    other_columns,
    text_at,
)
from steerlens.data.formats.text import GROUP_SEPARATOR, ContrastError, normalised, spaced


class _Relation(NamedTuple):
    subject: str
    prompt: str
    output: str
    kind: str = ""
    meta: Mapping[str, str] = {}


def _contrasted(relations: Sequence[_Relation], seed: int, where: str) -> list[Draft]:
    """Each output against another row's output that is wrong for its input, chosen by the seed."""
    valid: dict[tuple[str, str], set[str]] = {}
    for r in relations:
        valid.setdefault((r.kind, r.subject), set()).add(r.output)
    order = by_digest(
        [f"{r.kind}\x1f{r.prompt}\x1f{r.output}" for r in relations], "relation", seed
    )
    wrong: dict[int, str] = {}
    for kind in {r.kind for r in relations}:
        members = [i for i in order if relations[i].kind == kind]
        for at, i in enumerate(members):
            right = valid[kind, relations[i].subject]
            following = (relations[k].output for k in members[at + 1 :] + members[:at])
            found = next((text for text in following if text not in right), None)
            if found is None:
                raise ContrastError(
                    f"{where}: {relations[i].subject!r:.80} has no wrong output to contrast with, "
                    "since all other rows have the same output. Add rows with other outputs."
                )
            wrong[i] = found
    drafts = []
    for i, r in enumerate(relations):
        a, b = normalised(r.subject), normalised(r.output)
        word_pair = " ~ ".join(sorted((a, b)))  # unordered: hot/cold and cold/hot stay together
        drafts.append(
            Draft(
                r.prompt,
                spaced(r.prompt, r.output),
                spaced(r.prompt, wrong[i]),
                GROUP_SEPARATOR.join((a, word_pair)),
                r.meta,
            )
        )
    return drafts


def _remarks(relations: Sequence[_Relation]) -> list[str]:
    outputs: dict[str, set[str]] = {}
    for r in relations:
        outputs.setdefault(r.subject, set()).add(r.output)
    several = sum(len(found) > 1 for found in outputs.values())
    pairs = {(normalised(r.subject), normalised(r.output)) for r in relations}
    both = sum((b, a) in pairs and a != b for a, b in pairs)
    out = []
    if several:
        out.append(f"{several} inputs have several outputs; none of these becomes their negative")
    if both:
        out.append(f"{both} rows have their reverse in the file; both stay in one part of a split")
    return out


def _filled(template: str | None, subject: str, where: str) -> str:
    if template is None:
        return subject
    if "{}" not in template:
        raise ContrastError(
            f"{where}: template={template!r:.80} has no {{}} for the input. Write e.g. "
            "'The capital of {} is'."
        )
    return template.replace("{}", subject)


def is_input_output(content: Content) -> bool:
    """Rows of an input and an output."""
    return content.columns == {"input", "output"}


def read_input_output(content: Content, reading: Reading) -> Drafted:
    """Input, then its output against another row's output (Todd et al., arXiv:2310.15213)."""
    return read_mapping(content, reading, "input", "output")


def read_mapping(content: Content, reading: Reading, source: str, target: str) -> Drafted:
    """Two columns as input and output."""
    relations = []
    for row, record in numbered(content):
        subject = text_at(record, source, row, content)
        prompt = _filled(reading.template, subject, content.where)
        output = text_at(record, target, row, content)
        relations.append(
            _Relation(subject, prompt, output, meta=other_columns(record, (source, target)))
        )
    facts = count_rows(
        "input-output",
        content.records,
        lambda r: str(r[source]),
        lambda r: str(r[target]),
        remarks=_remarks(relations),
    )
    return Drafted(_contrasted(relations, reading.seed, content.where), facts, notes=(_NEGATIVES,))


_NEGATIVES = "negatives are outputs of other rows, chosen by the seed"


def is_relation(content: Content) -> bool:
    """An LRE relation: templates and samples of subject and object."""
    value = content.value
    return isinstance(value, Mapping) and isinstance(value.get("samples"), list)


def read_relation(content: Content, reading: Reading) -> Drafted:
    """Template with the subject, then its object against another one (arXiv:2308.09124)."""
    samples = content.value["samples"]
    if not samples or not all(isinstance(s, Mapping) for s in samples):
        raise ContrastError(
            f"{content.where}: 'samples' is not a list of objects with subject and object. Write "
            "[{'subject': '…', 'object': '…'}, …]."
        )
    templates = content.value.get("prompt_templates")
    template = reading.template
    if template is None:
        if not isinstance(templates, list) or not templates or not isinstance(templates[0], str):
            raise ContrastError(
                f"{content.where} has no prompt_templates. Pass template='The capital of {{}} is'."
            )
        template = templates[0]
    relations = []
    trimmed = 0
    for row, sample in enumerate(samples, start=1):
        written = text_at(sample, "subject", row, content)
        subject = written.strip()  # inside a template its blanks would be typing errors
        trimmed += subject != written
        prompt = _filled(template, subject, content.where)
        relations.append(
            _Relation(
                subject, prompt, text_at(sample, "object", row, content), meta={"subject": subject}
            )
        )
    remarks = _remarks(relations)
    if trimmed:
        remarks.append(f"{trimmed} subjects had blanks around them, which were removed")
    facts = count_rows(
        "relation",
        samples,
        lambda r: str(r["subject"]),
        lambda r: str(r["object"]),
        remarks=remarks,
    )
    name = content.value.get("name")
    return Drafted(
        _contrasted(relations, reading.seed, content.where),
        facts,
        notes=(_NEGATIVES, f"prompt template {template!r}"),
        name=name if isinstance(name, str) else "",
    )


def is_known_facts(content: Content) -> bool:
    """Facts with a finished prompt and an attribute (the known_1000 layout)."""
    return {"subject", "attribute", "prompt"} <= content.columns


def read_known_facts(content: Content, reading: Reading) -> Drafted:
    """Prompt, then its attribute against another of the same relation."""
    relations = []
    for row, record in numbered(content):
        relations.append(
            _Relation(
                text_at(record, "subject", row, content),
                text_at(record, "prompt", row, content),
                text_at(record, "attribute", row, content),
                str(record.get("relation_id", "")),
                other_columns(record, ("prompt", "attribute")),
            )
        )
    several = Counter(r.kind for r in relations)
    alone = {kind for kind, n in several.items() if n < 2}
    kept = [r for r in relations if r.kind not in alone]
    if not kept:
        raise ContrastError(
            f"{content.where} has one fact per relation_id, so no attribute of another fact can be "
            "the negative. Add facts of the same relation."
        )
    facts = count_rows(
        "known-facts",
        content.records,
        lambda r: str(r["prompt"]),
        lambda r: str(r["attribute"]),
        dropped={"alone in their relation": len(relations) - len(kept)},
        remarks=_remarks(kept),
    )
    return Drafted(_contrasted(kept, reading.seed, content.where), facts, notes=(_NEGATIVES,))
