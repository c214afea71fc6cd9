"""pydantic-ai with a JSON schema: what comes back is of the type that was asked for."""

import os
from typing import Literal

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel


class Dose(BaseModel):
    unit: Literal["mg", "g"]
    times: Literal[1, 2, 3]


@pytest.mark.parametrize("form", [NativeOutput, ToolOutput])
def test_the_answer_is_a_dose(form: type) -> None:
    """
    As a JSON schema and as a tool, from an adapter of random weights, which would not spell it.
    """
    agent = Agent(OpenAIChatModel(os.environ["MODEL"]), output_type=form(Dose, strict=True))
    done = agent.run_sync("5 mg, twice a day.", model_settings={"max_tokens": 200})

    assert isinstance(done.output, Dose)
