"""What our plugin does to the processes of vLLM that load it."""

from vllm import ModelRegistry

from galenic_server.engine.vllm.plugin import ARCHITECTURES, register


class TestRegister:
    def test_it_may_be_called_again_and_imports_no_model(self):
        """
        Architectures are names until a backbone asks for one.
        """
        register()
        register()

        for name in ARCHITECTURES:
            assert "galenic_server.engine.vllm.models" == ModelRegistry.models[name].module_name
