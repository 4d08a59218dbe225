"""fastmcp's client at a router that asks for tokens: it is told nothing but the URL of the service and that there is OAuth
(`auth="oauth"`, as its users write it). It finds the authorization server, registers itself there, and its user says yes in a
browser. Prints one JSON object.

    authorize.py URL sse|streamable

Run by the fastmcp of requirements.txt and by that of matrix/python-1.
"""

import asyncio
import contextlib
import html.parser
import http.cookiejar
import json
import socket
import sys
import threading
import time
import traceback
import urllib.parse
import urllib.request
import warnings
import webbrowser
from importlib.metadata import version

from fastmcp import Client
from fastmcp.client.transports import SSETransport, StreamableHttpTransport

# Of both that tokens are kept in memory, and of one that HTTP+SSE is an old transport: both are meant.
warnings.simplefilter("ignore")


class Form(html.parser.HTMLParser):
    """The form of the authorization server's own pages."""

    def __init__(self):
        super().__init__()
        self.action, self.prompt = None, None

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form":
            self.action = attrs.get("action")
        if tag == "input" and attrs.get("name") == "prompt":
            self.prompt = attrs.get("value")


class Back(urllib.request.HTTPRedirectHandler):
    """The way back to the client, which begins to listen only when its browser is on the way: a person takes longer."""

    def redirect_request(self, request, answer, code, message, headers, url):
        to = urllib.parse.urlsplit(url)
        if to.path == "/callback":
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection((to.hostname, to.port), 1):
                    break
                time.sleep(0.1)
        return super().redirect_request(request, answer, code, message, headers, url)


def browse(url):
    """A browser that logs in and says yes to everything, until it is sent back to its client."""
    jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar, Back)
    answer = opener.open(url, timeout=30)
    for _ in range(10):
        form = Form()
        form.feed(answer.read().decode())
        if form.prompt is None:
            return
        sent = urllib.parse.urlencode({"prompt": form.prompt, "login": "alice", "password": "any"}).encode()
        answer = opener.open(urllib.parse.urljoin(answer.url, form.action), sent, timeout=30)


# The client waits for what its browser brings.
webbrowser.open = lambda url, *_: bool(threading.Thread(target=browse, args=(url,), daemon=True).start()) or True


async def main(url, transport):
    kind = {"sse": SSETransport, "streamable": StreamableHttpTransport}[transport]
    async with Client(kind(url, auth="oauth"), timeout=60) as client:
        tools = await client.list_tools()
        result = await client.call_tool("echo", {"text": "hello"})
        return {"ok": True, "tools": len(tools), "text": result.content[0].text}


try:
    report = asyncio.run(main(*sys.argv[1:3]))
except BaseException:  # noqa: BLE001 - whatever it was, the test shows it
    report = {"ok": False, "error": traceback.format_exc()}
print(json.dumps({"fastmcp": version("fastmcp"), **report}))
