#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12), h2 4.4.1 (PyPI).
#
# An upstream dies in the middle of its answer. Over HTTP/1.1 nginx closes the client's connection at once. Over HTTP/2 it resets the
# stream at once only if that is the only one of the connection. Beside another stream the RST_STREAM frame stays in nginx until it
# has something else to send there: a client whose other stream is silent waits for as long as that one is.
# Seen: HTTP/1.1 and HTTP/2 alone: within 0.1 s. Beside a stream with an event every 3 s: with the next event, seconds later.
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
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
died = threading.Event()
died_at = 0.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection):
    """/slow: an event every 3 s. /dies: one event, and after half a second the connection breaks off, as when a process is killed."""
    global died_at
    try:
        request = connection.recv(65536)
        connection.sendall(HEAD + b"9\r\ndata: a\n\n\r\n")
        if b"/dies" in request:
            time.sleep(0.5)
            died_at = time.time()
            connection.close()
            return
        for _ in range(4):
            time.sleep(3)
            connection.sendall(b"9\r\ndata: b\n\n\r\n")
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
        location / {{ proxy_pass http://127.0.0.1:{upstream.getsockname()[1]}; proxy_http_version 1.1; proxy_buffering off; }}
    }}
}}""")


def over_http1():
    """Seconds from the death until the client's connection is closed."""
    client = socket.create_connection(("127.0.0.1", plain), 5)
    client.sendall(b"GET /dies HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while client.recv(65536):
        pass
    return time.time() - died_at


def over_http2(*paths):
    """Seconds from the death until the client is told of it, by a reset of that stream."""
    client = socket.create_connection(("127.0.0.1", multiplexed), 20)
    protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    protocol.initiate_connection()
    streams = {}
    for path in paths:
        number = protocol.get_next_available_stream_id()
        headers = [(":method", "GET"), (":path", path), (":authority", "localhost"), (":scheme", "http")]
        protocol.send_headers(number, headers, end_stream=True)
        streams[number] = path
        client.sendall(protocol.data_to_send())
        # The events of /slow are then 2.3 s after the death, and no earlier.
        time.sleep(0.2)
    while received := client.recv(65536):
        for event in protocol.receive_data(received):
            if isinstance(event, h2.events.StreamReset) and streams[event.stream_id] == "/dies":
                return time.time() - died_at
        client.sendall(protocol.data_to_send())
    raise SystemExit("nginx has closed the connection")


nginx = subprocess.Popen([folder / "nginx/usr/sbin/nginx", "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", multiplexed)).close()
            break
        except OSError:
            time.sleep(0.05)
    one, alone, beside = over_http1(), over_http2("/dies"), over_http2("/slow", "/dies")
    print(f"from the death until the client is told: HTTP/1.1 {one:.2f} s, HTTP/2 alone {alone:.2f} s, beside a silent stream {beside:.2f} s")
    as_stated = one < 1 and alone < 1 and beside > 1.5
finally:
    nginx.terminate()
    nginx.wait()
print("as stated" if as_stated else "this has changed")
sys.exit(0 if as_stated else 1)
PYTHON
