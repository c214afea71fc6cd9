"""
Both ways against the installed PEFT, on tiny random models: what one makes, the other reads, and
the model says the same.

Dimension key:  P prompt positions   D model width   R rank   K tasks   L layers   W width of an
                activation
"""

import json
import pickle
from copy import deepcopy

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.tuning import Fixed
from galenic_adapters.backbone.weights import shape_at
from galenic_adapters.cli.main import app
from galenic_adapters.errors import BadInput
from galenic_adapters.factor import Factor, Metaprompt, compose
from galenic_adapters.package.file import Package, write_metaprompt
from galenic_adapters.package.peft_read import import_adapter, read_checkpoint
from galenic_adapters.package.peft_write import write_checkpoint
from tests.support.packages import BACKBONE, make_manifest
from tests.support.tiny_models import WIDTH, tiny_gpt_oss, tiny_llama

P, D, R, K, L = 6, WIDTH, 3, 2, 2
TEXT_IDS = torch.tensor([[5, 9, 17, 33], [8, 70, 71, 3]])
PLAIN = {"task_type": "CAUSAL_LM"}
PROMPT = PLAIN | {"num_virtual_tokens": P}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FEED = ["o_proj", "down_proj"]
CONFIGS = {
    "prompt": peft.PromptTuningConfig(**PROMPT),
    "p-tuning": peft.PromptEncoderConfig(**PROMPT),
    "multitask": peft.MultitaskPromptTuningConfig(**PROMPT, num_tasks=K, num_ranks=R),
    "prefix": peft.PrefixTuningConfig(**PROMPT),
    "projected prefix": peft.PrefixTuningConfig(**PROMPT, prefix_projection=True),
    "ia3": peft.IA3Config(
        **PLAIN,
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "ia3 everywhere": peft.IA3Config(
        **PLAIN, target_modules=[*ATTENTION, "down_proj"], feedforward_modules=FEED
    ),
    "ia3 of one layer": peft.IA3Config(
        **PLAIN, target_modules=r".*\.1\.self_attn\.v_proj", feedforward_modules=[]
    ),
}
OF_ATTENTION = peft.IA3Config(**PLAIN, target_modules=ATTENTION, feedforward_modules=["o_proj"])
CASES = [
    *(("llama", name) for name in CONFIGS),
    *(("gpt-oss", name) for name in ("prompt", "multitask", "prefix")),
    ("gpt-oss", "ia3 of attention"),
]


class Backbones:
    """Two tiny architectures, in folders, for us and for PEFT."""

    def __init__(self, folder):
        self._folders = {
            "llama": tiny_llama(folder / "tiny-llama"),
            "gpt-oss": tiny_gpt_oss(folder / "tiny-gpt-oss"),
        }
        self._ours = {
            name: PromptedBackbone(at, dtype=torch.float32) for name, at in self._folders.items()
        }

    def __getitem__(self, name):
        return self._folders[name]

    def shape(self, name):
        return shape_at(self[name])

    def plain(self, name):
        return AutoModelForCausalLM.from_pretrained(self[name], dtype=torch.float32).eval()

    def ours(self, name, composed):
        """What we say, behind a composed adapter."""
        backbone = self._ours[name]
        which_B = torch.zeros(len(TEXT_IDS), dtype=torch.long)
        with torch.no_grad():
            return backbone.logits(backbone.hidden(Fixed([composed]), which_B, TEXT_IDS))


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    return Backbones(tmp_path_factory.mktemp("backbones"))


@pytest.fixture(scope="module")
def shape(backbones):
    return backbones.shape("llama")


def theirs(tuned, task_id=None):
    """What PEFT's model says to the text; its multitask prompts want a task id for each row."""
    asked = {} if task_id is None else {"task_ids": torch.full((len(TEXT_IDS),), task_id)}
    with torch.no_grad():
        return tuned(input_ids=TEXT_IDS, **asked).logits[:, -TEXT_IDS.shape[1] :]


def tuned(model, config):
    """A PEFT model of *config*, far from where PEFT starts it."""
    made = peft.get_peft_model(model, deepcopy(config)).eval()  # which it fills in
    torch.manual_seed(1)
    for parameter in made.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.fixture
def multitask(backbones):
    return tuned(backbones.plain("llama"), CONFIGS["multitask"])


@pytest.fixture
def saved(multitask, tmp_path):
    multitask.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def saved_as(backbones, tmp_path):
    """Saves what PEFT makes of a configuration of the tiny Llama."""

    def save(name):
        tuned(backbones.plain("llama"), CONFIGS[name]).save_pretrained(tmp_path / "saved")
        return tmp_path / "saved"

    return save


def packed(factor, metaprompt=None, name="a1"):
    [dtype] = {str(tensor.dtype).removeprefix("torch.") for tensor in factor.tensors.values()}
    digest = metaprompt and metaprompt.digest
    manifest = make_manifest(name=name, metaprompt=digest, shapes=factor.shapes, dtype=dtype)
    return Package.write(manifest, factor)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(seed, rank=R, dtype=torch.float32):
    return Factor(random(P, rank, seed=seed).to(dtype), random(rank, D, seed=seed + 100).to(dtype))


def made(seed, rank=R, dtype=torch.float32):
    return packed(product(seed, rank, dtype), METAPROMPT, name=f"a{seed}")


METAPROMPT = Metaprompt(random(P, D))


class TestImport:
    @pytest.mark.parametrize(("backbone", "config"), CASES)
    def test_an_adapter_says_what_peft_says(self, backbones, tmp_path, backbone, config):
        """
        It stands alone, and without it the model says something else.
        """
        chosen = OF_ATTENTION if config == "ia3 of attention" else CONFIGS[config]
        their_model = tuned(backbones.plain(backbone), chosen)
        their_model.save_pretrained(tmp_path)
        checkpoint = read_checkpoint(tmp_path, backbones.shape(backbone))
        untuned = backbones.plain(backbone)(input_ids=TEXT_IDS).logits

        for task_id in range(checkpoint.num_tasks):
            package = import_adapter(
                checkpoint, task_id, name="x", task="ner", labels=["X"], backbone=BACKBONE
            )
            expected = theirs(their_model, task_id if config == "multitask" else None)
            assert package.manifest.metaprompt is None
            composed = compose(None, package.factor)
            torch.testing.assert_close(
                expected, backbones.ours(backbone, composed), atol=1e-4, rtol=1e-4
            )
            assert not torch.allclose(expected, untuned, atol=1e-2)

    def test_tasks_are_told_apart(self, saved, shape):
        checkpoint = read_checkpoint(saved, shape)

        assert K == checkpoint.num_tasks
        assert not torch.equal(checkpoint.factor(0).rows_PD, checkpoint.factor(1).rows_PD)

    def test_a_layer_without_a_vector_is_scaled_by_one(self, saved_as, shape):
        scales = read_checkpoint(saved_as("ia3 of one layer"), shape).factor().scales

        assert ["v"] == list(scales)
        assert [True, False] == [bool((layer_W == 1).all()) for layer_W in scales["v"]]

    def test_paths_and_class_maps_are_not_looked_at(self, saved, shape):
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

        assert K == read_checkpoint(saved, shape).num_tasks

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"peft_type": "LORA"}, "peft_type: Input should be 'PROMPT_TUNING', 'P_TUNING'"),
            ({"task_type": "SEQ_2_SEQ_LM"}, "task_type: Input should be 'CAUSAL_LM'"),
            ({"num_transformer_submodules": 2}, "num_transformer_submodules"),
            ({"num_virtual_tokens": 10**12}, "prompt_embeddings has shape"),
            ({"num_virtual_tokens": "6"}, "num_virtual_tokens: Input should be a valid integer"),
            ({"token_dim": 7}, f"token_dim is 7, that of .* is {D}"),
            ({"num_ranks": 4}, "prefix_task_cols has shape"),
            ({"num_tasks": 1}, "prefix_task_cols has shape"),
            ({"peft_type": "PROMPT_TUNING"}, "holds prefix_task_cols, prefix_task_rows, prompt"),
        ],
    )
    def test_a_configuration_that_does_not_fit_is_refused(self, saved, shape, change, problem):
        self._change(saved, **change)

        with pytest.raises(BadInput, match=problem):
            read_checkpoint(saved, shape)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"num_layers": 3}, "num_layers is 3, that of PREFIX_TUNING on this backbone is 2"),
            ({"token_dim": 2 * D}, f"token_dim is {2 * D}, that of .* is {D}"),
            ({"num_virtual_tokens": 3}, rf"shape \(6, {4 * D}\), .* say \(3, {4 * D}\)"),
        ],
    )
    def test_a_prefix_of_another_backbone_is_refused(self, saved_as, shape, change, problem):
        folder = saved_as("prefix")
        self._change(folder, **change)

        with pytest.raises(BadInput, match=problem):
            read_checkpoint(folder, shape)

    def test_a_prefix_of_all_heads_is_refused_where_heads_share_keys(self, backbones, saved_as):
        with pytest.raises(BadInput, match=r"token_dim is 64, that of PREFIX_TUNING .* is 32"):
            read_checkpoint(saved_as("prefix"), backbones.shape("gpt-oss"))

    @pytest.mark.parametrize("name", ["p-tuning", "prefix"])
    def test_a_network_that_was_left_in_is_refused_by_name(self, saved_as, shape, name):
        folder = saved_as(name)
        self._add(folder, {"mlp_head.0.weight": torch.zeros(1)})

        with pytest.raises(BadInput, match=r"holds mlp_head\.0\.weight, prompt_embeddings, not"):
            read_checkpoint(folder, shape)

    @pytest.mark.parametrize(
        ("name", "vector_shape", "problem"),
        [
            ("layers.0.mlp.up_proj.ia3_l", (96, 1), "up_proj.* is no vector of a layer's"),
            ("layers.0.self_attn.k_proj.weight", (64, 1), "is no vector of a layer's"),
            ("layers.2.self_attn.k_proj.ia3_l", (64, 1), "of layer 2, the backbone has 2"),
            ("layers.0.self_attn.k_proj.ia3_l", (32, 1), r"shape \(32, 1\), \(64, 1\) would"),
            ("layers.0.self_attn.k_proj.ia3_l", (1, 64), "would scale what .*k_proj puts out"),
            ("layers.0.mlp.down_proj.ia3_l", (64, 1), r"\(1, 96\) would .*down_proj takes in"),
        ],
    )
    def test_a_vector_without_a_place_is_refused(
        self, saved_as, shape, name, vector_shape, problem
    ):
        folder = saved_as("ia3")
        self._add(folder, {f"base_model.model.model.{name}": torch.ones(vector_shape)})

        with pytest.raises(BadInput, match=rf"adapter_model\.safetensors: .*{problem}"):
            read_checkpoint(folder, shape)

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
    def test_tensors_that_are_no_prompt_are_refused(self, saved, shape, change, problem):
        self._add(saved, change)

        with pytest.raises(BadInput, match=rf"adapter_model\.safetensors: .*{problem}"):
            read_checkpoint(saved, shape).factor()

    def test_a_pickle_is_refused_unopened(self, saved, shape, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "sprung"), "w"))

        (saved / "adapter_model.safetensors").unlink()
        (saved / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))

        with pytest.raises(BadInput, match=r"adapter_model\.bin: is a pickle"):
            read_checkpoint(saved, shape)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 64, b"\x80\x04."])
    def test_a_damaged_file_is_named(self, saved, shape, data):
        (saved / "adapter_model.safetensors").write_bytes(data)

        with pytest.raises(BadInput, match=r"adapter_model\.safetensors: is not safetensors"):
            read_checkpoint(saved, shape)

    def test_a_folder_without_files_and_a_task_that_is_not_there(self, saved, shape, tmp_path):
        with pytest.raises(BadInput, match=r"adapter_config\.json: cannot be read: No such file"):
            read_checkpoint(tmp_path, shape)
        with pytest.raises(BadInput, match="task_id: 2 is not in 0 to 1"):
            read_checkpoint(saved, shape).factor(2)
        (saved / "adapter_config.json").write_text("{")
        with pytest.raises(BadInput, match=r"adapter_config\.json: Invalid JSON"):
            read_checkpoint(saved, shape)

    @staticmethod
    def _change(folder, **fields):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    @staticmethod
    def _add(folder, tensors):
        path = folder / "adapter_model.safetensors"
        save_file(load_file(path) | tensors, path)


