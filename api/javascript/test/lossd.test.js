// The client against a running lossd (LOSSD, or ../../build/lossd), and against a server that is full.
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import readline from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Client, LossdError, bf16, tensor, toFloat32 } from "../lossd.js";

const here = fileURLToPath(new URL(".", import.meta.url));
const binary = process.env.LOSSD ?? join(here, "../../../build/lossd");
const folder = mkdtempSync(join(tmpdir(), "lossd-"));
const running = [];

async function start(...flags) {
  const child = spawn(binary, flags, { stdio: ["ignore", "ignore", "pipe"] });
  running.push(child);
  const wanted = flags.filter((flag) => flag === "--listen").length;
  const urls = [];
  for await (const line of readline.createInterface({ input: child.stderr })) {
    const found = / url=(\S+)/.exec(line);
    if (found) urls.push(found[1]);
    if (urls.length === wanted) break;
  }
  child.stderr.resume();
  return urls;
}

let urls;
before(async () => {
  urls = await start("--listen", "127.0.0.1:0", "--listen", `unix:${folder}/s`);
});
after(() => {
  for (const child of running) child.kill();
  rmSync(folder, { recursive: true });
});

const MAKE = {
  f64: (data) => Float64Array.from(data),
  f32: (data) => Float32Array.from(data),
  i64: (data) => BigInt64Array.from(data, BigInt),
  i32: (data) => Int32Array.from(data),
  u8: (data) => Uint8Array.from(data),
  bool: (data) => Uint8Array.from(data, Number),
};
const cases = readFileSync(join(here, "../../cases.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));

test("every shared case, over TCP and a Unix socket", async () => {
  for (const url of urls) {
    const client = new Client(url);
    for (const { name, loss, options, inputs, outputs, tolerance } of cases) {
      const sent = Object.fromEntries(
        Object.entries(inputs).map(([key, t]) => [key, tensor(MAKE[t.dtype](t.data), t.shape, t.dtype)]),
      );
      const got = await client.evaluate(loss, sent, options, { outputs: Object.keys(outputs) });
      assert.deepEqual(Object.keys(got).sort(), Object.keys(outputs).sort(), name);
      for (const [key, want] of Object.entries(outputs)) {
        assert.deepEqual(got[key].shape, want.shape, `${name} ${key}`);
        const values = Array.from(got[key].data, Number);
        want.data.forEach((w, i) => {
          assert.ok(Math.abs(values[i] - w) <= tolerance * Math.max(1, Math.abs(w)), `${name} ${key}[${i}]`);
        });
      }
    }
  }
});

test("errors carry code and place", async () => {
  const client = new Client(urls[1]);
  await assert.rejects(client.evaluate("cross_entropy", { logits: [[1, 2]], targets: [5n] }), (error) => {
    assert.ok(error instanceof LossdError);
    assert.deepEqual([error.status, error.input, error.index], [422, "targets", [0]]);
    assert.match(error.message, /targets\[0\] is 5/);
    return Boolean(error.code && error.requestId);
  });
  await assert.rejects(client.evaluate("no_such_loss", {}), TypeError);
  await assert.rejects(client.evaluate("mse", { a: [[1], [2, 3]], b: [1] }), /same lengths/);
  assert.throws(() => tensor(new Uint16Array(2)), /f16 or bf16/);
  assert.throws(() => tensor(new Float32Array(2), [3]), /2 elements/);
  assert.throws(() => tensor(new Float32Array(2), [2], "f16"), /Uint16Array/);
});

test("element types", async () => {
  const client = new Client(urls[0]);
  const values = [-1.5, 0.25, 2, 0.5, -0.75, 3];
  const targets = [1n, 2n];
  const want = await client.evaluate("cross_entropy", { logits: tensor(Float64Array.from(values), [2, 3]), targets });
  assert.equal(want["grad.logits"].dtype, "f64");
  for (const [logits, room] of [
    [[values.slice(0, 3), values.slice(3)], 1e-6],
    [bf16(values, [2, 3]), 1e-2],
    [tensor(Uint16Array.from([0xbe00, 0x3400, 0x4000, 0x3800, 0xba00, 0x4200]), [2, 3], "f16"), 1e-3],
  ]) {
    const got = await client.evaluate("cross_entropy", { logits, targets });
    const floats = toFloat32(got["grad.logits"]);
    want["grad.logits"].data.forEach((w, i) => assert.ok(Math.abs(floats[i] - w) <= room, `${floats[i]} ${w}`));
  }
  const masked = await client.evaluate(
    "mask_tokens",
    { input_ids: [[5n, 6n, 7n]] },
    { mask_token_id: 103, random_high: 200, seed: 2n ** 64n - 1n },
  );
  assert.ok(masked.masked_ids.data instanceof BigInt64Array);
  const parts = [{ loss: "mse" }, { loss: "huber", weight: 0.5 }];
  const both = await client.evaluate("composite", { a: [1, 2], b: [0, 0] }, { parts });
  assert.equal(both.loss.data[0], 3);
  assert.deepEqual([...bf16([1, 1.00390625, 1.01171875, Infinity]).data], [0x3f80, 0x3f80, 0x3f82, 0x7f80]);
  assert.ok(Number.isNaN(toFloat32(bf16([NaN]))[0]));
});

test("full for a while, full for ever, and in time", async () => {
  let seen = [];
  let refusals = 3;
  const server = http.createServer((request, reply) => {
    seen.push(Number(request.headers["x-request-timeout"]));
    const full = seen.length <= refusals;
    reply.writeHead(full ? 503 : 200, { "Retry-After": "0" });
    reply.end(full ? "busy" : '{"losses":[]}');
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  assert.deepEqual(await new Client(url).losses(), []);
  assert.equal(seen.length, 4);
  assert.ok(seen.every((ms) => ms > 0 && ms <= 30_000));
  [seen, refusals] = [[], Infinity];
  await assert.rejects(new Client(url, { retries: 2 }).losses(), { status: 503, detail: "busy" });
  assert.equal(seen.length, 3);
  server.closeAllConnections();
  server.close();
});

test("timeouts and signals", async () => {
  for (const url of urls) {
    const client = new Client(url);
    await client.losses();
    const embeddings = tensor(new Float32Array(6000 * 8).fill(1), [6000, 8]);
    const labels = new BigInt64Array(6000);
    await assert.rejects(client.evaluate("nt_xent", { embeddings, labels }, {}, { timeout: 5 }), (error) =>
      error instanceof LossdError ? error.status === 504 : error.name === "TimeoutError",
    );
    const stopped = AbortSignal.abort(new Error("enough"));
    await assert.rejects(client.evaluate("mse", { a: [1], b: [2] }, {}, { signal: stopped }), /enough/);
    assert.equal(await client.ready(), true);
  }
  assert.equal(await new Client("http://127.0.0.1:9").ready(), false);
});

test("refused while sending", async () => {
  const flags = ["--listen", "127.0.0.1:0", "--listen", `unix:${folder}/refusing`, "--max-body", "1MiB", "--drain-max", "2MiB"];
  const huge = new Float32Array(8 << 20);
  for (const url of await start(...flags)) {
    const client = new Client(url);
    for (let i = 0; i < 10; i++) {
      assert.ok(await client.ready());
      await assert.rejects(client.evaluate("mse", { input: huge, target: huge }), { code: "too_large", status: 413 });
    }
  }
});

test("a kept connection that was closed unseen", async () => {
  const [tcp, unix] = await start("--listen", "127.0.0.1:0", "--listen", `unix:${folder}/t`, "--idle-timeout", "1s");
  for (const url of [tcp, unix]) {
    for (const size of [1, 3_000_000]) {
      const client = new Client(url);
      const [a, b] = [new Float32Array(size).fill(1), new Float32Array(size)];
      await client.evaluate("mse", { a, b });
      const end = Date.now() + 1500;
      while (Date.now() < end); // so that nobody sees it being closed
      assert.equal((await client.evaluate("mse", { a, b })).loss.data[0], 1);
    }
  }
});

test("what changes something is sent once", async () => {
  const seen = [];
  const server = http.createServer((request, response) => {
    if (request.method === "GET") return response.end();
    seen.push(request.method);
    request.socket.destroy();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const client = new Client(`http://127.0.0.1:${server.address().port}`);
  for (let i = 0; i < 2; i++) {
    assert.equal(await client.ready(), true);
    await assert.rejects(client.forget("head"));
    await assert.rejects(client.keep("head", { w: new Float32Array(1) }));
  }
  server.close();
  server.closeAllConnections();
  assert.deepEqual(seen, ["DELETE", "PUT", "DELETE", "PUT"]);
});

test("replies as servers between may send them, a byte at a time and at once", async () => {
  const body = '{"losses":[]}';
  const replies = {
    interim: `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n${body}`,
    chunked: `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\n{"lo\r\n9\r\nsses":[]}\r\n0\r\nA: b\r\n\r\n`,
    "until the end": `HTTP/1.0 200 OK\r\n\r\n${body}`,
    "cut off": `HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n${body}`,
    "too long": `HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n${body}`,
    "no chunks": `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${body}\r\n`,
    "no HTTP": "SSH-2.0-x\r\n\r\n",
    "no length": "HTTP/1.1 200 OK\r\nContent-Length: 1e9\r\n\r\n",
    "long head": `HTTP/1.1 200 OK\r\nA: ${"a".repeat(70_000)}\r\n\r\n`,
  };
  for (const [name, reply] of Object.entries(replies)) {
    for (const whole of [true, false]) {
      const server = net.createServer((socket) => {
        socket.setNoDelay(true).on("error", () => {});
        socket.once("data", async () => {
          if (!whole && name !== "long head") {
            for (const byte of reply.slice(0, -1)) {
              socket.write(byte);
              await new Promise(setImmediate);
            }
          }
          socket.end(whole || name === "long head" ? reply : reply.at(-1));
        });
      });
      await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
      const client = new Client(`http://127.0.0.1:${server.address().port}`);
      try {
        if (["interim", "chunked", "until the end"].includes(name)) assert.deepEqual(await client.losses(), [], name);
        else await assert.rejects(client.losses(), /closed before|longer|chunked|HTTP|Content-Length|head|JSON/, name);
      } finally {
        server.close();
      }
    }
  }
});

test("TLS, with the authorities that Node is told of", async () => {
  const [cert, pem] = [`${folder}/cert.pem`, `${folder}/key.pem`];
  const named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", pem];
  execFileSync("openssl", ["req", "-x509", ...key, ...named, "-out", cert, "-days", "1"], { stdio: "ignore" });
  const [url] = await start("--listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", pem);
  await assert.rejects(new Client(url).losses(), { code: "DEPTH_ZERO_SELF_SIGNED_CERT" });
  const file = join(folder, "tls.mjs");
  const module = new URL("../lossd.js", import.meta.url).href;
  writeFileSync(
    file,
    `import { Client } from ${JSON.stringify(module)};
     const [a, b] = [new Float32Array(3e6).fill(2), new Float32Array(3e6)];
     for (const url of process.argv.slice(2)) {
       for (const client = new Client(url); ; ) {
         const got = await client.evaluate("mse", { a, b });
         console.log(got.loss.data[0], got["grad.a"].data.every((one) => one === got["grad.a"].data[0]));
         if (client.again) break;
         client.again = true;
       }
     }`,
  );
  const environment = { ...process.env, NODE_EXTRA_CA_CERTS: cert };
  const said = execFileSync(process.execPath, [file, url, url.replace("127.0.0.1", "localhost")], { env: environment });
  assert.equal(String(said), "4 true\n".repeat(4));
});

test("errors say whom and what they are about", async () => {
  for (const url of ["http://127.0.0.1:9", "unix:/none"]) {
    const whom = (error) => error.message.startsWith(`lossd at ${url}: connect `) && /^E/.test(error.code);
    await assert.rejects(new Client(url).losses(), whom);
  }
  for (const url of ["127.0.0.1:8080", "localhost:8080", "ftp://here"]) {
    await assert.rejects(new Client(url).losses(), { name: "TypeError", message: /is not http:/ });
  }
  for (const logits of [[[1, 2], [3]], "x"]) {
    await assert.rejects(new Client(urls[0]).evaluate("cross_entropy", { logits, targets: [0n] }), /^TypeError: logits: /);
  }
});

test("the first call's own limits, and what is undefined", async () => {
  const mute = http.createServer(() => {});
  await new Promise((resolve) => mute.listen(0, "127.0.0.1", resolve));
  const silent = `http://127.0.0.1:${mute.address().port}`;
  const begun = Date.now();
  const pair = { a: [1], b: [3] };
  await assert.rejects(new Client(silent).evaluate("mse", pair, {}, { timeout: 200.5 }), { name: "TimeoutError" });
  const signal = AbortSignal.timeout(200);
  await assert.rejects(new Client(silent).evaluate("mse", pair, {}, { signal }), { name: "TimeoutError" });
  assert.ok(Date.now() - begun < 5000);
  mute.closeAllConnections();
  mute.close();
  const all = { reduction: undefined, num_items: null };
  const got = await new Client(urls[0]).evaluate("mse", { ...pair, mask: undefined }, all, { timeout: Infinity });
  assert.equal(got.loss.data[0], 4);
});

test("tensors as options are numbers", async () => {
  const client = new Client(urls[0]);
  const pair = { a: [1, 2], b: [0, 0] };
  const seven = [
    7, 7n, [7], Float64Array.of(7), Int32Array.of(7), tensor(BigInt64Array.of(7n), []), tensor(Float32Array.of(7), [1]),
    bf16([7], []), { ...tensor(Uint16Array.of(0x4700), [], "f16") },
  ];
  for (const num_items of seven) {
    const got = await client.evaluate("mse", pair, { num_items }, { outputs: ["loss"] });
    assert.equal(got.loss.data[0], Math.fround(5 / 7));
  }
  const none = await client.evaluate("mse", pair, { num_items: Int32Array.of(0) }, { outputs: ["loss"] });
  assert.equal(none.loss.data[0], 0);
});

test("keys", async () => {
  writeFileSync(`${folder}/keys`, "a-key-of-some-length\n");
  const [url] = await start("--listen", "127.0.0.1:0", "--api-key-file", `${folder}/keys`);
  const got = await new Client(url, { apiKey: "a-key-of-some-length" }).evaluate("mse", { a: [1], b: [3] });
  assert.equal(got.loss.data[0], 4);
  await assert.rejects(new Client(url).losses(), { status: 401 });
  await assert.rejects(new Client(url, { apiKey: "another-key-of-length" }).losses(), { status: 403 });
});

test("resident tensors", async () => {
  for (const url of urls) {
    const client = new Client(url);
    const [logits, targets, weight] = [[[1, 2, 3]], [1n], [1, 2, 3]];
    const want = await client.evaluate("cross_entropy", { logits, targets, class_weight: weight });
    await client.keep("head", { w: weight, half: bf16([1, 2, 3]) });
    await assert.rejects(client.keep("head", { w: weight }), { code: "region_exists", status: 409 });
    await client.keep("head", { w: weight, wide: Float64Array.of(0, 1, 2, 3) }, { replace: true });
    const kept = (await client.resident()).map(({ name, dtype, shape, bytes }) => [name, dtype, shape, bytes]);
    assert.deepEqual(kept.sort(), [["head/w", "f32", [3], 12], ["head/wide", "f64", [4], 32]]);
    const inputs = { logits, targets, class_weight: { region: "head/w" } };
    const got = await client.evaluate("cross_entropy", inputs);
    assert.deepEqual(got.loss.data, want.loss.data);
    assert.deepEqual(got["grad.logits"].data, want["grad.logits"].data);
    const part = { region: "head/wide", offset: 8, shape: [3], dtype: "f64" };
    const wide = { logits: tensor(Float64Array.of(1, 2, 3), [1, 3]), targets, class_weight: part };
    assert.ok(Math.abs((await client.evaluate("cross_entropy", wide)).loss.data[0] - want.loss.data[0]) < 1e-6);
    const narrow = await client.evaluate("cross_entropy", inputs, {}, { outputs: ["grad.logits:bf16"] });
    assert.equal(narrow["grad.logits"].dtype, "bf16");
    await client.forget("head");
    await assert.rejects(client.forget("head"), { code: "unknown_region", status: 404 });
    await assert.rejects(client.evaluate("cross_entropy", inputs), { code: "region_invalid", input: "class_weight" });
    assert.deepEqual(await client.resident(), []);
    await assert.rejects(client.keep("no name", { w: weight }), { status: 400 });
    await assert.rejects(client.keep("head", { w: weight }, { signal: AbortSignal.abort() }), { name: "AbortError" });
    assert.deepEqual(await client.resident(), []);
  }
});

test("resident tensors by fetch, as in a browser", async () => {
  const child = spawn(process.execPath, ["--input-type=module", "-e", `
    await fetch(${JSON.stringify(`${urls[0]}/healthz`)}); // Node's own, which is loaded when it is first used
    Object.defineProperty(process, "versions", { value: {} }); // by which lossd.js knows Node
    const { Client } = await import(${JSON.stringify(new URL("../lossd.js", import.meta.url).href)});
    const client = new Client(${JSON.stringify(urls[0])});
    await client.keep("page", { w: [1, 2, 3] });
    const got = await client.evaluate("cross_entropy", { logits: [[1, 2, 3]], targets: [1n], class_weight: { region: "page/w" } });
    await client.forget("page");
    console.log(got.loss.shape.length, (await client.resident()).length);
  `], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  for await (const part of child.stdout) said += part;
  assert.equal(said, "0 0\n");
});

test("types", (t) => {
  const found = [process.env.TSC, "tsc"].find((one) => one && spawnSync(one, ["--version"]).status === 0);
  if (!found) {
    t.skip("there is no tsc (npm install -g typescript, or TSC=path)");
    return;
  }
  const flags = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck", "false"];
  const { stdout } = spawnSync(found, [...flags, "--types", "", join(here, "types.ts")], { encoding: "utf8" });
  assert.equal(stdout, "");
});

test("the example of README.md", async () => {
  const [, code] = /```js\n(.*?)```/s.exec(readFileSync(join(here, "../README.md"), "utf8"));
  const file = join(folder, "example.mjs");
  const module = new URL("../lossd.js", import.meta.url).href;
  writeFileSync(file, code.replace('"lossd"', JSON.stringify(module)).replace("http://127.0.0.1:8080", urls[0]));
  const child = spawn(process.execPath, [file], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  for await (const part of child.stdout) said += part;
  assert.match(said, /^0\.7213\d+ \[ 2, 3 \] Float32Array/);
  assert.match(said, /target_out_of_range targets \[ 1 \] targets\[1\] is 7/);
});

test("nothing of Node's is loaded before it is needed", () => {
  const source = readFileSync(join(here, "../lossd.js"), "utf8");
  assert.doesNotMatch(source, /^import /m);
});
