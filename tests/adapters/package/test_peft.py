"""
Both ways against the installed PEFT, on a tiny random Llama: what one makes, the other reads, and
the model says the same.

Dimension key:  P prompt positions   D model width   R rank   K tasks
"""

import json
import pickle

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from galenic_adapters.cli.main import app
from galenic_adapters.errors import BadInput
from galenic_adapters.factor import Factor, Metaprompt, compose
from galenic_adapters.package.file import Package, read_metaprompt, write_metaprompt
from galenic_adapters.package.peft_read import import_adapter, read_checkpoint
from galenic_adapters.package.peft_write import write_checkpoint
from tests.support.packages import BACKBONE, make_manifest
from tests.support.tiny_models import WIDTH, tiny_llama

P, D, R, K = 6, WIDTH, 3, 2
TEXT_IDS = torch.tensor([[5, 9, 17, 33], [8, 70, 71, 3]])


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def model(llama):
    return AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()


def ours(model, prompt_PD):
    """The logits of our own form: the composed prompt before the text's vectors."""
    text_BTD = model.get_input_embeddings()(TEXT_IDS)
    prompt_BPD = prompt_PD.expand(len(TEXT_IDS), -1, -1)
    with torch.no_grad():
        return model(inputs_embeds=torch.cat([prompt_BPD, text_BTD], dim=1)).logits


def theirs(peft_model, task_id=None):
    """The logits of PEFT's; its prompts are asked for by a task id a row."""
    asked = {} if task_id is None else {"task_ids": torch.full((len(TEXT_IDS),), task_id)}
    with torch.no_grad():
        return peft_model(input_ids=TEXT_IDS, **asked).logits


def randomized(model, config):
    """A PEFT model of *config* whose prompt is far from where PEFT starts it."""
    made = peft.get_peft_model(model, config).eval()
    torch.manual_seed(1)
    for parameter in made.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter)
    return made


@pytest.fixture
def multitask(model):
    config = peft.MultitaskPromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=P, num_tasks=K, num_ranks=R
    )
    return randomized(model, config)


