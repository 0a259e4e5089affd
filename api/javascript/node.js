// How Node carries a call: HTTP/1.1 over a socket of TCP, TLS or a path, kept for the next call. Node's own http and
// fetch hand a reply over in parts of 64 KiB, each of which has memory of its own and is copied; here the socket reads
// a body of announced length into the one buffer that becomes the tensors.

import { validateHeaderValue } from "node:http";
import net from "node:net";
import tls from "node:tls";

const HEAD_MAX = 64 * 1024;

/** Whoever sends chunks: lossd does not, servers between may. */
class Chunks {
  #parts = [];
  #line = ""; // what has come of a line: a size, the end of a chunk, or a trailer
  #left = 0; // of the chunk under way
  #last = false; // the chunk of size 0 was seen: what follows are trailers

  /** True with the last byte. */
  take(bytes) {
    let at = 0;
    while (at < bytes.length) {
      if (this.#left > 0) {
        const part = bytes.subarray(at, at + this.#left);
        this.#parts.push(Buffer.from(part));
        this.#left -= part.length;
        at += part.length;
        continue;
      }
      const end = bytes.indexOf(10, at);
      this.#line += bytes.latin1Slice(at, end < 0 ? bytes.length : end + 1);
      if (this.#line.length > HEAD_MAX) throw new Error("the reply has a line without end");
      if (end < 0) return false;
      at = end + 1;
      const line = this.#line.trim();
      this.#line = "";
      if (this.#last) {
        if (line === "" && at < bytes.length) throw new Error("the reply is longer than it says");
        if (line === "") return true;
      } else if (line !== "") {
        if (!/^[0-9a-f]{1,12}\s*(;|$)/i.test(line)) throw new Error("the reply is not chunked as it says");
        this.#left = parseInt(line, 16);
        this.#last = this.#left === 0;
      }
    }
    return false;
  }

  get body() {
    return Buffer.concat(this.#parts);
  }
}

/** One socket, which carries one call at a time. */
class Connection {
  #socket;
  #scratch = Buffer.allocUnsafeSlow(HEAD_MAX); // heads, and bodies without a length
  #held = 0; // bytes of a head there
  #call; // { resolve, reject, reply, body, filled, chunks, parts }
  #error;
  #unsent; // why the rest of a request could not be sent

  constructor(where) {
    const onread = {
      buffer: () => this.#space(),
      callback: (size) => {
        try {
          this.#take(size);
        } catch (error) {
          this.#socket.destroy(error);
        }
        return true;
      },
    };
    this.#socket = where.secure ? tls.connect({ ...where, onread }) : net.connect({ ...where, onread });
    this.#socket.setNoDelay(true);
    for (const write of ["_write", "_writev"]) this.#hear(write);
    this.#socket.on("end", () => this.#socket.destroy());
    this.#socket.on("error", (error) => (this.#error = error));
    this.#socket.on("close", () => this.#closed());
  }

  /**
   * Where a request cannot be sent to its end, lossd has refused it: what it said is still to be read. A socket destroys
   * itself when writing fails; so it is not told.
   */
  #hear(write) {
    const given = this.#socket[write];
    this.#socket[write] = (...args) => {
      const done = args.pop();
      given.call(this.#socket, ...args, (error) => {
        if (error) this.#unsent = error;
        else done();
      });
    };
  }

  get open() {
    return !this.#socket.destroyed;
  }

  /** Status, headers and body of the reply. The pieces are sent as they are, and must not change until then. */
  send(head, pieces, signal) {
    return new Promise((resolve, reject) => {
      const stop = () => this.#socket.destroy(signal.reason);
      const done = (settle) => (value) => {
        signal.removeEventListener("abort", stop);
        settle(value);
      };
      this.#call = { resolve: done(resolve), reject: done(reject), filled: 0 };
      signal.addEventListener("abort", stop, { once: true });
      this.#socket.ref();
      this.#socket.cork();
      this.#socket.write(head, "latin1");
      for (const piece of pieces) this.#socket.write(piece);
      this.#socket.uncork();
    });
  }

