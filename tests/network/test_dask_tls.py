"""TLS between hosts: who has a certificate of the cluster's authority may use it, and who has none is told so."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Cluster, Network

pytest.importorskip("distributed")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

CLIENT = """
import faulthandler, json, sys
faulthandler.dump_traceback_later(60, exit=True)
import anypool
from distributed.security import Security

address, files = sys.argv[1], json.loads(sys.argv[2])
security = Security(require_encryption=True, **files) if files is not None else None
try:
    with anypool.get_executor("dask", address=address, security=security, connect_timeout=5.0) as ex:
        print("answers", list(ex.map(str, range(5))))
except anypool.StartError as exc:
    print("refused:", exc)
"""


def _openssl(*words: str, place: Path) -> None:
    subprocess.run(["openssl", *words], cwd=place, check=True, capture_output=True, timeout=30)


def _make_authority(place: Path) -> None:
    place.mkdir()
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority"),
        *("-keyout", "ca.key", "-out", "ca.pem"),
        place=place,
    )


def _make_certificate(place: Path, name: str) -> None:
    _openssl(
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
        *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        place=place,
    )
    _openssl(
        *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "2", "-out", f"{name}.pem"),
        place=place,
    )


def _files(place: Path, name: str, role: str) -> dict[str, str]:
    return {
        "tls_ca_file": str(place / "ca.pem"),
        f"tls_{role}_cert": str(place / f"{name}.pem"),
        f"tls_{role}_key": str(place / f"{name}.key"),
    }


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cluster's own in `ours`, and a stranger's in `theirs`."""
    place = tmp_path_factory.mktemp("certificates")
    for whose in ("ours", "theirs"):
        _make_authority(place / whose)
        _make_certificate(place / whose, "node")
    return place


@pytest.fixture(scope="module")
def cluster(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    ours = certificates / "ours"
    options = (
        *("--tls-ca-file", str(ours / "ca.pem")),
        *("--tls-cert", str(ours / "node.pem"), "--tls-key", str(ours / "node.key")),
    )
    with Network(tmp_path_factory.mktemp("network"), {}) as network:
        (network.place / "client.py").write_text(CLIENT)
        yield Cluster(network, workers=1, options=options, protocol="tls")


def ask(cluster: Cluster, files: dict[str, str] | None, *, address: str | None = None) -> str:
    """What a client with these files gets."""
    program = cluster.client.start("client.py", address or cluster.address, json.dumps(files))
    return program.finish(limit=70)


def test_a_client_with_a_certificate_is_served(cluster: Cluster, certificates: Path) -> None:
    assert "answers ['0', '1', '2', '3', '4']" in ask(cluster, _files(certificates / "ours", "node", "client"))


@pytest.mark.parametrize("how", ["no certificate", "plain TCP", "a stranger's certificate"])
def test_a_client_without_one_is_refused_with_a_reason(cluster: Cluster, certificates: Path, how: str) -> None:
    files, address = None, None
    if how == "no certificate":
        files = {"tls_ca_file": str(certificates / "ours" / "ca.pem")}
    elif how == "plain TCP":
        address = cluster.address.replace("tls://", "tcp://")
    else:
        files = _files(certificates / "theirs", "node", "client")
    said = ask(cluster, files, address=address)
    assert "refused: no Dask scheduler answered" in said
    assert "answers" not in said.replace("answered", "")
    assert "TLS" in said, said


def test_nobody_was_served_who_was_refused(cluster: Cluster, certificates: Path) -> None:
    """After the refusals, the cluster still serves those who may."""
    assert "answers" in ask(cluster, _files(certificates / "ours", "node", "client"))
