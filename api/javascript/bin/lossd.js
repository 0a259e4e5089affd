#!/usr/bin/env node
// Runs the lossd of this machine, which is a package of its own: lossd-linux-x64 or lossd-linux-arm64.
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import os from "node:os";

const name = `lossd-${process.platform}-${process.arch}`;
let lossd;
try {
  lossd = createRequire(import.meta.url).resolve(`${name}/native/lossd`);
} catch {
  console.error(`lossd: the package ${name} is not installed. There is one for x64 and one for arm64, for Linux with
glibc 2.34 and later; npm leaves it out with --omit=optional. Elsewhere: docker, or a build from source.`);
  process.exit(1);
}

const child = spawn(lossd, process.argv.slice(2), { stdio: "inherit" });
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
child.on("error", (error) => {
  console.error(`lossd: ${lossd} cannot be run: ${error.message}`);
  process.exit(1);
});
child.on("exit", (code, signal) => process.exit(code ?? 128 + os.constants.signals[signal]));
