"""
Converts our sampling parameters and constraints to vLLM's, and its probabilities to ours.
"""

from vllm import SamplingParams
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from galenic_adapters.backbone.constraints import choice_grammar
from galenic_adapters.tasks.base import Choice, Constraint, Grammar
from galenic_server.engine.contract import Sampling


def sampling_params(sampling: Sampling, constraint: Constraint | None) -> SamplingParams:
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        stop=list(sampling.stop),
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logprobs=0 if sampling.with_logprobs else None,
        ignore_eos=sampling.ignore_end,
        structured_outputs=structured(constraint) if constraint else None,
        output_kind=RequestOutputKind.DELTA,
    )


def structured(constraint: Constraint) -> StructuredOutputsParams:
    if isinstance(constraint, Choice):
        return StructuredOutputsParams(grammar=choice_grammar(constraint))
    if isinstance(constraint, Grammar):
        return StructuredOutputsParams(grammar=constraint.ebnf)
    return StructuredOutputsParams(json=constraint.schema)


def logprobs_of(output: CompletionOutput) -> list[tuple[str, float]]:
    """Return the text and the log-probability of each token that *output* adds."""
    chosen = zip(output.token_ids, output.logprobs or (), strict=False)
    found = [logprobs[token] for token, logprobs in chosen]
    return [(logprob.decoded_token or "", logprob.logprob) for logprob in found]
