#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12); httpx 0.28.1 with httpcore 1.0.9 and h2 4.4.1 (PyPI).
#
# On `nginx -s reload` the old worker says GOAWAY (NO_ERROR) on an HTTP/2 connection and names the running stream as one that it
# will finish (RFC 9113 section 6.8), and it does go on sending its events. httpx takes the GOAWAY for the end of everything: the
# event stream raises RemoteProtocolError(ConnectionTerminated error_code:0) at once. The same stream over HTTP/1.1 runs to its end.
# The python SDK of MCP, which is built on httpx, does not come back to a broken HTTP+SSE stream.
# Seen: HTTP/1.1: all 15 events. HTTP/2: some events until the reload, then RemoteProtocolError, error_code:0.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
(cd "$folder" && apt-get download -qq nginx=1.22.1-9+deb12u11 && dpkg -x nginx_*.deb nginx) >/dev/null 2>&1 ||
    { echo "nginx 1.22.1-9+deb12u11 of Debian 12 cannot be had here"; exit 2; }
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    httpx==0.28.1 httpcore==1.0.9 h2==4.4.1; } || { echo "the packages cannot be installed"; exit 2; }
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib, signal, socket, subprocess, sys, threading, time
import httpx

folder = pathlib.Path(sys.argv[1])
EVENTS = 15


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=stream, args=(connection,), daemon=True).start()


def stream(connection):
    """An event stream of 15 events, one every 0.3 s, with a clean end."""
    try:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(EVENTS):
            connection.sendall(b"9\r\ndata: a\n\n\r\n")
            time.sleep(0.3)
        connection.sendall(b"0\r\n\r\n")
    except OSError:
        pass


upstream = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(upstream,), daemon=True).start()
plain, multiplexed = free_port(), free_port()
(folder / "nginx.conf").write_text(f"""
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{plain}; listen 127.0.0.1:{multiplexed} http2;
        location / {{ proxy_pass http://127.0.0.1:{upstream.getsockname()[1]}; proxy_http_version 1.1; proxy_buffering off; }}
    }}
}}""")
nginx = subprocess.Popen([folder / "nginx/usr/sbin/nginx", "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
seen = {}


def read(port, client):
    events, end = 0, "clean end"
    version = "?"
    try:
        with client.stream("GET", f"http://127.0.0.1:{port}/", timeout=20) as response:
            version = response.http_version
            for line in response.iter_lines():
                events += line.startswith("data:")
    except httpx.HTTPError as error:
        end = f"{type(error).__name__}: {error}"
    seen[version] = (events, end)


try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", multiplexed)).close()
            break
        except OSError:
            time.sleep(0.05)
    clients = [(plain, httpx.Client()), (multiplexed, httpx.Client(http1=False, http2=True))]
    readers = [threading.Thread(target=read, args=pair) for pair in clients]
    for reader in readers:
        reader.start()
    time.sleep(1.2)
    nginx.send_signal(signal.SIGHUP)  # what `nginx -s reload` sends
    for reader in readers:
        reader.join()
finally:
    nginx.terminate()
    nginx.wait()
for version, (events, end) in sorted(seen.items()):
    print(f"{version}: {events} of {EVENTS} events, {end}")
(events_1, end_1), (events_2, end_2) = seen.get("HTTP/1.1", (0, "")), seen.get("HTTP/2", (0, ""))
as_stated = (events_1, end_1) == (EVENTS, "clean end") and 0 < events_2 < EVENTS and "error_code:0" in end_2
print("as stated" if as_stated else "this has changed")
sys.exit(0 if as_stated else 1)
PYTHON
