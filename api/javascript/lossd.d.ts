export type DType = "f64" | "f32" | "f16" | "bf16" | "i64" | "i32" | "u8" | "bool";
export type TensorData = Float64Array | Float32Array | Uint16Array | BigInt64Array | Int32Array | Uint8Array;

/** `data` is flat, in row-major order; of f16 and bf16 it holds the bits. */
export interface Tensor<D extends TensorData = TensorData> {
  dtype: DType;
  shape: number[];
  data: D;
}

/** An input that lossd has already. */
export interface Region {
  /** `name/tensor` of what was kept under a name, by `keep` or by lossd's flag --region. */
  region: string;
  /** Bytes from its beginning on; dtype and shape are those of the tensor unless given. */
  offset?: number;
  dtype?: DType;
  shape?: number[];
}

export type Nested = number | bigint | boolean | Nested[];
/** Nested arrays of numbers become f32, of bigints i64, of booleans bool; a typed array is a vector. */
export type Input = Tensor | TensorData | Nested | Region;
/** A tensor or typed array is its number, or a list of them. */
export type Option =
  | string | number | bigint | boolean | null | Tensor | TensorData | readonly Option[] | readonly Part[];
/** A part of a composite. */
export interface Part {
  loss: string;
  /** Letters, digits and _: what `part.<name>.<output>` in the inputs of other parts means. */
  name?: string;
  weight?: number;
  /** A tensor of the request, an output of another part, or null: the part has no such input. */
  inputs?: Record<string, string | null>;
  options?: Record<string, string | number | boolean | null>;
}

/** Throws TypeError where data, shape and dtype do not go together. */
export function tensor<D extends TensorData>(data: D, shape?: readonly number[], dtype?: DType): Tensor<D>;
export function toFloat32(tensor: Tensor): Float32Array;
/** Rounded to nearest, ties to even. */
export function bf16(values: ArrayLike<number>, shape?: readonly number[]): Tensor<Uint16Array>;

/** lossd refused a request; `detail` says what would be right, `input` and `index` name the place. */
export class LossdError extends Error {
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  readonly input?: string;
  readonly index?: number[];
  readonly requestId: string;
}

export interface Description {
  name: string;
  path: string;
  title: string;
  formula: string;
  inputs: { name: string; required: boolean; differentiable: boolean; help: string }[];
  options: { name: string; help: string }[];
  outputs: { name: string; help: string }[];
  [more: string]: unknown;
}

export interface ClientOptions {
  apiKey?: string;
  /** ms for a whole call, retries included; lossd is told of it. */
  timeout?: number;
  /** How often a call is tried again where lossd is full (503). */
  retries?: number;
}

export interface CallLimits {
  /** ms; the client's own unless given. */
  timeout?: number;
  signal?: AbortSignal;
}

export interface CallOptions extends CallLimits {
  /** Those to reply with, in this order; `grad.logits:bf16` asks for a narrower type. */
  outputs?: readonly string[];
}

/** A tensor that lossd keeps. */
export interface Resident {
  name: string;
  kind: string;
  dtype: DType;
  shape: number[];
  bytes: number;
}

export class Client {
  /** http://host:port, https://host:port, or, in Node, unix:/path. Connections are kept, and do not keep the process. */
  constructor(url?: string, options?: ClientOptions);
  /** Tensors that are sent must not be written to before the reply. */
  evaluate(
    loss: string,
    inputs: Record<string, Input>,
    options?: Record<string, Option>,
    call?: CallOptions,
  ): Promise<Record<string, Tensor>>;
  losses(): Promise<string[]>;
  describe(loss: string): Promise<Description>;
  ready(): Promise<boolean>;
  /**
   * Has lossd keep tensors until they are forgotten or it ends: each is then an input { region: "name/tensor" } of every
   * request that this client's key may make. `name` is letters, digits and ._-. A name in use is refused (409,
   * `region_exists`) unless `replace`; what does not fit in --region-budget too (507, `region_budget`).
   */
  keep(
    name: string,
    tensors: Record<string, Tensor | TensorData | Nested>,
    options?: CallLimits & { replace?: boolean },
  ): Promise<void>;
  /** Refused (404, `unknown_region`) where nothing of that name is kept. */
  forget(name: string, limits?: CallLimits): Promise<void>;
  /** What is kept, as far as this client may name it. */
  resident(limits?: CallLimits): Promise<Resident[]>;
}
