import './no-telemetry.ts';
import * as ort from 'onnxruntime-node';
import { DTYPES, type DType } from '../base/dtype.ts';
import { BonsaiError, messageOf } from '../base/errors.ts';
import { elementsOf, type NumericDType, type Tensor, type TypedArrays, tensorOf } from '../base/tensor.ts';
import type { ValueInfo } from '../graph/model.ts';

export interface SessionOptions {
  /** Threads for one inference; 1 keeps all work on the calling thread. Default 1. */
  readonly intraOpThreads?: number;
  /** ONNX Runtime's graph optimisation; `disabled` for files that it has already optimised. Default `all`. */
  readonly optimization?: 'disabled' | 'basic' | 'extended' | 'all';
  /** Where to save the optimised graph; valid only on this machine and version. */
  readonly optimizedModelPath?: string;
  /** Plan the memory of a whole run ahead, by that of the first one. Costs resident memory. Default true. */
  readonly memoryPattern?: boolean;
  /** How long a thread keeps its CPU while it waits for work within a run, in µs; never between runs. Default 0. */
  readonly spinUs?: number;
}

/**
 * A network loaded into ONNX Runtime. Creation and runs are synchronous inside ONNX Runtime: they block the calling
 * thread, so servers and trainers use sessions only in worker threads. A session cannot move between threads.
 */
export class Session {
  readonly #session: ort.InferenceSession;

  private constructor(session: ort.InferenceSession) {
    this.#session = session;
  }

  /**
   * @param model a file's path or the bytes of an ONNX model
   * @throws BonsaiError `load_failed` with ONNX Runtime's reason
   */
  static async create(model: string | Uint8Array, options: SessionOptions = {}): Promise<Session> {
    const native = nativeOptions(options);
    try {
      const session =
        typeof model === 'string'
          ? await ort.InferenceSession.create(model, native)
          : await ort.InferenceSession.create(model, native);
      return new Session(session);
    } catch (cause) {
      throw new BonsaiError('load_failed', `ONNX Runtime cannot load the model: ${messageOf(cause)}`, {
        cause,
      });
    }
  }

  get inputNames(): readonly string[] {
    return this.#session.inputNames;
  }

  get outputNames(): readonly string[] {
    return this.#session.outputNames;
  }

  /** Names, types and shapes of the inputs as ONNX Runtime reports them. */
  get inputs(): readonly ValueInfo[] {
    return this.#session.inputMetadata.map(toValueInfo);
  }

  get outputs(): readonly ValueInfo[] {
    return this.#session.outputMetadata.map(toValueInfo);
  }

  /**
   * Runs the network. Tensors are handed over without copying; outputs are new memory.
   * @param fetches the outputs wanted; default all
   * @throws BonsaiError `engine_failure` with ONNX Runtime's reason
   */
  async run(
    feeds: Readonly<Record<string, Tensor>>,
    fetches?: readonly string[],
  ): Promise<Record<string, Tensor>> {
    // Assigned one by one, a name such as "__proto__" would not become a key.
    const native = Object.fromEntries(
      Object.entries(feeds).map(([name, tensor]) => [name, toNative(tensor)]),
    );
    try {
      const results = await (fetches === undefined
        ? this.#session.run(native)
        : this.#session.run(native, [...fetches]));
      return Object.fromEntries(Object.entries(results).map(([name, value]) => [name, fromNative(value)]));
    } catch (cause) {
      throw new BonsaiError('engine_failure', `ONNX Runtime failed: ${messageOf(cause)}`, { cause });
    }
  }

  /** Runs the network on ONNX Runtime's own values; for the engine itself. */
  runNative(feeds: Readonly<Record<string, ort.OnnxValue>>): Promise<{ [name: string]: ort.OnnxValue }> {
    return this.#session.run(feeds);
  }

  /** Frees the network's memory. The session cannot be used afterwards. */
  async release(): Promise<void> {
    await this.#session.release();
  }
}

/** Our options as ONNX Runtime takes them. */
export function nativeOptions(options: SessionOptions): ort.InferenceSession.SessionOptions {
  return {
    executionProviders: ['cpu'],
    intraOpNumThreads: options.intraOpThreads ?? 1,
    interOpNumThreads: 1,
    graphOptimizationLevel: options.optimization ?? 'all',
    enableMemPattern: options.memoryPattern ?? true,
    enableCpuMemArena: true,
    logSeverityLevel: 4, // What fails is thrown, with the same words.
    extra: { session: spinningOf(options.spinUs ?? 0) },
    ...(options.optimizedModelPath === undefined
      ? {}
      : { optimizedModelFilePath: options.optimizedModelPath }),
  };
}

/** Spinning threads steal the CPU from everybody else on a small machine (468 -> 705 ms a training step). */
function spinningOf(spinUs: number) {
  if (spinUs === 0) return { intra_op: { allow_spinning: '0' } };
  return { intra_op: { allow_spinning: '1', spin_duration_us: `${spinUs}` }, force_spinning_stop: '1' };
}

const DTYPE_SET: ReadonlySet<string> = new Set(DTYPES);

function toValueInfo(metadata: ort.InferenceSession.ValueMetadata): ValueInfo {
  if (!metadata.isTensor || !DTYPE_SET.has(metadata.type)) return { name: metadata.name };
  return { name: metadata.name, type: { dtype: metadata.type as DType, shape: metadata.shape } };
}

export function toNative(tensor: Tensor): ort.Tensor {
  if (tensor.dtype === 'string') {
    const decoder = new TextDecoder();
    return new ort.Tensor(
      'string',
      (tensor.strings ?? []).map((item) => decoder.decode(item)),
      [...tensor.shape],
    );
  }
  return new ort.Tensor(tensor.dtype as ort.Tensor.Type, elementsOf(tensor) as Float32Array, [
    ...tensor.shape,
  ]);
}

export function fromNative(value: ort.Tensor): Tensor {
  if (value.type === 'string') {
    const encoder = new TextEncoder();
    const strings = (value.data as string[]).map((item) => encoder.encode(item));
    return { dtype: 'string', shape: value.dims, bytes: new Uint8Array(0), strings };
  }
  // ONNX Runtime's names of numeric types are ours; its arrays are the ones of TypedArrays.
  return tensorOf(value.type as NumericDType, value.dims, value.data as TypedArrays[NumericDType]);
}

/** The version of ONNX Runtime in use, part of a target's fingerprint. */
export const ENGINE_VERSION: string = ort.env.versions.node ?? ort.env.versions.common;
