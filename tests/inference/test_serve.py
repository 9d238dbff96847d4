"""`omnivl serve` as a process: it says where it is, answers, and ends when asked to; many clients for a minute."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from omnivl.cli import main
from omnivl.inference.media_index import MediaIndex
from omnivl.inference.pipeline import Pipeline
from tests.conftest import SCHEMATHESIS
from tests.helpers import mini_folder
from tests.inference.conftest import fill


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("serve")
    model = mini_folder(place / "mini")
    MediaIndex.build(fill(place / "media"), str(model), index=place / "index").close()
    return place


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    words = [sys.executable, "-m", "omnivl", "serve", "--port", "0", "--index", str(place / "index"), "--device", "cpu"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    yield process, address
    process.kill()
    process.wait()


def ask(address: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    headers = {"content-type": "application/json"}
    connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@pytest.mark.long
def test_sixty_four_clients_for_a_minute(
    server: tuple[subprocess.Popen[str], str], place: Path, pipeline: Pipeline
) -> None:
    """P107: no error, no wrong answer, memory that does not grow."""
    process, address = server
    names = [f"{i}.png" for i in range(6)]
    expected = {name: pipeline.embed(place / "media" / name) for name in names}
    until, times, wrong = time.monotonic() + 60, list[float](), list[object]()

    def client(number: int) -> None:
        while time.monotonic() < until:
            name, started = names[number % 6], time.monotonic()
            status, found = ask(address, "/v1/embed", {"path": name})
            times.append(time.monotonic() - started)
            if status != 200 or np.abs(np.array(found["embedding"]) - expected[name]).max() > 1e-4:
                wrong.append((status, found))

    def memory() -> int:
        with open(f"/proc/{process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    threads = [threading.Thread(target=client, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    time.sleep(15)
    early = memory()
    for thread in threads:
        thread.join()
    assert not wrong and memory() < 1.1 * early + 16 * 2**20
    half, most = np.quantile(times, (0.5, 0.99))
    size = f"{early / 2**20:.0f} MiB early, {memory() / 2**20:.0f} late"
    print(f"{len(times)} requests, p50 {half:.3f} s, p99 {most:.3f} s, {size}")


@pytest.mark.long
@pytest.mark.schemathesis
def test_whatever_is_asked_is_answered_as_the_description_says(
    server: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    """Requests drawn from the OpenAPI description: no 500, and no answer that it does not know."""
    _, address = server
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    words = [str(SCHEMATHESIS), "run", f"{address}openapi.json", "--checks", checks, "--seed", "0"]
    options = ["--phases", "examples,coverage,fuzzing", "--max-examples", "30", "--no-color", "--request-timeout", "60"]
    found = subprocess.run([*words, *options], capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
    assert found.returncode == 0, found.stdout[-4000:]


def test_it_says_where_it_is_and_answers(server: tuple[subprocess.Popen[str], str]) -> None:
    _, address = server
    assert address.startswith("http://127.0.0.1:")
    status, health = ask(address, "/v1/health")
    assert status == 200 and health["files"] == 9 and health["model"] == "mini"
    status, found = ask(address, "/v1/search", {"query": "a red circle", "top_k": 2})
    assert status == 200 and len(found["results"]) == 2


def test_a_port_that_is_taken_is_one_sentence(
    capsys: pytest.CaptureFixture[str], place: Path, server: tuple[subprocess.Popen[str], str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--index", str(place / "index"), "--port", port]) == 2
    assert f"port {port} (Address already in use): choose another" in capsys.readouterr().err
    assert main(["serve", "--index", str(place / "index"), "--port", "99999"]) == 2
    assert "cannot listen" in capsys.readouterr().err
    assert main(["serve", "--index", str(place / "nowhere")]) == 2
    assert "there is no index" in capsys.readouterr().err


def test_without_fastapi_its_command_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("omnivl.inference.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve"]) == 2
    assert 'pip install "omnivl[serve]"' in capsys.readouterr().err


def test_it_ends_when_it_is_asked_to(server: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = server
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
