"""Items of install plans."""

from typing import Any


def copy(files: dict[str, Any], number: int = 7, **changes: Any) -> dict[str, Any]:
    return {
        "id": "copy",
        "type": "copy",
        "ob_type": "cert",
        "ob_id": number,
        "from": list(files),
        "to": list(files.values()),
    } | changes


def run(name: str, command: Any, **changes: Any) -> dict[str, Any]:
    tags = [name] if name in ("test", "reload") else []
    return {"id": name, "type": "exec", "tags": tags, "cmd": command} | changes


def tls(port: int, **changes: Any) -> dict[str, Any]:
    check = {"type": "tls", "address": "127.0.0.1", "port": port, "sni": "www.example.com"}
    return check | {"grace_seconds": 0} | changes