@pytest.fixture
def saved(multitask, tmp_path):
    multitask.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def made(seed, rank=R, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    factor = Factor(
        torch.randn(P, rank, generator=rng).to(dtype), torch.randn(rank, D, generator=rng).to(dtype)
    )
    shapes = {"u": (P, rank), "v": (rank, D)}
    fields = {"shapes": shapes, "dtype": str(dtype).removeprefix("torch.")}
    manifest = make_manifest(name=f"a{seed}", metaprompt=METAPROMPT.digest, **fields)
    return Package.write(manifest, factor)


METAPROMPT = Metaprompt(torch.randn(P, D, generator=torch.Generator().manual_seed(0)))


class TestImport:
    def test_a_multitask_checkpoint_says_the_same_as_an_adapter(self, multitask, saved, model):
        checkpoint = read_checkpoint(saved)

        for task_id in range(K):
            package = import_adapter(
                checkpoint, task_id, name="x", task="ner", labels=["X"], backbone=BACKBONE
            )
            prompt_PD = compose(checkpoint.metaprompt, package.factor).rows_PD
            torch.testing.assert_close(theirs(multitask, task_id), ours(model, prompt_PD))
        assert not torch.allclose(theirs(multitask, 0), theirs(multitask, 1))

    def test_a_dense_prompt_is_a_metaprompt_scaled_by_one(self, model, tmp_path):
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P)
        tuned = randomized(model, config)
        tuned.save_pretrained(tmp_path / "dense")

        checkpoint = read_checkpoint(tmp_path / "dense")
        prompt_PD = compose(checkpoint.metaprompt, checkpoint.factor(0)).rows_PD

        assert torch.equal(checkpoint.metaprompt.rows_PD, prompt_PD)
        assert 1 == checkpoint.factor(0).rank
        torch.testing.assert_close(theirs(tuned), ours(model, prompt_PD))

    def test_paths_names_and_class_maps_are_not_looked_at(self, saved, monkeypatch):
        """
        Not even the names of what could be fetched, opened or imported matter.
        """
        self._change(
            saved,
            tokenizer_name_or_path="/nowhere/at-all",
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text="x",
            prompt_tuning_init_state_dict_path="/nowhere/state.bin",
            auto_mapping={"base_model_class": "os.system", "parent_library": "os"},
            base_model_name_or_path="http://elsewhere.invalid",
            modules_to_save=["lm_head"],
            tokenizer_kwargs={"trust_remote_code": True},
        )

        assert K == len(read_checkpoint(saved).factors)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"peft_type": "LORA"}, "peft_type: Input should be 'MULTITASK_PROMPT_TUNING' or"),
            ({"task_type": "SEQ_2_SEQ_LM"}, "task_type: Input should be 'CAUSAL_LM'"),
            ({"num_transformer_submodules": 2}, "num_transformer_submodules"),
            ({"num_virtual_tokens": 10**12}, "prompt_embeddings has shape"),
            ({"num_virtual_tokens": "6"}, "num_virtual_tokens: Input should be a valid integer"),
            ({"token_dim": 7}, "has shape"),
            ({"num_ranks": 4}, "prefix_task_cols has shape"),
            ({"num_tasks": 1}, "prefix_task_cols has shape"),
            ({"peft_type": "PROMPT_TUNING"}, "holds prefix_task_cols, prefix_task_rows, prompt"),
        ],
    )
    def test_a_configuration_that_does_not_fit_is_refused(self, saved, change, problem):
        self._change(saved, **change)

        with pytest.raises(BadInput, match=problem):
            read_checkpoint(saved)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"prompt_embeddings": torch.full((P, D), torch.nan)}, "NaN or infinity"),
            ({"prompt_embeddings": torch.zeros(P, D, dtype=torch.int64)}, "not floats of one kind"),
            ({"prompt_embeddings": torch.zeros(P, D, dtype=torch.bfloat16)}, "not floats of one"),
            ({"prompt_embeddings": torch.zeros(())}, "prompt_embeddings has shape"),
            ({"lm_head.weight": torch.zeros(1)}, "holds lm_head.weight, prefix_task_cols"),
        ],
    )
    def test_tensors_that_are_no_prompt_are_refused(self, saved, change, problem):
        path = saved / "adapter_model.safetensors"
        save_file(load_file(path) | change, path)

        with pytest.raises(BadInput, match=rf"adapter_model\.safetensors: .*{problem}"):
            read_checkpoint(saved)

    def test_a_pickle_is_refused_unopened(self, saved, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "sprung"), "w"))

        (saved / "adapter_model.safetensors").unlink()
        (saved / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))

        with pytest.raises(BadInput, match=r"adapter_model\.bin: is a pickle"):
            read_checkpoint(saved)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 64, b"\x80\x04."])
    def test_a_damaged_file_is_named(self, saved, data):
        (saved / "adapter_model.safetensors").write_bytes(data)

        with pytest.raises(BadInput, match=r"adapter_model\.safetensors: is not safetensors"):
            read_checkpoint(saved)

    def test_a_folder_without_files_and_a_task_that_is_not_there(self, saved, tmp_path):
        with pytest.raises(BadInput, match=r"adapter_config\.json: cannot be read: No such file"):
            read_checkpoint(tmp_path)
        with pytest.raises(BadInput, match="task_id: 2 is not in 0 to 1"):
            read_checkpoint(saved).factor(2)
        (saved / "adapter_config.json").write_text("{")
        with pytest.raises(BadInput, match=r"adapter_config\.json: Invalid JSON"):
            read_checkpoint(saved)

    @staticmethod
    def _change(folder, **fields):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))


