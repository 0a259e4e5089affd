// Hold the manifests to the schemas that Kubernetes and the Prometheus operator publish: TypeScript knows every
// field and its type, so that a field that does not exist is found too; the schemas know what values may be.
//
// node docker/validate.mjs FOLDER: FOLDER/node_modules has the packages (make lint-api installs them). KServe
// publishes no such package: its own fields stand below, the container in it is Kubernetes' own.
import { execFileSync } from "node:child_process";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const folder = resolve(process.argv[2]);
const load = (name) => import(pathToFileURL(join(folder, "node_modules", name)).href);
const { parseAllDocuments } = await load("yaml/dist/index.js").then((module) => module.default ?? module);

const KSERVE = `
import type { IContainer } from "kubernetes-models/v1";
type Metadata = { name: string; labels?: Record<string, string>; annotations?: Record<string, string> };
type Format = { name: string; version?: string; autoSelect?: boolean; priority?: number };
export interface IServingRuntime {
  apiVersion: "serving.kserve.io/v1alpha1"; kind: "ServingRuntime"; metadata: Metadata;
  spec: { protocolVersions?: ("v1" | "v2")[]; supportedModelFormats: Format[]; multiModel?: boolean; disabled?: boolean;
    containers: (IContainer & { name: "kserve-container" })[] };
}
export interface IInferenceService {
  apiVersion: "serving.kserve.io/v1beta1"; kind: "InferenceService"; metadata: Metadata;
  spec: { predictor: { minReplicas?: number; maxReplicas?: number; timeout?: number;
    model: { modelFormat: Pick<Format, "name" | "version">; runtime?: string; protocolVersion?: "v1" | "v2"; storageUri?: string } } };
}
`;

// Where the type of a manifest is, and whether there is a schema that runs.
function source({ apiVersion, kind }) {
  const [group, version] = apiVersion.includes("/") ? apiVersion.split("/") : ["", apiVersion];
  if (group === "serving.kserve.io") return { types: "./kserve.js", kind };
  const owner = group === "monitoring.coreos.com" ? "@kubernetes-models/prometheus-operator" : "kubernetes-models";
  return { types: [owner, group, version].filter(Boolean).join("/"), schema: join(owner, group, version, `${kind}.js`), kind };
}

const manifests = ["kubernetes", "kserve"].flatMap((name) =>
  readdirSync(join(here, name)).filter((file) => file.endsWith(".yaml") && file !== "kustomization.yaml").flatMap((file) =>
    parseAllDocuments(readFileSync(join(here, name, file), "utf8"), { strict: true }).map((document) => {
      if (document.errors.length) throw document.errors[0];
      return { file: `docker/${name}/${file}`, is: document.toJS() };
    })));

writeFileSync(join(folder, "package.json"), JSON.stringify({ private: true, type: "module" }));
writeFileSync(join(folder, "kserve.ts"), KSERVE);
writeFileSync(join(folder, "manifests.ts"), manifests.map(({ file, is }, i) => {
  const { types, kind } = source(is);
  return `import type { I${kind} as T${i} } from "${types}";\n// ${file}\nexport const m${i}: T${i} = ${JSON.stringify(is, null, 1)};\n`;
}).join("\n"));

let failed = 0;
try {
  execFileSync(join(folder, "node_modules/.bin/tsc"),
    ["--strict", "--noEmit", "--skipLibCheck", "--target", "es2022", "--module", "nodenext", "manifests.ts"], { cwd: folder, encoding: "utf8" });
} catch (error) {
  failed++;
  console.log(error.stdout, `in ${join(folder, "manifests.ts")}`);
}
for (const { file, is } of manifests) {
  const { schema, kind } = source(is);
  if (!schema) continue;
  try {
    new (await load(schema))[kind](is).validate();
  } catch (error) {
    failed++;
    console.log(`${file}: ${kind}: ${error.message}`);
  }
}
console.log(`${manifests.length} manifests, ${failed ? "with findings" : "no finding"}`);
process.exitCode = failed ? 1 : 0;
