#!/usr/bin/env node
// Clients of one lossd compared with each other, and with TensorFlow.js on WebAssembly in this process: cross entropy
// of float32 logits with its gradient, over TCP and over a Unix socket. Each is first called alone until its compiler has
// learnt what there is to learn (WARM), then takes its turn in every round; medians and ninth tenths in ms, and how they
// compare with Python's client.
//
//     tests/bench/clients/clients.mjs [--lossd build/lossd] [--rounds 30] [--modules FOLDER]
//
// Python's client is run by Debian's python3 with its NumPy, Java's where there is a JDK, C's where `make clients` can compile it.
// FOLDER is one into which npm installed @tensorflow/tfjs and @tensorflow/tfjs-backend-wasm.
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import readline from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { Client, tensor } from "../../../api/javascript/lossd.js";

const here = dirname(fileURLToPath(import.meta.url));
const root = resolve(here, "../../..");
const { values: flags } = parseArgs({
  options: {
    lossd: { type: "string", default: join(root, "build/lossd") },
    rounds: { type: "string", default: "30" },
    modules: { type: "string" },
  },
});
const WARM = 4000; // ms: some ten thousand small calls, as many as the JDK's second compiler waits for
const folder = mkdtempSync(join(tmpdir(), "clients-"));
const children = [];

function run(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"], ...options });
  children.push(child);
  return child;
}

async function serve() {
  const server = run(flags.lossd, ["--listen", "127.0.0.1:0", "--listen", `unix:${folder}/s`], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const urls = [];
  for await (const line of readline.createInterface({ input: server.stderr })) {
    const found = / url=(\S+)/.exec(line);
    if (found) urls.push(found[1]);
    if (urls.length === 2) break;
  }
  server.stderr.resume();
  return urls;
}

/** A program that evaluates once for every line it reads and answers with the ms it took. */
function timedBy(command, args, options) {
  const child = run(command, args, options);
  const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return async () => {
    child.stdin.write("\n");
    const { value, done } = await lines.next();
    if (done) throw new Error(`${command} ${args.join(" ")} has ended`);
    return Number(value);
  };
}

const timed = (once) => async () => {
  const begun = performance.now();
  await once();
  return performance.now() - begun;
};

function batch(rows, classes) {
  let seed = 1;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  return {
    logits: tensor(Float32Array.from({ length: rows * classes }, () => 4 * random() - 2), [rows, classes]),
    targets: tensor(BigInt64Array.from({ length: rows }, (_, i) => BigInt((i * 7919) % classes)), [rows]),
  };
}

/** TensorFlow.js on its WebAssembly back end: tensors made, loss and gradient computed and read. */
async function tensorflow({ logits, targets }) {
  const require = createRequire(resolve(flags.modules, "package.json"));
  const tf = require("@tensorflow/tfjs");
  require("@tensorflow/tfjs-backend-wasm");
  await tf.setBackend("wasm");
  const [, classes] = logits.shape;
  const wanted = Int32Array.from(targets.data, Number);
  return timed(() =>
    tf.tidy(() => {
      const labels = tf.oneHot(tf.tensor1d(wanted, "int32"), classes).cast("float32");
      const entropy = tf.valueAndGrad((x) => tf.losses.softmaxCrossEntropy(labels, x));
      const { value, grad } = entropy(tf.tensor2d(logits.data, logits.shape));
      return [value.dataSync()[0], grad.dataSync().length];
    }),
  );
}

function has(command, ...args) {
  try {
    execFileSync(command, args, { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

/** Compiles a client's program here; undefined where that cannot be done. */
function built() {
  const c = join(folder, "client");
  const curl = ["--cflags", "--libs", "libcurl", "jansson"];
  if (has("pkg-config", ...curl)) {
    const found = execFileSync("pkg-config", curl, { encoding: "utf8" }).trim().split(/\s+/);
    execFileSync("cc", ["-O2", "-o", c, join(here, "client.c"), `-I${join(root, "api/c")}`, ...found, "-lm"]);
  }
  if (has("javac", "--version")) {
    execFileSync("javac", ["-d", folder, join(root, "api/java/Lossd.java"), join(here, "Turns.java")]);
  }
  return { c: existsSync(c) && c, java: existsSync(join(folder, "Turns.class")) };
}

async function compare(urls, rows, classes, rounds, programs) {
  const sent = batch(rows, classes);
  const size = [String(rows), String(classes)];
  const runs = {};
  for (const url of urls) {
    const way = url.startsWith("unix:") ? "Unix" : "TCP";
    const client = new Client(url);
    const python = { env: { ...process.env, PYTHONPATH: join(root, "api/python") } };
    runs[`${way}, Python`] = timedBy("/usr/bin/python3", [join(here, "client.py"), url, ...size], python);
    runs[`${way}, JavaScript`] = timed(() => client.evaluate("cross_entropy", sent));
    if (programs.java) runs[`${way}, Java`] = timedBy("java", ["-cp", folder, "Turns", url, ...size]);
    if (programs.c) runs[`${way}, C`] = timedBy(programs.c, [url, ...size]);
  }
  if (flags.modules) runs["TensorFlow.js in process"] = await tensorflow(sent);

  const times = Object.fromEntries(Object.keys(runs).map((name) => [name, []]));
  for (const once of Object.values(runs)) {
    const end = performance.now() + WARM;
    while (performance.now() < end) await once();
  }
  for (let round = 0; round < rounds; round++) {
    for (const [name, once] of Object.entries(runs)) times[name].push(await once());
  }
  console.log(`\n${rows}x${classes}, ms             median     90 %   of Python's`);
  for (const [name, each] of Object.entries(times)) {
    each.sort((a, b) => a - b);
    const [middle, high] = [0.5, 0.9].map((part) => each[Math.floor(part * each.length)]);
    times[name] = middle;
    const python = times[name.replace(/,.*|Tensor.*/, (way) => (way[0] === "," ? ", Python" : "TCP, Python"))];
    console.log(`${name.padEnd(26)}${middle.toFixed(2).padStart(8)} ${high.toFixed(2).padStart(8)}   ${(middle / python).toFixed(2)}`);
  }
}

try {
  const urls = await serve();
  const programs = built();
  await compare(urls, 128, 50257, Number(flags.rounds), programs);
  await compare(urls, 32, 128, 10 * Number(flags.rounds), programs);
} finally {
  for (const child of children) child.kill();
  rmSync(folder, { recursive: true });
}
process.exit();
