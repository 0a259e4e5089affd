#!/usr/bin/env node
// Pack the client for npm, and for each folder that docker/packages/native.py filled the package of its machine, which npm installs
// beside the client where it fits: lossd-linux-x64 or lossd-linux-arm64.
//
//     docker/packages/npm.mjs VERSION FOLDER NATIVE...     FOLDER/*.tgz from build/release/native
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const machines = { 0x3e: "x64", 0xb7: "arm64" }; // e_machine of an ELF file
const [version, into, ...natives] = process.argv.slice(2);
if (natives.length === 0) throw new Error("docker/packages/npm.mjs VERSION FOLDER NATIVE...");
mkdirSync(into, { recursive: true });
const work = mkdtempSync(join(tmpdir(), "npm-"));

function pack(folder, manifest) {
  writeFileSync(join(folder, "package.json"), JSON.stringify(manifest, null, 2) + "\n");
  const arguments_ = ["pack", "--silent", "--pack-destination", resolve(into)];
  const file = join(into, execFileSync("npm", arguments_, { cwd: folder, encoding: "utf8" }).trim());
  console.log(`${file}: ${(statSync(file).size / 1e6).toFixed(1)} MB`);
}

try {
  const client = join(work, "lossd");
  cpSync(join(root, "api/javascript"), client, { recursive: true });
  cpSync(join(root, "LICENSE"), join(client, "LICENSE"));
  const manifest = JSON.parse(readFileSync(join(client, "package.json"), "utf8"));
  const names = Object.values(machines).map((cpu) => `lossd-linux-${cpu}`);
  const optionalDependencies = Object.fromEntries(names.map((name) => [name, version]));
  pack(client, { ...manifest, version, optionalDependencies });

  for (const native of natives) {
    const cpu = machines[readFileSync(join(native, "lossd")).readUInt16LE(18)];
    const name = `lossd-linux-${cpu}`;
    const folder = join(work, name);
    cpSync(native, join(folder, "native"), { recursive: true });
    cpSync(join(root, "LICENSE"), join(folder, "LICENSE"));
    writeFileSync(
      join(folder, "README.md"),
      `The service of the package lossd for Linux on ${cpu}, with the shared libraries that it needs beside glibc and\n` +
        "their licences. npm installs it with lossd.\n",
    );
    pack(folder, {
      name,
      version,
      description: `lossd for Linux on ${cpu}`,
      license: "MIT AND LGPL-2.1-or-later AND LGPL-3.0-or-later",
      os: ["linux"],
      cpu: [cpu],
      libc: ["glibc"],
      files: ["native"],
      preferUnplugged: true, // what a process runs must be a file
    });
  }
} finally {
  rmSync(work, { recursive: true });
}