  /** Where the next bytes go. */
  #space() {
    const call = this.#call;
    if (call?.body && call.filled < call.body.length) return call.body.subarray(call.filled);
    return this.#scratch.subarray(this.#held);
  }

  #take(size) {
    const call = this.#call;
    if (!call) throw new Error("a reply to nothing");
    if (call.body) {
      call.filled += size;
      if (call.filled === call.body.length) this.#finish(call.body);
    } else if (call.reply) {
      this.#rest(this.#scratch.subarray(0, size));
    } else {
      this.#head(size);
    }
  }

  #head(size) {
    const call = this.#call;
    const bytes = this.#scratch.subarray(0, this.#held + size);
    const end = bytes.indexOf("\r\n\r\n", Math.max(0, this.#held - 3));
    this.#held = end < 0 ? bytes.length : 0;
    if (this.#held === HEAD_MAX) throw new Error("the reply has too long a head");
    if (end < 0) return;
    const [line, ...fields] = bytes.latin1Slice(0, end).split("\r\n");
    const status = /^HTTP\/1\.[01] (\d{3})/.exec(line)?.[1];
    if (!status) throw new Error("the reply is not HTTP");
    const rest = bytes.subarray(end + 4);
    if (status < 200) {
      bytes.copyWithin(0, end + 4);
      if (rest.length > 0) this.#head(rest.length);
      return;
    }
    const headers = new Map();
    for (const field of fields) {
      const colon = field.indexOf(":");
      headers.set(field.slice(0, colon).toLowerCase(), field.slice(colon + 1).trim());
    }
    call.reply = { status: Number(status), header: (name) => headers.get(name) ?? null };
    const length = status === "204" ? "0" : headers.get("content-length"); // 204 has no body, and says no length
    if (/\bchunked$/i.test(headers.get("transfer-encoding") ?? "")) {
      call.chunks = new Chunks();
    } else if (length !== undefined) {
      if (!/^\d{1,15}$/.test(length)) throw new Error(`the reply has a Content-Length of "${length}"`);
      const body = Buffer.allocUnsafeSlow(Number(length)); // nobody need clear it first
      if (rest.length > body.length) throw new Error("the reply is longer than it says");
      rest.copy(body);
      call.filled = rest.length;
      if (call.filled === body.length) this.#finish(body);
      else call.body = body;
      return;
    } else {
      call.parts = [];
    }
    if (rest.length > 0) this.#rest(rest);
  }

  /** A body without a length: in chunks, or until the connection ends. */
  #rest(bytes) {
    const { chunks, parts } = this.#call;
    if (!chunks) parts.push(Buffer.from(bytes));
    else if (chunks.take(bytes)) this.#finish(chunks.body);
  }

  #finish(body) {
    const { resolve, reply } = this.#call;
    this.#call = undefined;
    const kept = !/\bclose\b/i.test(reply.header("connection") ?? "") && this.#socket.writableLength === 0;
    if (kept) this.#socket.unref();
    else this.#socket.destroy();
    resolve({ ...reply, body });
  }

  #closed() {
    const call = this.#call;
    if (!call) return;
    if (call.parts && !this.#error) {
      this.#finish(Buffer.concat(call.parts));
    } else {
      this.#call = undefined;
      call.reject(this.#error ?? this.#unsent ?? new Error("the connection was closed before the reply was whole"));
    }
  }
}

/** Carries the calls of one client: `url` is http://host:port, https://host:port or unix:/path. */
export class Carrier {
  #where;
  #host = "localhost";
  #prefix = "";
  #idle = [];

  constructor(url) {
    if (url.startsWith("unix:")) {
      this.#where = { path: url.slice(5) };
      return;
    }
    if (!/^https?:\/\/[^/]/.test(url)) throw new TypeError(`${url} is not http://host:port, https://host:port or unix:/path`);
    const { protocol, hostname, port, host, pathname } = new URL(url);
    const secure = protocol === "https:";
    const bare = hostname.replace(/^\[(.*)\]$/, "$1");
    this.#where = { secure, host: bare, port: Number(port) || (secure ? 443 : 80) };
    if (secure && net.isIP(bare) === 0) this.#where.servername = bare;
    this.#host = host;
    this.#prefix = pathname.replace(/\/$/, "");
  }

  /** `once`: over a new connection, since one that was kept may turn out to be closed. */
  async send(method, path, headers, pieces, signal, once) {
    const target = this.#prefix + encodeURI(path).replaceAll("%25", "%"); // what is encoded already stays so
    const lines = [`${method} ${target} HTTP/1.1`, `Host: ${this.#host}`];
    for (const [name, value] of Object.entries(headers)) {
      validateHeaderValue(name, value);
      lines.push(`${name}: ${value}`);
    }
    if (method === "POST" || method === "PUT") lines.push(`Content-Length: ${pieces.reduce((sum, piece) => sum + piece.byteLength, 0)}`);
    signal.throwIfAborted();
    let connection;
    while (!once && this.#idle.length > 0 && !connection?.open) connection = this.#idle.pop();
    if (!connection?.open) connection = new Connection(this.#where);
    const reply = await connection.send(lines.join("\r\n") + "\r\n\r\n", pieces, signal);
    if (connection.open) this.#idle.push(connection);
    return reply;
  }
}
