"""Who may ask the page for what, and how much they may send: a real server on loopback, asked as an attacker would."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("gradio", reason="the extra [app] is not installed: pip install '.[app]'")

from app_server import Place, multipart, new_service, served, until
from cases import case
from fastapi.testclient import TestClient

from metadeblur.app import connections, gate, throttle
from metadeblur.app.hosts import Hosts, Proxies
from metadeblur.app.server import Site, make_app
from metadeblur.app.throttle import Throttle

ROOT = "http://127.0.0.1"
HUGE = 300_000_000  # bytes that are announced, never sent
MULTIPART = "multipart/form-data; boundary=limit"


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with served(new_service()) as place:
        yield place


@pytest.fixture(scope="module")
def closed() -> Iterator[Place]:
    """One with a password."""
    with served(new_service(), password="öpen sesame") as place:
        yield place


def log_in(place: Place, password: str, **headers: str):
    body = f"username=a&password={password}".encode()
    return place.ask("/login", "POST", body=body, Content_Type="application/x-www-form-urlencoded", **headers)


# --- hosts ---------------------------------------------------------------------------------------------------------


@case(
    "The page",
    "a site that gives its own name the address of this computer (DNS rebinding)",
    "only loopback names, what `--host` was told and `--allow-host` are answered",
    "421 and the flag that allows the name",
)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil", "127.1"]
)
def test_a_foreign_host_is_not_answered(place, host):
    for path, method in (("/", "GET"), ("/config", "GET"), ("/gradio_api/run/predict", "POST"), ("/login", "POST")):
        answer = place.ask(path, method, body=b"" if method == "POST" else None, host=host, Origin=f"http://{host}")
        assert answer.status == 421
        assert "--allow-host" in answer.text
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1234", "localhost.:80", "127.0.0.1", "[::1]:7860", "[0:0::1]"]
)
def test_loopback_names_are_answered_at_any_port(place, host):
    assert place.ask("/config", host=host).status == 200


@pytest.mark.parametrize(
    "host", ["", "a@localhost", "localhost/x", "localhost:x", "localhost:70000", "[::1", "local host"]
)
def test_what_is_no_host_is_refused(place, host):
    assert place.say(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode()).startswith(b"400 ")


def test_two_hosts_or_none_are_refused(place):
    assert place.say(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n").startswith(b"400 ")
    assert place.say(b"GET / HTTP/1.0\r\n\r\n").startswith(b"400 ")
    assert place.say(b"GET http://localhost/config HTTP/1.1\r\nHost: evil.example\r\n\r\n").startswith(
        (b"421 ", b"404 ")
    )


def test_which_names_are_answered():
    hosts = Hosts.of("192.168.1.5", ["deblur.example.org"])
    assert hosts.answer("deblur.example.org", None)
    assert hosts.answer("192.168.1.5", None)
    assert not hosts.answer("192.168.1.6", "192.168.1.6")
    everywhere = Hosts.of("0.0.0.0")
    assert everywhere.answer("192.168.1.6", "192.168.1.6")  # the address by which the connection came
    assert everywhere.answer("192.168.1.6", "::ffff:192.168.1.6")
    assert everywhere.answer("fe80::1", "fe80::1%eth0")
    assert not everywhere.answer("10.0.0.1", "192.168.1.6")
    assert not everywhere.answer("evil.example", "192.168.1.6")


# --- proxies -------------------------------------------------------------------------------------------------------


@case(
    "The page",
    "X-Forwarded-Host, -Proto, -For and the like from anybody",
    "not believed; only from the address that `--proxy` names",
    "nothing to tell",
)
def test_what_anybody_says_of_a_proxy_is_not_believed(place):
    told = {
        "X_Forwarded_Host": "evil.example",
        "X_Forwarded_Proto": "https",
        "X_Forwarded_For": "10.9.9.9",
        "X_Forwarded_Prefix": "/evil",
        "X_Gradio_Server": "http://evil.example",
        "Forwarded": "host=evil.example;proto=https",
        "X_Original_Host": "evil.example",
    }
    answer = place.ask("/config", **told)
    assert answer.status == 200
    assert b"evil" not in answer.content
    assert json.loads(answer.content)["root"] == f"{ROOT}:{place.port}"


def test_a_proxy_that_is_named_is_believed():
    service = new_service()
    site = Site(further_hosts=("deblur.example.org",), proxies=("10.0.0.0/8",), password="x", root_path="/deblur")
    told = {"X-Forwarded-Host": "deblur.example.org", "X-Forwarded-Proto": "https", "X-Forwarded-For": "1.2.3.4"}
    with TestClient(make_app(service, site), base_url=ROOT, client=("10.1.2.3", 5)) as client:
        sent = client.post("/login", data={"username": "a", "password": "x"}, headers=told)
        (cookie,) = sent.headers.get_list("set-cookie")
        assert "; Secure" in cookie
        assert client.get("/", headers=told | {"X-Forwarded-Host": "evil.example"}).status_code == 421
        found = client.get("/config", headers=told | {"Cookie": cookie.partition(";")[0]})
        assert found.json()["root"] == "https://deblur.example.org/deblur"
        origin = {"Origin": "https://deblur.example.org"}
        assert client.post("/visit/x/here", headers=told | origin).status_code == 404  # let through, and nobody there
        assert client.post("/visit/x/here", headers=told | {"Origin": "http://deblur.example.org"}).status_code == 403


@pytest.mark.parametrize(
    ("chain", "visitor"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4", "1.2.3.4"),  # the visitor wrote the first one
        ("1.2.3.4, 10.0.0.7", "1.2.3.4"),  # two proxies
        ("2001:db8::0001", "2001:db8::1"),
        ("evil", "10.0.0.1"),
        ("1.2.3.4, evil", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_who_asks_through_a_proxy(chain, visitor):
    proxies = Proxies(["10.0.0.0/8"])
    assert proxies.asked("10.0.0.1", "http", "localhost", {"x-forwarded-for": chain}).client == visitor
    assert proxies.asked("::ffff:10.0.0.1", "http", "localhost", {"x-forwarded-for": chain}).client == visitor
    assert proxies.asked("11.0.0.1", "http", "localhost", {"x-forwarded-for": chain}).client == "11.0.0.1"


# --- other sites ---------------------------------------------------------------------------------------------------

_POSTS = ("/gradio_api/run/predict", "/gradio_api/queue/join", "/login", "/visit/x/leave", "/visit/x/upload")


@case(
    "The page",
    "another site's page posts, reads or embeds (foreign or null Origin, other port, Sec-Fetch-Site)",
    "refused before anything happens; only a link to the page itself is followed",
    "403",
)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1", "x", ""])
def test_another_site_s_page_may_ask_for_nothing(place, origin):
    for path in _POSTS:
        foreign = {"Origin": origin} if origin else {"Sec_Fetch_Site": "cross-site"}
        answer = place.ask(path, "POST", body=b"{}", **foreign)
        assert (path, answer.status) == (path, 403)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    if origin:
        assert place.ask("/config", Origin=origin).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_only_links_to_the_page_itself_are_followed(place, site):
    link = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert place.ask("/", **link).status == 200
    for path in ("/logout", "/config", "/gradio_api/startup-events", "/gradio_api/heartbeat/x", "/visit/x/file"):
        assert place.ask(path, **link).status == 403
    assert place.ask("/", **{**link, "Sec_Fetch_Dest": "iframe"}).status == 403
    assert place.ask("/", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="image").status == 403


def test_the_page_s_own_requests_pass(place):
    own = f"{ROOT}:{place.port}"
    for origin in (own, own.upper().replace("HTTP", "http")):
        assert place.ask("/visit/x/here", "POST", body=b"", Origin=origin, Sec_Fetch_Site="same-origin").status == 404
    for site in ("same-origin", "none"):
        assert place.ask("/config", Sec_Fetch_Site=site).status == 200
    answer = place.ask("/config", Origin=own)
    assert answer.status == 200
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND"])
def test_other_methods_are_refused(place, method):
    answer = place.ask("/gradio_api/queue/join", method, Access_Control_Request_Method="POST")
    assert answer.status == 405
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_there_is_no_websocket(place):
    line = b"GET /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    assert place.say(line + key)[:4] in (b"403 ", b"404 ", b"405 ")


def test_every_answer_says_what_a_browser_may_do_with_it(place):
    for path in ("/", "/config", "/theme.css", "/nothing", "/visit/x/file", "/gradio_api/file=/etc/passwd"):
        headers = place.ask(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["server"] is None


# --- bodies --------------------------------------------------------------------------------------------------------

_ADDRESSES = [
    ("POST", "/login", MULTIPART),
    ("POST", "/login/", MULTIPART),
    ("POST", "/login", "application/x-www-form-urlencoded"),
    ("POST", "/gradio_api/run/predict", "application/json"),
    ("POST", "/gradio_api/queue/join", "application/json"),
    ("POST", "/gradio_api/upload", MULTIPART),
    ("POST", "/visit/x/here", "text/plain"),
    ("POST", "/visit/x/upload/", "text/plain"),
    ("POST", "/", "text/plain"),
    ("GET", "/config", "application/json"),
    ("GET", "/gradio_api/queue/data?session_hash=x", "application/json"),
]


@case(
    "The page",
    "a JSON body or a login of 300 MB, announced or in pieces",
    "refused before it is read: what is not an upload has a megabyte, half a minute and 64 levels of lists",
    "413 (408, 400)",
)
@pytest.mark.parametrize(("method", "path", "kind"), _ADDRESSES)
def test_what_says_it_is_huge_is_refused_before_a_byte_of_it_is_read(closed, method, path, kind):
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {HUGE}\r\n\r\n"
    assert closed.say(head.encode())[:4] in (b"413 ", b"404 ")


@pytest.mark.parametrize(("method", "path", "kind"), _ADDRESSES)
def test_what_does_not_say_it_is_counted(closed, method, path, kind):
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    part = b'--limit\r\nContent-Disposition: form-data; name="password"; filename="a"\r\n\r\n'
    begin = part if kind == MULTIPART else b"["
    pieces = [begin, *[bytes(100_000)] * 11]  # a little more than a megabyte, without an end
    said = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    refused = b"401 " if path == "/gradio_api/upload" else b"413 "  # whoever has not given the password brings nothing
    assert closed.say(head.encode(), *said)[:4] in (refused, b"404 ")


def test_a_length_and_pieces_at_once_are_no_way_around(place):
    both = b"POST /visit/x/here HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    rest = b"0\r\n\r\nGET /config HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert b'"root"' not in place.say(both + rest)
    twice = b"POST /visit/x/here HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"
    assert place.say(twice).startswith(b"400 ")
    for length in (b"-1", b"1e3", b"9" * 40):
        assert place.say(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n" % length)[:3] in (
            b"400",
            b"413",
        )


def test_uploads_are_bounded_by_the_page_s_own_limit(place):
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=limit\r\n"
    )
    assert place.say(f"{head}Content-Length: 10000001\r\n\r\n".encode()).startswith(b"413 ")  # five clips at once
    assert place.upload(("a.mp4", bytes(2_000_001))).status == 413
    body, _ = multipart(*((f"{number}.mp4", bytes(1_900_000)) for number in range(6)))
    said = [b"%x\r\n%s\r\n" % (100_000, body[at : at + 100_000]) for at in range(0, 11_000_000, 100_000)]
    assert place.say(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), *said)[:4] == b"413 "
    assert [
        path for path in place.service.uploads.rglob("*") if path.is_file() and "metadeblur-" not in str(path)
    ] == []
    assert place.upload(("a.mp4", bytes(1_500_000))).status == 200  # and more than a megabyte is welcome


def test_a_part_that_is_no_file_is_not_kept_in_memory(place):
    body = b'--limit\r\nContent-Disposition: form-data; name="files"\r\n\r\n' + bytes(1_500_000)
    for query in ("", "?upload_id=x"):
        kind = {"Content_Type": "multipart/form-data; boundary=limit"}
        assert place.ask(f"/gradio_api/upload{query}", "POST", body=body, **kind).status == 400


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"a":' * 1000, '{"data":' + "[" * 100 + "]" * 100 + "}", '"' + '\\"' * 300_000 + "[" * 99]
)
def test_lists_in_lists_without_end_are_refused_at_once(place, body):
    began = time.monotonic()
    answer = place.ask("/gradio_api/run/predict", "POST", body=body, Content_Type="application/json")
    assert 400 <= answer.status < 500
    assert time.monotonic() - began < 5.0


def test_brackets_in_words_are_no_lists(place):
    words = {"data": ["[" * 500], "fn_index": 0, "session_hash": "x"}
    assert "without end" not in place.ask("/gradio_api/run/predict", "POST", body=words).text


def test_heads_are_bounded(place):
    assert place.ask("/?" + "a" * 5000).status == 414
    assert place.ask("/" + "a" * 2000).status == 414
    assert place.ask("/", **{f"X_{number}": "a" for number in range(150)}).status == 431
    assert place.say(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: %s\r\n\r\n" % (b"a" * 70_000))[:3] in (b"400", b"431")


# --- patience ------------------------------------------------------------------------------------------------------


@case(
    "The page",
    "connections that send nothing, a byte now and then, or hundreds of them from one address (slow loris)",
    "closed after 20 seconds for the head, 30 for a body; 200 connections an address; uploads must keep coming",
    "nothing to tell",
)
@pytest.mark.parametrize(
    "said",
    [b"", b"GET / HTTP/1.1\r\nHost: loc", b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nab"],
)
def test_who_sends_nothing_more_is_not_waited_for(place, monkeypatch, said):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.3)
    began = time.monotonic()
    with place.connect() as line:
        line.sendall(said)
        try:
            while line.recv(1000):
                pass
        except ConnectionResetError:
            pass
    assert time.monotonic() - began < 10.0


def test_an_upload_that_stops_is_ended_and_leaves_nothing(place, monkeypatch):
    monkeypatch.setattr(gate, "UPLOAD_PAUSE_SECONDS", 1.5)
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=limit\r\n"
    )
    body, _ = multipart(("a.mp4", b"ab"))

    def parts() -> list[str]:
        return [path.name for path in place.service.uploads.iterdir() if path.is_file()]

    with place.connect() as line:
        line.sendall(f"{head}Content-Length: 9999\r\n\r\n".encode() + body[:-14])
        until(parts, 10.0)
        until(lambda: not parts(), 10.0)


def test_one_address_holds_only_so_many_connections(place, monkeypatch):
    monkeypatch.setattr(connections, "MOST_OF_ONE", 8)
    lines = [place.connect() for _ in range(12)]
    try:
        closed = 0
        for line in lines[8:]:
            try:
                closed += line.recv(10) == b""
            except ConnectionResetError:
                closed += 1
        assert closed >= 3
    finally:
        for line in lines:
            line.close()
    end = time.monotonic() + 10.0
    while True:  # and afterwards there is room again
        try:
            assert place.ask("/config").status == 200
            break
        except OSError:
            assert time.monotonic() < end


# --- passwords -----------------------------------------------------------------------------------------------------


@case(
    "The page",
    "passwords are tried one after the other, or many at the same moment",
    "after five wrong ones an address waits, twice as long each time up to 15 minutes; compared in constant time",
    "429 and the seconds to wait",
)
def test_whoever_tries_passwords_has_to_wait(monkeypatch):
    with served(new_service(), password="right") as place:
        said = [log_in(place, f"wrong{number}").status for number in range(7)]
        assert said == [400] * 5 + [429] * 2
        answer = log_in(place, "right")  # not even looked at
        assert answer.status == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 2
        assert "set-cookie" not in answer.headers
        assert log_in(place, "right", X_Forwarded_For="9.9.9.9").status == 429  # nobody else by saying so
        monkeypatch.setattr(throttle, "FIRST_WAIT", 0.0)
        time.sleep(1.1)
        assert log_in(place, "right").status == 200


def test_waiting_grows_and_ends():
    now = 0.0
    tries = Throttle(lambda: now)
    waits = []
    for _ in range(20):
        now += (wait := tries.wait("10.0.0.1"))
        waits.append(wait)
        assert tries.wait("10.0.0.1") == 0.0 or wait == 0.0
    assert tries.wait("10.0.0.2") == 0.0
    assert max(waits) <= throttle.LONGEST_WAIT
    grown = [wait for wait in waits if wait]
    assert grown[:4] == sorted(grown[:4])
    assert grown[-1] == throttle.LONGEST_WAIT
    tries.right("10.0.0.1")
    assert tries.wait("10.0.0.1") == 0.0


def test_the_table_of_tries_is_bounded():
    tries = Throttle(lambda: 0.0)
    for number in range(throttle.MOST_KNOWN + 50):
        tries.wait(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(tries) == throttle.MOST_KNOWN
    six = Throttle(lambda: 0.0)
    assert [six.wait(f"2001:db8::{number}") for number in range(1, 8)].count(0.0) == throttle.FREE_TRIES  # one network


def test_passwords_are_compared_in_constant_time(closed, monkeypatch):
    compared = []
    compare = hmac.compare_digest
    assert log_in(closed, "%C3%B6pen%20sesame").status == 200  # whatever was tried before is forgotten
    monkeypatch.setattr(hmac, "compare_digest", lambda *words: compared.append(words) or compare(*words))
    assert log_in(closed, "a").status == 400
    assert log_in(closed, "a" * 50_000).status == 400
    assert log_in(closed, "%ff%00").status == 400
    assert log_in(closed, "%C3%B6pen%20sesame").status == 200
    assert len(compared) == 4
    assert {len(word) for words in compared for word in words} == {32}  # nothing of their lengths either


@case(
    "The page",
    "the cookie of a visitor who has given the password",
    "HttpOnly, SameSite=Lax, and Secure where the page is reached by https; one cookie, no insecure twin",
    "nothing to tell",
)
def test_the_cookie_stays_between_browser_and_page(closed):
    answer = log_in(closed, "%C3%B6pen%20sesame")
    assert answer.status == 200
    (cookie,) = answer.headers.get_all("set-cookie")
    assert "; HttpOnly" in cookie
    assert "; SameSite=Lax" in cookie
    assert "Path=/" in cookie
    assert "Secure" not in cookie  # this is http
    given = cookie.partition(";")[0]
    assert closed.ask("/config").status == 401
    assert closed.ask("/config", Cookie=given).status == 200
    assert closed.ask("/config", Cookie=given[:-2]).status == 401
    assert closed.ask("/logout", Cookie=given).status in (302, 307)
    assert closed.ask("/config", Cookie=given).status == 401


def test_without_the_password_there_is_nothing(closed):
    for path in ("/config", "/gradio_api/queue/data?session_hash=x"):
        assert closed.ask(path).status == 401
    for path in ("/gradio_api/run/predict", "/gradio_api/queue/join", "/gradio_api/call/x", "/gradio_api/api/x"):
        body = {"data": [], "fn_index": 0, "session_hash": "x"}
        assert closed.ask(path, "POST", body=body).status in (401, 404)
    assert len(closed.service.visits) == 0
