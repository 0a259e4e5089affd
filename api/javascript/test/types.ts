// What lossd.d.ts allows, and what it does not: compiled, never run.
import { bf16, Client, LossdError, tensor, toFloat32 } from "../lossd.js";
import type { DType, Input, Region, Resident, Tensor } from "../lossd.js";

export async function allowed(client: Client): Promise<number> {
  const logits: Tensor<Float32Array> = tensor(new Float32Array(6), [2, 3]);
  const weight: Region = { region: "head/w", offset: 8, dtype: "f32", shape: [3] };
  const inputs: Record<string, Input> = { logits, targets: [2n, 0n], class_weight: weight, mask: [true, false] };
  const limits = { timeout: 1000, signal: new AbortController().signal };
  await client.keep("head", { w: [1, 2, 3], half: bf16([1]), raw: Float64Array.of(1) }, { replace: true, ...limits });
  const kept: Resident[] = await client.resident(limits);
  const types: DType[] = kept.map((one) => one.dtype);
  const got = await client.evaluate("cross_entropy", inputs, { label_smoothing: 0.1, z_loss: null }, { outputs: ["loss"] });
  await client.forget("head", limits);
  return toFloat32(got.loss!).length + types.length;
}

export async function refused(client: Client): Promise<void> {
  // @ts-expect-error a region is of lossd already
  await client.keep("head", { w: { region: "other/w" } });
  // @ts-expect-error names of regions are text
  await client.evaluate("mse", { a: { region: 1 }, b: [1] });
  // @ts-expect-error there is no such element type
  tensor(new Float32Array(1), [1], "f8");
  // @ts-expect-error texts are no tensors
  await client.keep("head", { w: "1,2,3" });
  try {
    await client.forget("head");
  } catch (error) {
    if (error instanceof LossdError && error.status === 404) return;
    throw error;
  }
}