def scales_of(shape, places, seed=1):
    return {
        place: 1 + 0.5 * random(*of, seed=seed + number)
        for number, (place, of) in enumerate(shape.scale_shapes(places).items())
    }


class TestExport:
    def test_peft_says_the_same_for_every_task(self, backbones, tmp_path):
        """
        Ranks may differ; a lower one is filled up with zeros.
        """
        packages = [made(1, rank=3), made(2, rank=1)]
        write_checkpoint(tmp_path, METAPROMPT, packages)

        loaded = peft.PeftModel.from_pretrained(backbones.plain("llama"), tmp_path).eval()

        for task_id, package in enumerate(packages):
            expected = backbones.ours("llama", compose(METAPROMPT, package.factor))
            torch.testing.assert_close(expected, theirs(loaded, task_id), atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("backbone", ["llama", "gpt-oss"])
    @pytest.mark.parametrize("kind", ["product", "rows", "deep", "scales", "scales of a task"])
    def test_peft_says_the_same_for_every_form(self, backbones, tmp_path, backbone, kind):
        """
        A task's scales come multiplied with the metaprompt's.
        """
        shape = backbones.shape(backbone)
        places = "qkvof" if backbone == "llama" else "qkvo"
        factor = {
            "product": product(1),
            "rows": Factor(rows_PD=random(P, D)),
            "deep": Factor(
                keys_LPW=random(L, P, shape.keys), values_LPW=random(L, P, shape.keys, seed=2)
            ),
            "scales": Factor(scales=scales_of(shape, places)),
            "scales of a task": Factor(scales=scales_of(shape, "vo")),
        }[kind]
        metaprompt = {
            "product": METAPROMPT,
            "scales of a task": Metaprompt(scales=scales_of(shape, "ko", seed=50)),
        }.get(kind)
        write_checkpoint(tmp_path, metaprompt, [packed(factor, metaprompt)], form="prompt")

        loaded = peft.PeftModel.from_pretrained(backbones.plain(backbone), tmp_path).eval()

        expected = backbones.ours(backbone, compose(metaprompt, factor))
        torch.testing.assert_close(expected, theirs(loaded), atol=1e-4, rtol=1e-4)
        untuned = backbones.plain(backbone)(input_ids=TEXT_IDS).logits
        assert not torch.allclose(expected, untuned, atol=1e-2)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("kind", ["rows", "deep", "scales"])
    def test_out_and_in_again_nothing_is_lost(self, shape, tmp_path, dtype, kind):
        factor = {
            "rows": Factor(rows_PD=random(P, D).to(dtype)),
            "deep": Factor(
                keys_LPW=random(L, P, D).to(dtype), values_LPW=random(L, P, D, seed=2).to(dtype)
            ),
            "scales": Factor(
                scales={at: one.to(dtype) for at, one in scales_of(shape, "qkvof").items()}
            ),
        }[kind]
        write_checkpoint(tmp_path, None, [packed(factor)])

        back = read_checkpoint(tmp_path, shape).factor()

        assert factor.shapes == back.shapes
        assert all(torch.equal(one, back.tensors[name]) for name, one in factor.tensors.items())

    def test_a_task_comes_back_as_the_rows_it_composes_to(self, shape, tmp_path):
        package = made(1)
        write_checkpoint(tmp_path, METAPROMPT, [package])

        back = read_checkpoint(tmp_path, shape).factor()

        assert torch.equal(compose(METAPROMPT, package.factor).rows_PD, back.rows_PD)

    def test_the_card_says_which_task_is_which(self, tmp_path):
        write_checkpoint(tmp_path, METAPROMPT, [made(1), made(2)])

        assert "| 1 | a2 | ner | Disease | CC0-1.0 |" in (tmp_path / "README.md").read_text()

    def test_only_products_of_one_metaprompt_go_together(self, tmp_path):
        other = Metaprompt(METAPROMPT.rows_PD + 1)
        alone = packed(Factor(rows_PD=random(P, D)))

        with pytest.raises(BadInput, match="a1: is for metaprompt sha256:"):
            write_checkpoint(tmp_path, other, [made(1)])
        with pytest.raises(BadInput, match=r"a1: is for metaprompt sha256:.*, not None"):
            write_checkpoint(tmp_path, None, [made(1)])
        with pytest.raises(BadInput, match="packages: 2 given; only products go together"):
            write_checkpoint(tmp_path, METAPROMPT, [made(1), made(2)], form="prompt")
        with pytest.raises(BadInput, match="packages: 2 given; only products go together"):
            write_checkpoint(tmp_path, METAPROMPT, [made(1), alone])
        assert [] == list(tmp_path.iterdir())

    def test_what_peft_has_no_type_for_is_refused_by_name(self, shape, tmp_path):
        """
        A prompt beside scales, its own or the metaprompt's; a place without a module.
        """
        scales = scales_of(shape, "of")
        both = packed(Factor(rows_PD=random(P, D), scales=scales))
        shared = Metaprompt(METAPROMPT.rows_PD, scales)

        with pytest.raises(BadInput, match="a1: has a prompt and scales of o, f; no type of PEFT"):
            write_checkpoint(tmp_path, None, [both])
        with pytest.raises(BadInput, match="a1: has a prompt and scales of o, f; no type of PEFT"):
            write_checkpoint(tmp_path, shared, [packed(product(1), shared)])
        with pytest.raises(BadInput, match="a1: scales f; PEFT finds q, k, v, o in this backbone"):
            write_checkpoint(tmp_path, None, [packed(Factor(scales=scales))], places="qkvo")
        assert [] == list(tmp_path.iterdir())


class TestCommands:
    def run(self, *arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    def take(self, saved, folder, backbone, name="x", *more):
        return self.run(
            *("import-peft", saved, folder, "--name", name, "--task", "ner", "--label", "Drug"),
            *("--backbone", backbone, *more),
        )

    @pytest.mark.parametrize("config", ["multitask", "prefix", "ia3"])
    def test_in_and_out_again_peft_says_the_same(self, backbones, tmp_path, config):
        """
        No metaprompt is written, and none is needed; scales say which places a server must have.
        """
        llama, folder, out = backbones["llama"], tmp_path / "adapters", tmp_path / "out"
        their_model = tuned(backbones.plain("llama"), CONFIGS[config])
        their_model.save_pretrained(tmp_path / "saved")
        task_id = 1 if config == "multitask" else None

        taken = self.take(tmp_path / "saved", folder, llama, "x", "--task-id", task_id or 0)
        given = self.run("export-peft", out, folder / "x.safetensors", "--backbone", llama)

        assert (0, 0) == (taken.exit_code, given.exit_code), taken.output + given.output
        assert ["x.safetensors"] == [file.name for file in folder.iterdir()]
        assert (config == "ia3") == ("GALENIC_PLACES" in taken.output)
        assert "warning" not in taken.output
        loaded = peft.PeftModel.from_pretrained(backbones.plain("llama"), out).eval()
        expected = theirs(their_model, task_id)
        torch.testing.assert_close(expected, theirs(loaded), atol=1e-4, rtol=1e-4)

    def test_another_models_checkpoint_is_warned_about(self, backbones, saved, tmp_path):
        """
        The warning has both names, since sizes that fit prove nothing.
        """
        path = saved / "adapter_config.json"
        other = {"base_model_name_or_path": "meta-llama/Other-8B"}
        path.write_text(json.dumps(json.loads(path.read_text()) | other))

        result = self.take(saved, tmp_path / "out", backbones["llama"])

        told = "warning: the checkpoint says it is for 'meta-llama/Other-8B', not tiny-llama"
        assert (0, True) == (result.exit_code, told in result.output), result.output

    def test_products_go_out_with_the_metaprompt_that_is_named(self, tmp_path):
        (tmp_path / "shared.safetensors").write_bytes(write_metaprompt(METAPROMPT))
        (tmp_path / "a1.safetensors").write_bytes(made(1).data)
        command = ("export-peft", tmp_path / "out", tmp_path / "a1.safetensors")

        alone = self.run(*command)
        given = self.run(*command, "--metaprompt", tmp_path / "shared.safetensors")

        assert (1, True) == (alone.exit_code, "a1: is for metaprompt sha256:" in alone.output)
        assert (0, True) == (given.exit_code, "task 0: a1" in given.output)

    def test_experts_in_one_piece_are_no_module_of_pefts(self, backbones, tmp_path):
        their_model = tuned(backbones.plain("gpt-oss"), OF_ATTENTION)
        their_model.save_pretrained(tmp_path / "saved")
        folder, gpt_oss = tmp_path / "adapters", backbones["gpt-oss"]
        assert 0 == self.take(tmp_path / "saved", folder, gpt_oss).exit_code
        package = Package.read((folder / "x.safetensors").read_bytes())
        scales = scales_of(backbones.shape("gpt-oss"), "vf")
        fields = {"shapes": Factor(scales=scales).shapes}
        moved = Package.write(package.manifest.model_copy(update=fields), Factor(scales=scales))
        (folder / "moved.safetensors").write_bytes(moved.data)

        result = self.run(
            "export-peft", tmp_path / "out", folder / "moved.safetensors", "--backbone", gpt_oss
        )
        other = self.run(
            *("export-peft", tmp_path / "out", folder / "moved.safetensors"),
            *("--backbone", backbones["llama"]),
        )

        assert (1, True) == (result.exit_code, "x: scales f; PEFT finds q, k" in result.output)
        assert (1, True) == (other.exit_code, "backbone: is tiny-llama@" in other.output)
        assert not (tmp_path / "out").exists()

    def test_a_prompt_of_another_width_is_refused(self, backbones, tmp_path):
        write_checkpoint(tmp_path / "narrow", None, [packed(Factor(rows_PD=random(P, 8)))])

        result = self.take(tmp_path / "narrow", tmp_path / "out", backbones["llama"])

        assert (1, True) == (result.exit_code, "token_dim is 8, that of" in result.output)

    def test_a_bad_name_is_told(self, saved, backbones, tmp_path):
        result = self.take(saved, tmp_path, backbones["llama"], name="Not A Name")

        assert (1, True) == (result.exit_code, "name: is not a name" in result.output)
