"""What our plugin does to the processes of vLLM that load it."""

import logging

import pytest
from vllm import ModelRegistry
from vllm.tokenizers.registry import TokenizerRegistry

from galenic_server.engine.plugin import (
    ARCHITECTURES,
    DISCREET,
    OUTSPOKEN_LOGGERS,
    TOKENIZER_MODE,
    register,
)


@pytest.fixture(autouse=True)
def _talkative_afterwards():
    yield
    for name in OUTSPOKEN_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)


class TestRegister:
    def test_it_may_be_called_again_and_imports_no_model(self):
        """
        Architectures are names until a backbone asks for one.
        """
        register()
        register()

        assert TOKENIZER_MODE in TokenizerRegistry.tokenizers
        for name in ARCHITECTURES:
            assert "galenic_server.engine.models" == ModelRegistry.models[name].module_name

    def test_only_our_engines_processes_are_discreet(self, monkeypatch):
        """
        A crash prints the batch's constraints, which may quote a patient; plain vLLM may do so.
        """
        said = {}
        for wish in ("", "1"):
            monkeypatch.setenv(DISCREET, wish)
            register()
            loggers = [logging.getLogger(name) for name in OUTSPOKEN_LOGGERS]
            said[wish] = {logger.isEnabledFor(logging.CRITICAL) for logger in loggers}

        assert {"": {True}, "1": {False}} == said
