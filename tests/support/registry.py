"""What tests of the admin API do over and over."""

from tests.support.serving import Running

KIND = {"content-type": "application/octet-stream"}


ANY = {"if-match": "*"}


def ner(running: Running, tenant: str, adapter: str) -> dict:
    body = {"documents": [{"text": "He has gout."}], "max_tokens": 8, "adapter": adapter}
    reply = running.client(tenant).post("/v1/ner", json=body)
    assert 200 == reply.status_code, reply.text
    return reply.json()


def point(running: Running, alias: str, adapter: str, headers: dict = ANY, **more) -> dict:
    reply = running.admin.put(
        f"/admin/v1/aliases/{alias}?tenant=clinic",
        json={"adapter": adapter} | more,
        headers=headers,
    )
    assert 200 == reply.status_code, reply.text
    assert reply.headers["etag"] == reply.json()["etag"]
    return reply.json()
