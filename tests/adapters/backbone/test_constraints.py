"""
What a constraint allows, shown by walking the compiled grammar over whole answers.
"""

import pytest
import torch

from galenic_adapters.backbone.constraints import Constrainer
from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Choice, Grammar, JsonSchema
from galenic_adapters.tasks.ner import Ner, NerFields
from galenic_adapters.tasks.re import Re, ReFields
from tests.support.tiny_models import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def constrainer(tokenizer):
    return Constrainer(tokenizer, len(tokenizer), [tokenizer.eos_token_id])


@pytest.fixture
def allows(tokenizer, constrainer):
    def allows(constraint, text: str) -> bool:
        matcher = constrainer.begin(constraint)
        ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        return all(matcher.accept_token(token) for token in ids)

    return allows


NER = Ner(("Disease", 'a "quoted" \\ type')).constraint(NerFields("x"))
RE = Re(("treats", "none")).constraint(ReFields("x"))


@pytest.mark.parametrize(
    ("constraint", "text", "is_allowed"),
    [
        (Choice(("yes", "yes, but")), "yes", True),
        (Choice(("yes", "yes, but")), "yes, but", True),
        (Choice(("yes", "yes, but")), "yes,", False),
        (NER, "none", True),
        (NER, "Disease: flu", True),
        (NER, "Disease: flu\nDisease: µ-opioid – 🩺", True),
        (NER, 'a "quoted" \\ type: flu', True),
        (NER, "Drug: flu", False),
        (NER, "Disease: ", False),
        (NER, "none\nDisease: flu", False),
        (NER, "", False),
        (RE, "treats: a -> b", True),
        (RE, "treats: a", False),
        (RE, "none: a -> b", False),
        (JsonSchema('{"type": "integer"}'), "7", True),
        (JsonSchema('{"type": "integer"}'), "seven", False),
    ],
)
def test_what_is_allowed(allows, constraint, text, is_allowed):
    assert is_allowed == allows(constraint, text)


@pytest.mark.parametrize("constraint", [Grammar("root ::= ("), JsonSchema("{")])
def test_text_that_is_no_grammar_is_refused(constrainer, constraint):
    with pytest.raises(BadInput, match="constraint: does not compile"):
        constrainer.begin(constraint)


def test_the_mask_leaves_only_what_may_come_next(tokenizer, constrainer):
    matcher = constrainer.begin(Choice(("a", "b")))

    masked_V = constrainer.mask(torch.zeros(len(tokenizer)), matcher)

    assert ["a", "b"] == sorted(tokenizer.decode(i) for i in masked_V.isfinite().nonzero())
