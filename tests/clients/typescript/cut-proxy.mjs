//! A TCP proxy between the SDK and the server that can cut the event stream's connection in mid-call.
//! It reads no more of HTTP than the first word of each request, which tells a stream (GET) from a POST;
//! bytes pass through unchanged, Host header included.

import net from 'node:net';

export class CutProxy {
  #target;
  #server;
  #links = new Set();
  /** How many connections have carried a GET, ever. */
  streamsSeen = 0;

  /** `target`: URL of the server, http only. */
  constructor(target) {
    if (target.protocol !== 'http:') throw new Error('the proxy speaks plain TCP: --url must be http');
    this.#target = { host: target.hostname.replace(/^\[|\]$/g, ''), port: Number(target.port || 80) };
  }

  /** Listens on a free loopback port; gives the URL `original` as seen through the proxy. */
  async listen(original) {
    this.#server = net.createServer((client) => this.#accept(client));
    await new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(0, '127.0.0.1', resolve);
    });
    const through = new URL(original);
    through.hostname = '127.0.0.1';
    through.port = String(this.#server.address().port);
    return through;
  }

  #accept(client) {
    const upstream = net.connect(this.#target);
    const link = { client, upstream, method: '' };
    this.#links.add(link);
    client.setNoDelay(true);
    upstream.setNoDelay(true);
    client.on('data', (chunk) => {
      // A kept-alive connection may serve POSTs first and a GET later, so every request line counts.
      const method = /^(GET|POST) /.exec(chunk.subarray(0, 5).toString('latin1'))?.[1];
      if (method) {
        if (method === 'GET' && link.method !== 'GET') this.streamsSeen += 1;
        link.method = method;
      }
    });
    client.pipe(upstream);
    upstream.pipe(client);
    const end = () => {
      this.#links.delete(link);
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) {
      socket.on('error', end);
      socket.on('close', end);
    }
  }

  /**
   * Destroys the connections that carry an event stream (`scope` 'all': every connection).
   * `mode` 'fin': both sides see the connection end in the middle of a chunked body; 'rst': both see a reset.
   * Returns how many were cut.
   */
  cut(mode, scope) {
    const doomed = [...this.#links].filter((link) => scope === 'all' || link.method === 'GET');
    for (const { client, upstream } of doomed) {
      for (const socket of [client, upstream]) {
        if (mode === 'rst') socket.resetAndDestroy();
        else socket.destroy();
      }
    }
    return doomed.length;
  }

  close() {
    this.cut('fin', 'all');
    this.#server?.close();
  }
}
