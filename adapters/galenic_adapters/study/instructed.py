"""
Gives the untuned backbone its best chance: the same tasks with detailed instructions.
"""

from dataclasses import dataclass
from typing import Any

from galenic_adapters.tasks.base import Message, Task, TaskName

ROLE = "You are an expert annotator of clinical and biomedical text."
HOW = {
    TaskName.NER: (
        "Find every mention of these types in the user's text: {labels}. Copy each mention exactly "
        "as it is written there. Write one mention a line, as `type: mention`, in the order of "
        "the text. If there is no such mention, write only `none`."
    ),
    TaskName.RE: (
        "The user's text marks one entity as <<head>> and another as [[tail]]. Decide which of "
        "these relations the text states from head to tail: {labels}. Write only its name; `none`, "
        "if it is listed, means that the text states no relation between the two."
    ),
    TaskName.QA: (
        "Answer the user's question correctly. Where options are given, write only the letter of "
        "the right one. Otherwise answer in a few words, taken from the text where one is given."
    ),
    TaskName.NLI: (
        "The user gives two texts. Decide how the second relates to the first, given the first "
        "as true: {labels}. Write only that label."
    ),
    TaskName.SUMMARIZATION: (
        "Summarize the user's text in as few words as keep what matters clinically. Write only the "
        "summary, invent nothing."
    ),
}


@dataclass(frozen=True, slots=True)
class Instructed:
    """Wraps *task* with another instruction; its constraint and its reader stay the same."""

    task: Task[Any, Any]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def render(self, fields: Any) -> tuple[Message, ...]:
        *_, asked = self.task.render(fields)
        how = HOW[self.task.name].format(labels=", ".join(self.task.labels))
        return (Message("system", f"{ROLE} {how}"), asked)
