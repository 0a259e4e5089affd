// Client of lossd, for Node 20 and browsers, without dependencies. lossd.d.ts says what is here.

const MEDIA = "application/x-safetensors";

/** Element types: how an array of each is called, and how wide it is. */
const TYPES = {
  F64: [Float64Array, 8],
  F32: [Float32Array, 4],
  F16: [Uint16Array, 2],
  BF16: [Uint16Array, 2],
  I64: [BigInt64Array, 8],
  I32: [Int32Array, 4],
  U8: [Uint8Array, 1],
  BOOL: [Uint8Array, 1],
};

export class LossdError extends Error {
  constructor(status, problem, requestId) {
    super(`${problem.detail} (${status} ${problem.code ?? ""}, request ${requestId})`);
    this.name = "LossdError";
    this.status = status;
    this.code = problem.code ?? "";
    this.detail = problem.detail ?? "";
    this.input = problem.input;
    this.index = problem.index;
    this.requestId = requestId;
  }
}

/** A tensor; `data` is a typed array, for f16 and bf16 of their bits. */
export function tensor(data, shape = [data.length], dtype = undefined) {
  const name = (dtype ?? dtypeOf(data)).toUpperCase();
  if (!(name in TYPES)) throw new TypeError(`there is no element type ${dtype}`);
  const count = shape.reduce((product, size) => product * size, 1);
  if (count !== data.length) throw new TypeError(`${data.length} elements do not make the shape [${shape}]`);
  if (!(data instanceof TYPES[name][0])) throw new TypeError(`${name} is held by ${TYPES[name][0].name}`);
  return { dtype: name.toLowerCase(), shape: [...shape], data };
}

function dtypeOf(data) {
  if (data instanceof Float64Array) return "F64";
  if (data instanceof Float32Array) return "F32";
  if (data instanceof BigInt64Array) return "I64";
  if (data instanceof Int32Array) return "I32";
  if (data instanceof Uint8Array) return "U8";
  throw new TypeError("say which element type it is, f16 or bf16: tensor(bits, shape, dtype)");
}

/** Nested arrays: numbers become f32, bigints i64, booleans bool. */
function fromNested(value) {
  const shape = [];
  for (let at = value; Array.isArray(at); at = at[0]) shape.push(at.length);
  const flat = Array.isArray(value) ? value.flat(Infinity) : [value];
  const ragged = (at, depth) =>
    depth === shape.length
      ? Array.isArray(at)
      : !Array.isArray(at) || at.length !== shape[depth] || at.some((one) => ragged(one, depth + 1));
  if (ragged(value, 0)) throw new TypeError("nested arrays must all have the same lengths");
  const all = (type) => flat.length > 0 && flat.every((one) => typeof one === type);
  if (all("bigint")) return tensor(BigInt64Array.from(flat), shape);
  if (all("boolean")) return tensor(Uint8Array.from(flat, Number), shape, "bool");
  if (flat.length === 0 || all("number")) return tensor(Float32Array.from(flat), shape);
  throw new TypeError("a tensor is made of numbers, bigints or booleans");
}

/** What is wrong with a tensor is said with its name. */
function tensorOf(name, value) {
  try {
    return asTensor(value);
  } catch (error) {
    error.message = `${name}: ${error.message}`;
    throw error;
  }
}

function asTensor(value) {
  if (ArrayBuffer.isView(value)) return tensor(value);
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    return tensor(value.data, value.shape, value.dtype);
  }
  return fromNested(value);
}

/** Options as lossd writes them; a tensor is its number, or a list of them. */
function optionText(value) {
  if (value === null) return "off";
  if (ArrayBuffer.isView(value)) return optionText(Array.from(value));
  if (value.data !== undefined) return optionText(/16$/.test(value.dtype) ? toFloat32(value) : value.data);
  if (Array.isArray(value)) {
    const isParts = value.some((one) => one?.loss !== undefined);
    return isParts ? JSON.stringify(value) : value.map(optionText).join(",");
  }
  return String(value);
}

/** The pieces of a body: its header, then the tensors' own memory. */
function writeBody(inputs, metadata) {
  const all = Object.entries(inputs).filter(([, value]) => value !== undefined);
  const isRegion = ([, value]) => typeof value?.region === "string";
  const places = all.filter(isRegion).map(([name, value]) => [`region.${name}`, JSON.stringify(value)]);
  metadata = { ...metadata, ...Object.fromEntries(places) };
  const header = Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {};
  const given = all.filter((one) => !isRegion(one));
  const named = given.map(([name, value]) => [name, tensorOf(name, value)]);
  const width = (t) => TYPES[t.dtype.toUpperCase()][1];
  named.sort((a, b) => width(b[1]) - width(a[1])); // then each is aligned if the first is
  let offset = 0;
  for (const [name, t] of named) {
    const end = offset + t.data.byteLength;
    header[name] = { dtype: t.dtype.toUpperCase(), shape: t.shape, data_offsets: [offset, end] };
    offset = end;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const first = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(0x20);
  new DataView(first.buffer).setBigUint64(0, BigInt(first.length - 8), true);
  first.set(text, 8);
  return [first, ...named.map(([, t]) => new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength))];
}

