"""
Many answers at once are the same as each alone, and as transformers' own greedy decoding.
"""

import pytest
import torch

from galenic_adapters.backbone.encode import encode
from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.tuning import Fixed
from galenic_adapters.evaluation.decode import Question, answer, answer_all
from galenic_adapters.factor import Composed
from galenic_adapters.tasks.base import Example
from galenic_adapters.tasks.ner import Ner, NerFields
from galenic_adapters.tasks.nli import Nli, NliFields
from galenic_adapters.tasks.summarization import Summarization, SummarizationFields
from tests.support.tiny_models import tiny_gpt_oss, tiny_llama

TEXTS = ["Short.", "A much longer note about aspirin and nothing else.", "Of middling length."]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return PromptedBackbone(tiny_llama(tmp_path_factory.mktemp("llama")), dtype=torch.float32)


@pytest.fixture(scope="module")
def prompt_PD(backbone):  # noqa: N802  # a tensor, named by its shape
    return torch.randn(8, backbone.width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("is_prompted", [True, False])
def test_equals_transformers_generate(backbone, prompt_PD, is_prompted):
    task = Summarization()
    examples = [Example(str(i), SummarizationFields(t), "") for i, t in enumerate(TEXTS)]
    prompt = prompt_PD if is_prompted else None

    said = answer_all(
        backbone, prompt if prompt is None else Composed(prompt), task, examples, max_tokens=12
    )

    for example, one in zip(examples, said, strict=True):
        ids = torch.tensor([encode(backbone.tokenizer, task.render(example.fields))])
        rows = backbone.model.get_input_embeddings()(ids)
        if prompt is not None:
            rows = torch.cat([prompt[None], rows], dim=1)
        theirs = backbone.model.generate(
            inputs_embeds=rows,
            attention_mask=torch.ones(rows.shape[:2]),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        )
        assert backbone.tokenizer.decode(theirs[0], skip_special_tokens=True) == one.text


def test_a_constraint_always_yields_an_answer_of_its_form(backbone, prompt_PD):
    """A random model answers in the form too, whatever it would rather say."""
    nli = Nli(("entailment", "neutral"))
    examples = [Example(str(i), NliFields(t, t), "neutral") for i, t in enumerate(TEXTS)]

    for example, said in zip(
        examples, answer_all(backbone, Composed(prompt_PD), nli, examples), strict=True
    ):
        answer = nli.read(said, example.fields)
        assert answer.value in nli.labels
        assert 0 < answer.confidence <= 1


def test_a_list_that_does_not_end_is_truncated_and_not_off_schema(backbone, prompt_PD):
    ner = Ner(("Disease",))
    examples = [Example("1", NerFields(TEXTS[1]), ())]

    (said,) = answer_all(backbone, Composed(prompt_PD), ner, examples, max_tokens=40)

    assert said.text == "none" or said.text.startswith("Disease: ")


def test_tasks_side_by_side_are_answered_as_each_alone(backbone, prompt_PD):
    """Constraints, prompts and lengths of one task do not change the answers of another."""
    nli, summary, ner = Nli(("entailment", "neutral")), Summarization(), Ner(("Drug", "Disease"))
    prompts = torch.stack([prompt_PD, prompt_PD * 0.5, -prompt_PD])
    asked = [
        *(
            Question(0, nli, Example(str(i), NliFields(t, t), "neutral"))
            for i, t in enumerate(TEXTS)
        ),
        *(Question(1, summary, Example(t, SummarizationFields(t), "")) for t in TEXTS),
        *(Question(2, ner, Example(t, NerFields(t), ())) for t in TEXTS),
    ]

    together = answer(backbone, Fixed([Composed(one) for one in prompts]), asked, max_tokens=16)

    for question, said in zip(asked, together, strict=True):
        alone = answer_all(
            backbone,
            Composed(prompts[question.which]),
            question.task,
            [question.example],
            max_tokens=16,
        )
        assert (alone[0].text, alone[0].finish) == (said.text, said.finish)


def test_nor_does_a_window_tell_them_apart(tmp_path):
    """The window has 48 tokens, and the prompt with each text is longer than that."""
    backbone = PromptedBackbone(tiny_gpt_oss(tmp_path), dtype=torch.float32)
    prompt_PD = torch.randn(40, backbone.width, generator=torch.Generator().manual_seed(0))
    texts = [*TEXTS, TEXTS[0][::-1]]
    examples = [Example(text, SummarizationFields(text=text), "") for text in texts]

    together = answer_all(backbone, Composed(prompt_PD), Summarization(), examples, max_tokens=10)

    for example, said in zip(examples, together, strict=True):
        alone = answer_all(backbone, Composed(prompt_PD), Summarization(), [example], max_tokens=10)
        assert alone[0].text == said.text


def test_a_checkpointing_backbone_answers_the_same_and_goes_on_checkpointing(tmp_path, prompt_PD):
    path = tiny_llama(tmp_path)
    said = []
    for checkpointing in (False, True):
        backbone = PromptedBackbone(path, dtype=torch.float32, checkpointing=checkpointing)
        examples = [Example("1", SummarizationFields(text=text), "") for text in TEXTS]
        said.append(
            answer_all(backbone, Composed(prompt_PD), Summarization(), examples, max_tokens=6)
        )

    assert said[0] == said[1]
    assert backbone.model.training
