"""The routes by which tools load adapters into vLLM."""

import pytest

from galenic_server.tenancy.keys import Role
from tests.support.registry import ner
from tests.support.serving import Running, package


class TestVllmsRoutes:
    def test_load_and_unload_what_is_registered(self, running: Running):
        """
        Adapters load by version, name or digest, in vLLM's words; the loaded name answers.
        """
        made = running.publish("clinic", "lora", package(seed=900))
        for number, path in enumerate(("lora@1", "lora", made["digest"])):
            name = f"loaded-{number}"
            load = {"lora_name": name, "lora_path": path}
            reply = running.client("clinic", Role.TENANT_ADMIN).post(
                "/v1/load_lora_adapter", json=load
            )
            assert f"Success: LoRA adapter '{name}' added successfully." == reply.text
            assert made["digest"] == ner(running, "clinic", name)["adapter"]["digest"]
        chief = running.client("clinic", Role.TENANT_ADMIN)
        again = chief.post("/v1/load_lora_adapter", json=load)
        inplace = chief.post("/v1/load_lora_adapter", json=load | {"load_inplace": True})
        unload = [chief.post("/v1/unload_lora_adapter", json={"lora_name": name}) for _ in range(2)]

        assert 400 == again.status_code
        assert "has already been loaded" in again.json()["error"]["message"]
        assert [200, 200, 404] == [one.status_code for one in (inplace, *unload)]

    @pytest.mark.parametrize(
        "path",
        [
            "/etc/passwd",
            "./adapters/x",
            "../x",
            "C:\\models",
            "file:///etc/passwd",
            "http://169.254.169.254/latest/meta-data",
            "https://example.com/a.safetensors",
            "s3://bucket/a",
            "hf://org/name",
            "org/name",
            "~/x",
            "x\0",
            "lora@1/../../x",
        ],
    )
    def test_open_no_path_and_no_address(self, running: Running, path: str):
        """
        Case 29: what tools send besides is refused before anything is touched, and says what to do.
        """
        load = {"lora_name": "sneaky", "lora_path": path}
        reply = running.client("clinic", Role.TENANT_ADMIN).post("/v1/load_lora_adapter", json=load)

        assert 400 == reply.status_code
        assert "never a path or an address" in reply.json()["error"]["message"]
        assert path not in reply.text
        asked = running.admin.get("/admin/v1/aliases/sneaky?tenant=clinic")
        assert 404 == asked.status_code

    def test_are_for_admins(self, running: Running):
        """
        A caller's key does not load.
        """
        load = {"lora_name": "x", "lora_path": "lora@1"}
        for path, body in (("load", load), ("unload", {"lora_name": "x"})):
            reply = running.client("clinic").post(f"/v1/{path}_lora_adapter", json=body)
            assert 403 == reply.status_code