class TestExport:
    def test_peft_says_the_same_for_every_task(self, model, tmp_path):
        """
        Ranks may differ; a lower one is filled up with zeros.
        """
        packages = [made(1, rank=3), made(2, rank=1)]
        write_checkpoint(tmp_path, METAPROMPT, packages)
        expected = [
            ours(model, compose(METAPROMPT, package.factor).rows_PD) for package in packages
        ]

        loaded = peft.PeftModel.from_pretrained(model, tmp_path).eval()

        for task_id in range(2):
            torch.testing.assert_close(expected[task_id], theirs(loaded, task_id))

    def test_one_adapter_is_a_dense_prompt_too(self, model, tmp_path):
        package = made(1)
        write_checkpoint(tmp_path, METAPROMPT, [package], form="prompt")
        expected = ours(model, compose(METAPROMPT, package.factor).rows_PD)

        loaded = peft.PeftModel.from_pretrained(model, tmp_path).eval()

        torch.testing.assert_close(expected, theirs(loaded))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_out_and_in_again_nothing_is_lost(self, tmp_path, dtype):
        metaprompt = Metaprompt(METAPROMPT.rows_PD.to(dtype))
        package = made(1, dtype=dtype)
        package = Package.write(
            package.manifest.model_copy(update={"metaprompt": metaprompt.digest}), package.factor
        )
        write_checkpoint(tmp_path, metaprompt, [package])

        back = read_checkpoint(tmp_path)

        assert metaprompt.digest == back.metaprompt.digest
        assert torch.equal(package.factor.u_PR, back.factor(0).u_PR)
        assert torch.equal(package.factor.v_RD, back.factor(0).v_RD)

    def test_the_card_says_which_task_is_which(self, tmp_path):
        write_checkpoint(tmp_path, METAPROMPT, [made(1), made(2)])

        assert "| 1 | a2 | ner | Disease | CC0-1.0 |" in (tmp_path / "README.md").read_text()

    def test_only_adapters_of_one_metaprompt_go_together(self, tmp_path):
        other = Metaprompt(METAPROMPT.rows_PD + 1)

        with pytest.raises(BadInput, match="a1: is for metaprompt sha256:"):
            write_checkpoint(tmp_path, other, [made(1)])
        with pytest.raises(BadInput, match="packages: 2 given, prompt takes one"):
            write_checkpoint(tmp_path, METAPROMPT, [made(1), made(2)], form="prompt")
        assert [] == list(tmp_path.iterdir())


class TestCommands:
    def run(self, *arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    def take(self, saved, folder, llama, name="x"):
        return self.run(
            *("import-peft", saved, folder, "--name", name, "--task", "ner", "--label", "Drug"),
            *("--task-id", 1, "--backbone", llama),
        )

    def test_in_and_out_again_peft_says_the_same(self, multitask, saved, llama, model, tmp_path):
        folder, out = tmp_path / "adapters", tmp_path / "out"

        taken = self.take(saved, folder, llama)
        given = self.run(
            *("export-peft", out, folder / "x.safetensors"),
            *("--metaprompt", folder / "metaprompt.safetensors"),
        )

        assert (0, 0) == (taken.exit_code, given.exit_code), taken.output + given.output
        expected = theirs(multitask, 1)
        loaded = peft.PeftModel.from_pretrained(multitask.get_base_model(), out).eval()
        torch.testing.assert_close(expected, theirs(loaded, 0))

    def test_a_folder_keeps_its_metaprompt(self, saved, llama, tmp_path):
        (tmp_path / "metaprompt.safetensors").write_bytes(write_metaprompt(METAPROMPT))

        result = self.take(saved, tmp_path, llama)

        assert (1, True) == (result.exit_code, "the checkpoint has sha256:" in result.output)
        there = read_metaprompt((tmp_path / "metaprompt.safetensors").read_bytes())
        assert METAPROMPT.digest == there.digest
        assert not (tmp_path / "x.safetensors").exists()

    def test_a_prompt_of_another_width_is_refused(self, llama, tmp_path):
        narrow = Metaprompt(METAPROMPT.rows_PD[:, :8].clone())
        factor = Factor(torch.ones(P, 1), torch.ones(1, 8))
        manifest = make_manifest(metaprompt=narrow.digest, shapes={"u": (P, 1), "v": (1, 8)})
        write_checkpoint(tmp_path / "narrow", narrow, [Package.write(manifest, factor)])

        result = self.take(tmp_path / "narrow", tmp_path / "out", llama)

        assert (1, True) == (result.exit_code, "checkpoint: has width 8" in result.output)

    def test_a_bad_name_is_told(self, saved, llama, tmp_path):
        result = self.take(saved, tmp_path, llama, name="Not A Name")

        assert (1, True) == (result.exit_code, "name: is not a name" in result.output)
