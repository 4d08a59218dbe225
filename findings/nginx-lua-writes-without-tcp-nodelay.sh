#!/usr/bin/env bash
# nginx 1.22.1 with its Lua module 0.10.23 (Debian 12).
#
# `tcp_nodelay` is on unless it is switched off, and nginx sets the option on a client's connection where proxy_pass is unbuffered.
# For what Lua writes with ngx.print and ngx.flush(true) it does not, on the first request of a connection (HTTP/1.1 without TLS): each
# small event waits until the client has acknowledged the one before. To a client whose system acknowledges late, or that is far
# away, events come together, up to 40 ms or a round trip late.
# Seen: 100 events, one every 5 ms, to a client that lets its system acknowledge: proxy_pass shows them in about 100 steps, Lua
# in about 25.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
(
    cd "$folder"
    apt-get download -qq nginx=1.22.1-9+deb12u11 libnginx-mod-http-lua=1:0.10.23-1+deb12u1 libnginx-mod-http-ndk=1:0.3.2-3 \
        libluajit2-5.1-2=2.1-20230119-1 lua-resty-core=0.1.25-1 lua-resty-lrucache=0.13-10
    for package in ./*.deb; do dpkg -x "$package" .; done
) >/dev/null 2>&1 || { echo "nginx and its Lua module of Debian 12 cannot be had here"; exit 2; }
LD_LIBRARY_PATH=$(dirname "$(find "$folder/usr/lib" -name 'libluajit*.so.2' | head -n 1)") python3 - "$folder" <<'PYTHON'
import pathlib, socket, subprocess, sys, threading, time

folder = pathlib.Path(sys.argv[1])
COUNT, PAUSE = 100, 0.005


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(listener):
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(COUNT):
            connection.sendall(b"9\r\ndata: a\n\n\r\n")
            time.sleep(PAUSE)
        connection.sendall(b"0\r\n\r\n")
        connection.close()


upstream = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(upstream,), daemon=True).start()
port = free_port()
modules = folder / "usr/lib/nginx/modules"
(folder / "nginx.conf").write_text(f"""
load_module {modules}/ndk_http_module.so; load_module {modules}/ngx_http_lua_module.so;
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    lua_package_path "{folder}/usr/share/lua/5.1/?.lua;;";
    server {{
        listen 127.0.0.1:{port};
        location /proxy {{ proxy_pass http://127.0.0.1:{upstream.getsockname()[1]}; proxy_http_version 1.1; proxy_buffering off; }}
        location /lua {{
            content_by_lua_block {{
                ngx.header["Content-Type"] = "text/event-stream"
                for _ = 1, {COUNT} do
                    ngx.print("data: a\\n\\n")
                    ngx.flush(true)
                    ngx.sleep({PAUSE})
                end
            }}
        }}
    }}
}}""")


def steps(path):
    """How often something came until all events were there. Nothing is read: the client's system acknowledges in its own time."""
    client = socket.create_connection(("127.0.0.1", port), 5)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    seen = count = 0
    text = b""
    while text.count(b"data: a") < COUNT:
        text = client.recv(65536, socket.MSG_PEEK)
        if len(text) > seen:
            seen, count = len(text), count + 1
        time.sleep(0.0005)
    return count


nginx = subprocess.Popen([folder / "usr/sbin/nginx", "-e", folder / "error.log", "-p", folder, "-c", folder / "nginx.conf"])
try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    # A machine with other work shows some of them together: the best of five counts.
    proxied, written = max(steps("/proxy") for _ in range(5)), max(steps("/lua") for _ in range(5))
    print(f"{COUNT} events came in {proxied} steps by proxy_pass, in {written} by Lua")
    as_stated = proxied > 80 and written < 50
finally:
    nginx.terminate()
    nginx.wait()
print("as stated" if as_stated else "this has changed")
sys.exit(0 if as_stated else 1)
PYTHON
