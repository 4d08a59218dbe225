#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12), h2 4.4.1 (PyPI).
#
# `return 444` is documented to close the connection without an answer. Over HTTP/1.1 it does. Over HTTP/2 it does not: the
# one stream is reset with error code 1 (PROTOCOL_ERROR), and an event stream that runs beside it on the same connection goes on.
# A client sees "the server says that I broke the protocol" where an HTTP/1.1 client sees a connection that was closed.
# Seen: HTTP/1.1: 0 bytes and end of connection. HTTP/2: StreamReset(1) on the stream, events of the other one go on.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
(cd "$folder" && apt-get download -qq nginx=1.22.1-9+deb12u11 && dpkg -x nginx_*.deb nginx) >/dev/null 2>&1 ||
    { echo "nginx 1.22.1-9+deb12u11 of Debian 12 cannot be had here"; exit 2; }
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --disable-pip-version-check h2==4.4.1; } ||
    { echo "the packages cannot be installed"; exit 2; }
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib, socket, subprocess, sys, threading, time
import h2.config, h2.connection, h2.events

folder = pathlib.Path(sys.argv[1])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(listener):
    """An event stream: one event every 0.2 s."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=stream, args=(connection,), daemon=True).start()


def stream(connection):
    try:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(30):
            connection.sendall(b"9\r\ndata: a\n\n\r\n")
            time.sleep(0.2)
    except OSError:
        pass


upstream = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(upstream,), daemon=True).start()
plain, multiplexed = free_port(), free_port()
(folder / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{plain}; listen 127.0.0.1:{multiplexed} http2;
        location = /stream {{ proxy_pass http://127.0.0.1:{upstream.getsockname()[1]}; proxy_http_version 1.1; proxy_buffering off; }}
        location = /drop {{ return 444; }}
    }}
}}""")
nginx = subprocess.Popen([folder / "nginx/usr/sbin/nginx", "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", multiplexed)).close()
            break
        except OSError:
            time.sleep(0.05)
    one = socket.create_connection(("127.0.0.1", plain), 5)
    one.sendall(b"GET /drop HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = one.recv(100)
    print(f"HTTP/1.1: {len(answer)} bytes, then the end of the connection")

    two = socket.create_connection(("127.0.0.1", multiplexed), 5)
    protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    protocol.initiate_connection()
    streams = {}
    for path in ("/stream", "/drop"):
        number = protocol.get_next_available_stream_id()
        headers = [(":method", "GET"), (":path", path), (":authority", "localhost"), (":scheme", "http")]
        protocol.send_headers(number, headers, end_stream=True)
        streams[number] = path
    two.sendall(protocol.data_to_send())
    reset, after, closed, end = None, 0, False, time.time() + 3
    while time.time() < end:
        two.settimeout(max(0.01, end - time.time()))
        try:
            received = two.recv(65536)
        except TimeoutError:
            break
        if not received:
            closed = True
            break
        for event in protocol.receive_data(received):
            if isinstance(event, h2.events.StreamReset):
                reset = (streams[event.stream_id], int(event.error_code))
            elif isinstance(event, h2.events.DataReceived) and reset:
                after += 1
        two.sendall(protocol.data_to_send())
    print(f"HTTP/2: reset {reset}, events of the other stream after it: {after}, connection closed: {closed}")
    as_stated = not answer and reset == ("/drop", 1) and after > 3 and not closed
finally:
    nginx.terminate()
    nginx.wait()
print("as stated" if as_stated else "this has changed")
sys.exit(0 if as_stated else 1)
PYTHON
