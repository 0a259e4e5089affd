#!/usr/bin/env node
// /docs and /status in Chromium: what they show, what an edit changes, keys, the network, narrow and dark screens, and
// what axe-core finds.
//
//     tests/browser/pages.mjs --lossd build/lossd --modules FOLDER [--chromium chromium] [--shots FOLDER] [--only TEXT]
//
// FOLDER is one into which npm installed playwright-core and axe-core; `make pages` does. --shots keeps pictures.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import readline from "node:readline";
import { parseArgs } from "node:util";

const { values: flags } = parseArgs({
  options: {
    lossd: { type: "string", default: "build/lossd" },
    modules: { type: "string", default: "." },
    chromium: { type: "string", default: "/usr/bin/chromium" },
    shots: { type: "string" },
    only: { type: "string" },
  },
});
const require = createRequire(resolve(flags.modules, "package.json"));
const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core/axe.min.js");
const PATIENCE = 120_000; // ms: machines may be busy
const KEY = "0123456789abcdef0123456789abcdef";
const folder = mkdtempSync(join(tmpdir(), "pages-"));
const servers = [];

async function serve(...more) {
  const server = spawn(flags.lossd, ["--listen", "127.0.0.1:0", ...more], { stdio: ["ignore", "ignore", "pipe"] });
  servers.push(server);
  for await (const line of readline.createInterface({ input: server.stderr })) {
    const found = / url=(\S+)/.exec(line);
    if (found) {
      server.stderr.resume();
      return found[1];
    }
  }
  throw new Error("lossd does not start");
}

const wide = { viewport: { width: 1280, height: 1000 } };
const screens = {
  light: wide,
  dark: { ...wide, colorScheme: "dark" },
  narrow: { viewport: { width: 360, height: 800 }, hasTouch: true },
};

/** Runs `look` with a page of its own, which must neither fail nor ask anybody but lossd for anything. */
async function open(browser, url, screen, look) {
  const context = await browser.newContext({ ...screens[screen], bypassCSP: true }); // axe-core is put into the page
  const page = await context.newPage();
  const wrong = [];
  page.setDefaultTimeout(PATIENCE);
  page.on("pageerror", (error) => wrong.push(error.message));
  page.on("request", (request) => new URL(request.url()).origin === new URL(url).origin || wrong.push(request.url()));
  await page.goto(url);
  await look(page);
  assert.deepEqual(wrong, [], `${url}, ${screen}`);
  await context.close();
}

async function audit(page, name, screen) {
  await page.addScriptTag({ path: axe });
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const said = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 160))}`);
  assert.deepEqual(said, [], `${name}, ${screen}`);
  const [inner, whole] = await page.evaluate(() => [innerWidth, document.documentElement.scrollWidth]);
  assert.ok(whole <= inner, `${name}, ${screen}: ${whole} pixels of ${inner}`);
  if (flags.shots) await page.screenshot({ path: join(flags.shots, `${name}-${screen}.png`) });
}

/** A file with one tensor of zeros. */
function safetensors(count) {
  const header = JSON.stringify({ w: { dtype: "F32", shape: [count], data_offsets: [0, 4 * count] } });
  const file = Buffer.alloc(8 + header.length + 4 * count);
  file.writeBigUInt64LE(BigInt(header.length));
  file.write(header, 8);
  return file;
}

const shown = (page, loss) => page.locator(`#${loss} .loss`).textContent();
const changed = (page, loss, from) =>
  page.waitForFunction(([id, before]) => document.querySelector(`#${id} .loss`).textContent !== before, [loss, from]);