/** Views of the reply. Copies where they are not aligned, or small: a loss that is kept would keep all of a reply. */
function readBody({ buffer, byteOffset, byteLength }) {
  const size = Number(new DataView(buffer, byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, byteOffset + 8, size)));
  const outputs = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [Type, width] = TYPES[entry.dtype];
    const [begin, end] = entry.data_offsets.map((at) => byteOffset + 8 + size + at);
    const copied = begin % width !== 0 || end - begin <= byteLength / 8;
    const data = copied ? new Type(buffer.slice(begin, end)) : new Type(buffer, begin, (end - begin) / width);
    outputs[name] = { dtype: entry.dtype.toLowerCase(), shape: entry.shape, data };
  }
  return outputs;
}

/** Float32Array of the bits of f16 or bf16. */
export function toFloat32({ dtype, data }) {
  if (dtype === "bf16") {
    return new Float32Array(Uint32Array.from(data, (bits) => bits << 16).buffer);
  }
  if (dtype !== "f16") return Float32Array.from(data, Number);
  return Float32Array.from(data, (bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

/** A bf16 tensor of floats, rounded to nearest, ties to even. */
export function bf16(values, shape = [values.length]) {
  const bits = new Uint32Array(Float32Array.from(values).buffer);
  const round = (b) =>
    (b & 0x7fffffff) >>> 0 > 0x7f800000 ? (b >>> 16) | 0x40 : (b + 0x7fff + ((b >>> 16) & 1)) >>> 16;
  return tensor(Uint16Array.from(bits, round), shape, "bf16");
}

const LONGEST = 2 ** 31 - 1; // ms that a timer can wait, 24 days

/** What a call may take, and what ends it before: its time, or the caller's signal. */
class Limit {
  #timer;
  #outer;
  #control = new AbortController();
  #abort = () => this.#control.abort(this.#outer.reason);

  constructor(timeout, outer) {
    const late = () => this.#control.abort(new DOMException(`no reply within ${timeout} ms`, "TimeoutError"));
    const ms = Math.max(0, Math.min(Math.ceil(timeout), LONGEST));
    this.end = Date.now() + ms;
    this.signal = this.#control.signal;
    this.#outer = outer;
    this.#timer = setTimeout(late, ms);
    outer?.addEventListener("abort", this.#abort);
    if (outer?.aborted) this.#abort();
  }

  /** ms that are left. */
  get left() {
    return this.end - Date.now();
  }

  /** What the promise becomes, unless the limit comes first. */
  async within(promise) {
    const { signal } = this;
    signal.throwIfAborted();
    let stop;
    const stopped = new Promise((_, reject) => {
      stop = () => reject(signal.reason);
      signal.addEventListener("abort", stop, { once: true });
    });
    try {
      return await Promise.race([promise, stopped]);
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  sleep(ms) {
    let timer;
    const slept = new Promise((resolve) => (timer = setTimeout(resolve, ms)));
    return this.within(slept).finally(() => clearTimeout(timer));
  }

  /** Runs something under a limit, which is over with it. */
  static async of(timeout, outer, run) {
    const limit = new Limit(timeout, outer);
    try {
      return await run(limit);
    } finally {
      clearTimeout(limit.#timer);
      outer?.removeEventListener("abort", limit.#abort);
    }
  }
}

/** How a browser carries a call. */
class Fetching {
  constructor(url) {
    this.url = url;
  }

  async send(method, path, headers, pieces, signal) {
    const body = method === "POST" || method === "PUT" ? new Blob(pieces) : undefined;
    const reply = await fetch(this.url + path, { method, headers, body, signal });
    const whole = new Uint8Array(await reply.arrayBuffer());
    return { status: reply.status, header: (name) => reply.headers.get(name), body: whole };
  }
}

/** Node's own way is loaded here, so that browsers never see it. */
const carrierOf = async (url) => new (globalThis.process?.versions?.node ? (await import("./node.js")).Carrier : Fetching)(url);

export class Client {
  #described;
  #carrier;

  constructor(url = "http://127.0.0.1:8080", { apiKey, timeout = 30_000, retries = 4 } = {}) {
    this.url = url.replace(/\/$/, "");
    this.timeout = timeout;
    this.retries = retries;
    this.headers = apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
  }

  /** The outputs by name: `loss` and the usual gradients, or those that `outputs` names. */
  evaluate(loss, inputs, options = {}, { outputs, timeout = this.timeout, signal } = {}) {
    return Limit.of(timeout, signal, async (limit) => {
      const chosen = Object.entries(options).filter(([, value]) => value !== undefined);
      const metadata = Object.fromEntries(chosen.map(([name, value]) => [name, optionText(value)]));
      if (outputs) metadata.outputs = outputs.join(",");
      const pieces = writeBody(inputs, metadata);
      const { path } = await limit.within(this.describe(loss));
      return readBody(await this.#call("POST", path, { "Content-Type": MEDIA, Accept: MEDIA }, pieces, limit));
    });
  }

  /** The names of all losses and transforms. */
  async losses() {
    return [...(await this.#descriptions()).keys()];
  }

  /** Inputs, outputs, options, formula and sources of a loss. */
  async describe(loss) {
    const found = (await this.#descriptions()).get(loss);
    if (!found) throw new TypeError(`lossd at ${this.url} has no loss ${loss}`);
    return found;
  }

  /** Tensors for lossd to keep: inputs are then { region: "name/tensor" }. They are gone when lossd ends. */
  async keep(name, tensors, { replace = false, ...call } = {}) {
    const pieces = writeBody(tensors, {});
    await this.#region("PUT", `/${encodeURIComponent(name)}${replace ? "?replace=true" : ""}`, call, pieces);
  }

  async forget(name, call = {}) {
    await this.#region("DELETE", `/${encodeURIComponent(name)}`, call);
  }

  /** The resident tensors that this client may name: name, dtype, shape, bytes. */
  async resident(call = {}) {
    return JSON.parse(new TextDecoder().decode(await this.#region("GET", "", call))).regions;
  }

  #region(method, path, { timeout = this.timeout, signal }, pieces = []) {
    const headers = pieces.length > 0 ? { "Content-Type": MEDIA } : {};
    return Limit.of(timeout, signal, (limit) => this.#call(method, `/v1/regions${path}`, headers, pieces, limit));
  }

  /** Does it welcome requests? */
  async ready() {
    try {
      await this.#get("/readyz", { timeout: Math.min(this.timeout, 5000), retries: 0 });
      return true;
    } catch {
      return false;
    }
  }

  async #descriptions() {
    this.#described ??= this.#get("/v1/losses").then(
      (body) => new Map(JSON.parse(new TextDecoder().decode(body)).losses.map((one) => [one.name, one])),
    );
    try {
      return await this.#described;
    } catch (error) {
      this.#described = undefined; // the next call asks again
      throw error;
    }
  }

  #get(path, { timeout = this.timeout, retries } = {}) {
    return Limit.of(timeout, undefined, (limit) => this.#call("GET", path, {}, [], limit, retries));
  }

  async #call(method, path, headers, pieces, limit, retries = this.retries) {
    const carrier = await (this.#carrier ??= carrierOf(this.url));
    const once = method === "PUT" || method === "DELETE"; // it changes something: it is not sent again
    for (let left = retries, again = !once; ; left--) {
      const remaining = String(Math.ceil(Math.max(1, Math.min(limit.left, 1e9))));
      const all = { ...this.headers, ...headers, "X-Request-Timeout": remaining };
      let reply;
      try {
        reply = await carrier.send(method, path, all, pieces, limit.signal, once);
      } catch (error) {
        // A kept connection that lossd has closed since? To evaluate twice is no harm.
        if (limit.signal.aborted) throw error;
        if (!again) {
          error.message = `lossd at ${this.url}: ${error.message}`;
          throw error;
        }
        again = false;
        left++;
        await limit.sleep(0); // so that others that are closed are seen to be
        continue;
      }
      if (reply.status >= 200 && reply.status < 300) return reply.body;
      const after = reply.header("retry-after");
      const wait = 1000 * (/^\d+$/.test(after) ? Number(after) : 1); // a date is what proxies may write
      if (reply.status !== 503 || left <= 0 || wait >= limit.left) {
        throw new LossdError(reply.status, problemOf(reply.body), reply.header("x-request-id") ?? "");
      }
      await limit.sleep(wait);
    }
  }
}

function problemOf(body) {
  const text = new TextDecoder().decode(body);
  try {
    const problem = JSON.parse(text);
    if (problem !== null && typeof problem === "object") return problem;
  } catch {
    // not lossd's own: somebody between said it
  }
  return { detail: text.slice(0, 200) };
}
