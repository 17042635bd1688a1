"""A device on the network: a server with a certificate of a CA of its own, and all that a server may do wrong."""

import datetime as dt
import ipaddress
import json
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipelines_lib.edge import device, release, source
from pipelines_lib.errors import Unavailable
from pipelines_lib.registry.package import Package
from tests.unit.edge.conftest import KEY, PUBLIC

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder with ca.pem, and good.pem and expired.pem of 127.0.0.1, which it signed."""
    folder = tmp_path_factory.mktemp("certificates")
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate("our CA", ca_key, None, ca_key, NOW + dt.timedelta(days=1))
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    for name, until in (("good", NOW + dt.timedelta(days=1)), ("expired", NOW - dt.timedelta(hours=1))):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{name}.pem").write_bytes(
            private + certificate("store", key, ca, ca_key, until).public_bytes(serialization.Encoding.PEM)
        )
    return folder


def certificate(name, key, issuer, issuer_key, until):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    is_ca = issuer is None
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if is_ca else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - dt.timedelta(days=1))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=is_ca, crl_sign=is_ca, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory, make_package):
    """A folder with a group in it, at /good."""
    root = tmp_path_factory.mktemp("store")
    release.release(
        Package.open(root / make_package(root / "shop")), root / "shop/edge/good", KEY, version=1, precision="fp16", share=1, bound=0.05
    )
    return root / "shop/edge"


class Handler(BaseHTTPRequestHandler):
    """/good/… gives the group; each other first part of a path is something that goes wrong."""

    def do_GET(self):
        what, _, file = self.path.strip("/").partition("/")
        getattr(self, f"{what}_", self.absent_)(file)

    def absent_(self, file):
        self.send_error(404)

    def private_(self, file):
        self.send_error(403)

    def broken_(self, file):
        self.send_error(500)

    def moved_(self, file):
        self.sent_on(f"/good/{file}")

    def leaky_(self, file):
        self.sent_on(f"http://store.example/{file}")

    def local_(self, file):
        self.sent_on("file:///etc/hostname")

    def round_(self, file):
        self.sent_on(self.path)

    def silent_(self, file):
        self.server.ended.wait(10)
        self.close_connection = True

    def cut_(self, file):
        self.good_(file, promised=1000)

    def garbled_(self, file):
        self.wfile.write(b"\0\1\2 no HTTP\r\n\r\n")

    def sent_on(self, where):
        self.send_response(302)
        self.send_header("Location", where)
        self.end_headers()

    def good_(self, file, promised=0):
        data = (self.server.folder / "good" / file).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) + promised))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(certificates, store):
    """`serve("good")`: the address of a server with that certificate."""
    servers = []

    def serve(name):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / f"{name}.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.folder, server.ended = store, threading.Event()
        server.handle_error = lambda *_: None  # clients leave in the middle here
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"https://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.ended.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def trusted(certificates, monkeypatch):
    """The device knows the CA."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("way", ["good", "moved"])
def test_a_bundle_comes_over_https_and_over_a_redirect(serve, folder, way):
    assert device.pull(f"{serve('good')}/{way}", folder, "d1", PUBLIC)["serial"] == 1
    assert device.opened(folder, PUBLIC).manifest["version"] == 1


WRONG = {
    "absent": "the store answers 404 Not Found; see that the address is the group's folder",
    "private": "the store answers 403 .*may be read without a login",
    "broken": "the store answers 500 ",
    "leaky": "http://store.example/pointer.json is not read, for others could read along",
    "local": "the store answers 302 .*file:///etc/hostname' is not allowed",
    "round": "the store answers 302 .*infinite loop",
    "silent": "timed out; pull again when the network is better",
    "cut": "cut off after [0-9,]+ bytes; pull again",
    "garbled": "can't be read",
}


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("way", WRONG)
def test_what_a_server_does_wrong_is_said_and_the_bundle_in_use_stays(serve, folder, store, monkeypatch, way):
    if way == "silent":
        monkeypatch.setattr(source, "SILENCE", 0.2)
    before = device.pull(str(store / "good"), folder, "d1", PUBLIC)
    with pytest.raises(Unavailable, match=WRONG[way]):
        device.pull(f"{serve('good')}/{way}", folder, "d1", PUBLIC)
    assert device.current(folder) == before
    device.opened(folder, PUBLIC)


@pytest.mark.usefixtures("trusted")
def test_a_file_that_comes_too_slowly_is_not_waited_for(serve, folder, monkeypatch):
    monkeypatch.setattr(source, "LONGEST", -1.0)
    with pytest.raises(Unavailable, match="not read to its end in"):
        device.pull(f"{serve('good')}/good", folder, "d1", PUBLIC)


@pytest.mark.parametrize(("name", "said"), [("good", "unable to get local issuer"), ("expired", "certificate has expired")])
def test_a_certificate_that_is_not_accepted_tells_of_clock_and_ca(serve, folder, request, name, said):
    if name == "expired":
        request.getfixturevalue("trusted")
    with pytest.raises(Unavailable, match=said) as refused:
        device.pull(f"{serve(name)}/good", folder, "d1", PUBLIC)
    assert re.search(r"set this device's clock if it is wrong \(it says 20\d\d-.* UTC\), or name .* in SSL_CERT_FILE", str(refused.value))


def test_a_proxy_on_this_very_machine_may_speak_http_and_no_other_is_asked_for_it(folder, store, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder = store
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        found = device.pull(f"http://127.0.0.1:{server.server_port}/good", folder, "d1", PUBLIC)
    finally:
        server.shutdown()
        server.server_close()
    assert json.loads((store / "good" / "pointer.json").read_bytes())["signed"]["stable"] == found["bundle"]
