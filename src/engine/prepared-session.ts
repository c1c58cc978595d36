import type * as ort from 'onnxruntime-node';
import { byteLengthOf } from '../base/dtype.ts';
import { BonsaiError, messageOf } from '../base/errors.ts';
import { elementCount, type Tensor } from '../base/tensor.ts';
import type { ValueInfo } from '../graph/model.ts';
import { dtypeOfCode } from '../graph/onnx/codes.ts';
import type { NetworkSource } from './embedded-strings.ts';
import { fromNative, nativeOptions, Session, type SessionOptions, toNative } from './session.ts';

/** A run with inputs of fixed shapes: write the elements into `inputs`, then call `run`. */
export interface PreparedRun {
  /** Memory of the inputs in the network's order, little-endian; read anew at each run. */
  readonly inputs: readonly Uint8Array[];
  /** @returns the outputs in the network's order; new memory. @throws BonsaiError `engine_failure` */
  run(): readonly Tensor[] | Promise<readonly Tensor[]>;
}

type Native = { [name: string]: ort.OnnxValue };

/** ONNX Runtime's own synchronous session, as its Node.js binding has it. */
interface NativeSession {
  loadModel(path: string, options: ort.InferenceSession.SessionOptions): void;
  loadModel(
    buffer: ArrayBufferLike,
    byteOffset: number,
    byteLength: number,
    options: ort.InferenceSession.SessionOptions,
  ): void;
  readonly inputMetadata: readonly NativeMetadata[];
  readonly outputMetadata: readonly NativeMetadata[];
  run(feeds: Native, fetches: { [name: string]: null }, options: object): Native;
  dispose(): void;
}

interface NativeMetadata {
  readonly name: string;
  readonly isTensor: boolean;
  readonly shape: readonly number[];
  readonly type: number;
}

/**
 * A network for one serving thread, which runs the same shapes over and over. It calls ONNX Runtime's binding directly,
 * since the public `run` waits for a turn of the event loop each time (3-4 % of a network of 1 ms) and checks names
 * that cannot change. The binding is internal to onnxruntime-node, whose version is pinned; where it is not found, the
 * public session does the work.
 */
export class PreparedSession {
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly #run: (feeds: Native) => Native | Promise<Native>;
  readonly #release: () => void | Promise<void>;
  /** Kept for networks of strings only, some of which have to travel in the network itself. */
  readonly #source: NetworkSource | undefined;

  /** @param model a file's path or the bytes of an ONNX model. @throws BonsaiError `load_failed` */
  static async create(model: string | Uint8Array, options: SessionOptions): Promise<PreparedSession> {
    const binding = await nativeBinding();
    if (binding === undefined)
      return new PreparedSession(await Session.create(model, options), { model, options });
    try {
      const native = new binding.InferenceSession() as unknown as NativeSession; // The type above, as it is used here.
      if (typeof model === 'string') native.loadModel(model, nativeOptions(options));
      else native.loadModel(model.buffer, model.byteOffset, model.byteLength, nativeOptions(options));
      return new PreparedSession(native, { model, options });
    } catch (cause) {
      throw new BonsaiError('load_failed', `ONNX Runtime cannot load the model: ${messageOf(cause)}`, {
        cause,
      });
    }
  }

  private constructor(session: NativeSession | Session, source: NetworkSource) {
    if (session instanceof Session) {
      this.inputs = session.inputs;
      this.outputs = session.outputs;
      this.#run = (feeds) => session.runNative(feeds);
      this.#release = () => session.release();
    } else {
      this.inputs = session.inputMetadata.map(valueInfoOf);
      this.outputs = session.outputMetadata.map(valueInfoOf);
      const fetches = Object.fromEntries(this.outputs.map(({ name }) => [name, null]));
      this.#run = (feeds) => session.run(feeds, fetches, {});
      this.#release = () => session.dispose();
    }
    this.#source = this.inputs.some(({ type }) => type?.dtype === 'string') ? source : undefined;
  }

  /** Runs the network on inputs in its order. @throws BonsaiError `engine_failure`; what `runEmbedded` throws */
  run(inputs: readonly Tensor[]): readonly Tensor[] | Promise<readonly Tensor[]> {
    return this.#source === undefined
      ? this.#runOn(this.#feedsOf(inputs))
      : this.#runOnStrings(this.#source, inputs);
  }

  /** @param shapes of the inputs in the network's order; none may be of strings */
  prepare(shapes: readonly (readonly number[])[]): PreparedRun {
    const tensors = this.inputs.map(({ type }, i): Tensor => {
      const dtype = type?.dtype ?? 'float32';
      const shape = shapes[i]!;
      return { dtype, shape, bytes: new Uint8Array(byteLengthOf(dtype, elementCount(shape))) };
    });
    const feeds = this.#feedsOf(tensors);
    return { inputs: tensors.map(({ bytes }) => bytes), run: () => this.#runOn(feeds) };
  }

  /** Frees the network's memory. The session cannot be used afterwards. */
  async release(): Promise<void> {
    await this.#release();
  }

  async #runOnStrings(source: NetworkSource, inputs: readonly Tensor[]): Promise<readonly Tensor[]> {
    // What reads and writes networks takes memory that most servers never need.
    const { needsEmbedding, runEmbedded } = await import('./embedded-strings.ts');
    if (!inputs.some(needsEmbedding)) return this.#runOn(this.#feedsOf(inputs));
    return runEmbedded(source, new Map(this.inputs.map(({ name }, i) => [name, inputs[i]!])));
  }

  #feedsOf(inputs: readonly Tensor[]): Native {
    return Object.fromEntries(this.inputs.map(({ name }, i) => [name, toNative(inputs[i]!)]));
  }

  #runOn(feeds: Native): readonly Tensor[] | Promise<readonly Tensor[]> {
    try {
      const results = this.#run(feeds);
      return results instanceof Promise
        ? results.then((values) => this.#outputsOf(values), fail)
        : this.#outputsOf(results);
    } catch (cause) {
      return fail(cause);
    }
  }

  #outputsOf(results: Native): Tensor[] {
    return this.outputs.map(({ name }) => fromNative(results[name] as ort.Tensor)); // Networks of tensors only are served.
  }
}

function fail(cause: unknown): never {
  throw new BonsaiError('engine_failure', `ONNX Runtime failed: ${messageOf(cause)}`, { cause });
}

function valueInfoOf({ name, isTensor, type, shape }: NativeMetadata): ValueInfo {
  const dtype = dtypeOfCode(type);
  return isTensor && dtype !== undefined ? { name, type: { dtype, shape: [...shape] } } : { name };
}

async function nativeBinding() {
  try {
    const { binding, initOrt } = await import('onnxruntime-node/dist/binding.js');
    initOrt();
    return binding;
  } catch {
    return undefined; // Another version, whose inside has moved.
  }
}