const tests = {
  async "every loss is described, with its formula"(browser, url) {
    const { losses } = await (await fetch(`${url}/v1/losses`)).json();
    await open(browser, `${url}/docs`, "light", async (page) => {
      await page.waitForSelector("#other-routes");
      for (const loss of losses) {
        const words = new Set(await page.locator(`#${loss.name} code`).allTextContents());
        for (const { name } of [...loss.inputs, ...loss.options, ...loss.outputs]) assert.ok(words.has(name), `${loss.name}: ${name}`);
        const [maths, plain] = [await page.locator(`#${loss.name} math`).count(), await page.locator(`#${loss.name} > pre`).count()];
        assert.deepEqual([maths, plain], loss.tex ? [1, 0] : [0, 1], loss.name);
      }
      assert.match(await page.locator("#other-routes").textContent(), /GET \/metrics/);
      assert.equal(await page.locator("#said").textContent(), "");
    });
  },

  async "each example is drawn"(browser, url) {
    const { losses } = await (await fetch(`${url}/v1/losses`)).json();
    await open(browser, `${url}/docs`, "light", async (page) => {
      await page.waitForSelector("#other-routes");
      for (const { name } of losses) {
        await page.locator(`#${name} .try`).scrollIntoViewIfNeeded();
        await page.waitForSelector(`#${name} .seen :is(.loss, .grid)`).catch(async () => {
          throw new Error(`${name}: ${await page.locator(`#${name} .seen`).textContent()}`);
        });
      }
    });
  },

  async "sliders, cells, outputs and JSON change the picture"(browser, url) {
    await open(browser, `${url}/docs#cross_entropy`, "light", async (page) => {
      const part = page.locator("#cross_entropy");
      await page.waitForSelector("#cross_entropy .loss");
      let before = await shown(page, "cross_entropy");
      await part.getByLabel("label_smoothing, slider").focus();
      for (let i = 0; i < 10; i++) await page.keyboard.press("ArrowRight");
      await changed(page, "cross_entropy", before);
      assert.equal(await part.getByLabel("label_smoothing", { exact: true }).inputValue(), "0.1");
      before = await shown(page, "cross_entropy");
      await part.getByLabel("logits[0][1]", { exact: true }).fill("-3.5");
      await changed(page, "cross_entropy", before);
      await part.getByLabel("reply with nll", { exact: true }).check();
      await part.locator(".seen h3", { hasText: /^nll$/ }).waitFor();
      await part.locator(".seen td").first().hover();
      await part.getByText(/^grad\.logits\[0\]\[0\] = 0\.\d{5,}$/).waitFor();
      const link = page.url();
      before = await shown(page, "cross_entropy");
      await open(browser, link, "light", async (other) => {
        await other.waitForSelector("#cross_entropy .loss");
        assert.equal(await shown(other, "cross_entropy"), before);
        assert.equal(await other.getByLabel("logits[0][1]", { exact: true }).first().inputValue(), "-3.5");
      });
      await part.getByLabel("targets[0]", { exact: true }).fill("7");
      await part.locator(".seen").getByText(/targets\[0\] is 7/).waitFor();
      assert.equal(await part.locator("[data-place='targets[0]'].wrong").count(), 1);
      await part.getByText("as JSON").click();
      await part.getByLabel("Request to cross_entropy", { exact: true }).fill('{"inputs":{"logits":[[1,2],[3,4]],"targets":[0,1]}}');
      await page.waitForFunction(() => document.querySelector("#cross_entropy .loss").textContent.startsWith("0.81"));
      await part.getByLabel("logits[0][1]", { exact: true }).focus();
      await page.keyboard.press("ArrowDown");
      await page.keyboard.type("9");
      assert.equal(await part.getByLabel("logits[1][1]", { exact: true }).inputValue(), "9");
      await part.getByRole("button", { name: "Begin anew" }).click();
      await page.waitForFunction(() => location.hash === "#cross_entropy");
    });
  },

  async "by keyboard from the top to a loss"(browser, url) {
    await open(browser, `${url}/docs`, "light", async (page) => {
      await page.waitForSelector("#other-routes");
      await page.keyboard.press("Tab");
      assert.equal(await page.evaluate(() => document.activeElement.textContent), "To the losses");
      await page.keyboard.press("Tab");
      await page.keyboard.type("huber");
      assert.deepEqual(await page.locator("#contents a:visible").allTextContents(), ["huber", "Other routes"]);
      await page.getByLabel("Find a loss").fill("label_smoothing logits");
      const found = await page.locator("#contents a:visible").allTextContents();
      assert.ok(found.includes("cross_entropy") && !found.includes("mse"), String(found));
      assert.ok(await page.locator("#contents .group:visible").count() < await page.locator("#contents .group").count());
      await page.getByLabel("Find a loss").fill("huber");
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
      await page.waitForFunction(() => location.hash === "#huber");
    });
  },

  async "the root leads to /docs"(browser, url) {
    await open(browser, `${url}/`, "light", async (page) => assert.equal(page.url(), `${url}/docs`));
  },

  async "keys are asked for, and used"(browser) {
    writeFileSync(join(folder, "keys"), `${KEY}\n`);
    const url = await serve("--api-key-file", join(folder, "keys"));
    for (const [path, there] of [["docs", "#other-routes"], ["status", ".cards"]]) {
      await open(browser, `${url}/${path}`, "light", async (page) => {
        await page.locator("#key").waitFor();
        assert.match(await page.locator("#said").textContent(), /needs a key/);
        assert.equal(await page.locator(there).count(), 0);
        await page.locator("#key").fill(KEY);
        await page.keyboard.press("Enter");
        await page.waitForSelector(there);
        assert.equal(await page.locator("#keyed").isHidden(), true);
      });
    }
  },

  async "/status counts"(browser) {
    const url = await serve();
    await open(browser, `${url}/status`, "light", async (page) => {
      await page.waitForSelector(".cards");
      const post = (body) => fetch(`${url}/v1/losses/mae`, { method: "POST", body, headers: { "Content-Type": "application/json" } });
      for (let i = 0; i < 20; i++) await post('{"inputs":{"a":[1],"b":[0]}}');
      await post("{");
      await fetch(`${url}/v1/regions/head`, { method: "PUT", body: safetensors(6) });
      const row = (...cells) => page.getByRole("row", { name: cells.join(" ") });
      await row("mae", "json", "200", "20").waitFor();
      await row("mae", "json", "400", "1").waitFor();
      await row("resident", "1").waitFor();
      assert.match(await page.locator(".cards").textContent(), /workers busy.*of \d+.*memory reserved.*of 1.0 GiB|of 1 GiB/);
    });
  },

  async "axe-core finds nothing, and everything fits"(browser, url) {
    for (const screen of Object.keys(screens)) {
      await open(browser, `${url}/docs#cross_entropy`, screen, async (page) => {
        await page.waitForSelector("#cross_entropy .loss");
        await audit(page, "docs", screen);
      });
      await open(browser, `${url}/status`, screen, async (page) => {
        await page.waitForSelector(".cards");
        await page.waitForTimeout(2500); // a second reading
        await audit(page, "status", screen);
      });
    }
  },
};

if (flags.shots) mkdirSync(flags.shots, { recursive: true });
const browser = await chromium.launch({ executablePath: flags.chromium, args: ["--no-sandbox"] });
let [passed, failed] = [0, 0];
try {
  const url = await serve();
  for (const [name, test] of Object.entries(tests)) {
    if (flags.only && !name.includes(flags.only)) continue;
    try {
      await test(browser, url);
      passed++;
      console.log(`  ok      ${name}`);
    } catch (error) {
      failed++;
      console.log(`  FAILED  ${name}\n${error.stack}`);
    }
  }
} finally {
  await browser.close();
  for (const server of servers) server.kill();
  rmSync(folder, { recursive: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
