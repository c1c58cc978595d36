import { BonsaiError } from '../../base/errors.ts';
import { elementCount } from '../../base/tensor.ts';
import { DTYPE_BY_DATATYPE, datatypeOf } from '../../repository/datatypes.ts';
import { classCountOf, withClasses } from '../classification.ts';
import type { InferAnswer, InferHead, InferRequest, RequestPlane } from '../data-plane.ts';
import { InvalidRequestError } from '../errors.ts';
import { checkInputName, type NamedTensor } from '../input-check.ts';
import type { ModelRegistry } from '../model-registry.ts';
import { timeoutMsOf, wishesOf } from '../request-parameters.ts';
import type { ServedModel } from '../served-model.ts';
import { bytesFromTensor, tensorFromBytes } from '../tensor-bytes.ts';
import { FRAME_PREFIX_BYTES, sealFrame } from './framing.ts';
import type { InferMessage, InputMessage, Parameters } from './infer-message.ts';
import { tensorFromContents } from './tensors.ts';
import { versionOf } from './version.ts';
import { WireWriter } from './wire.ts';

/** A decoded inference request, and what its answer repeats. */
export interface DecodedInfer {
  readonly request: InferRequest;
  readonly id: string;
  /** The client asked to be told that a stream's response is a request's last one; here each is. */
  readonly isFinalMarked: boolean;
  /** How many classes are wanted in place of scores, by output. */
  readonly classes: ReadonlyMap<string, number>;
}

const US_PER_MS = 1000;

/** The one parameter of Triton's own that a request may carry. */
const MARK_FINAL = 'triton_enable_empty_final_response';

/**
 * Decodes a ModelInferRequest. Raw tensors and packed floats are views of the message. Under overload a request that
 * would be refused is so before its tensors are decoded.
 * @param remainingMs until the client's deadline; undefined: none
 * @throws InvalidRequestError, BonsaiError `unsupported`; what `ModelRegistry.get` and `RequestPlane.checkAdmission` throw
 */
export function decodeInfer(
  models: ModelRegistry,
  plane: RequestPlane,
  message: InferMessage,
  remainingMs: number | undefined,
): DecodedInfer {
  const model = models.get(message.modelName);
  const head = counted(model, () => decodeHead(model, message, remainingMs));
  plane.checkAdmission(head);
  return counted(model, () => decodeRest(head, message));
}

/** Counts a request that is not as it should be. */
function counted<T>(model: ServedModel, decode: () => T): T {
  try {
    return decode();
  } catch (thrown) {
    model.arrivals.invalid++;
    throw thrown;
  }
}

function decodeHead(
  model: ServedModel,
  { modelVersion, parameters }: InferMessage,
  remainingMs: number | undefined,
): InferHead {
  for (const name of parameters.keys()) {
    if (name.startsWith('triton_') && name !== MARK_FINAL)
      throw new InvalidRequestError(`parameter names that begin with 'triton_' are reserved: '${name}'`);
  }
  const parameter = (name: string) => parameters.get(name);
  const timeoutMs = timeoutMsOf(parameter);
  return {
    model,
    version: versionOf(modelVersion),
    // What would begin after the client's deadline is refused at once, so that it can ask elsewhere.
    timeoutMs: remainingMs === undefined ? timeoutMs : Math.min(remainingMs, timeoutMs ?? remainingMs),
    ...wishesOf(parameter),
  };
}

function decodeRest(head: InferHead, message: InferMessage): DecodedInfer {
  const { model, version } = head;
  const specs = model.resolve(version).inputs;
  for (const { name } of message.inputs) checkInputName(name, specs, model.name);
  const classes = new Map<string, number>();
  const outputs = message.outputs.map(({ name, parameters: own }) => {
    refuseSharedMemory(own, `output '${name}'`);
    const count = own.get('classification');
    if (count !== undefined) classes.set(name, classCountOf(count, `output '${name}'`));
    return name;
  });
  return {
    id: message.id,
    isFinalMarked: message.parameters.get(MARK_FINAL) === true,
    classes,
    request: {
      ...head,
      inputs: decodeInputs(message),
      outputs: outputs.length === 0 ? undefined : outputs,
    },
  };
}

function decodeInputs({ inputs, rawContents }: InferMessage): NamedTensor[] {
  if (rawContents.length > 0 && rawContents.length !== inputs.length) {
    throw new InvalidRequestError(
      `raw_input_contents holds ${rawContents.length} buffers for ${inputs.length} inputs; expected one for each, in the same order`,
    );
  }
  return inputs.map((input, i) => {
    const where = `input '${input.name}'`;
    const dtype = DTYPE_BY_DATATYPE.get(input.datatype);
    if (dtype === undefined) throw new InvalidRequestError(`${where}: unknown datatype '${input.datatype}'`);
    refuseSharedMemory(input.parameters, where);
    checkSize(input, where);
    const raw = rawContents[i];
    const { contents } = input;
    if (raw !== undefined) {
      if (contents !== undefined) {
        throw new InvalidRequestError(
          `${where}: contents must not be given together with raw_input_contents; send one of them`,
        );
      }
      return { ...tensorFromBytes(dtype, input.shape, raw, where), name: input.name };
    }
    if (contents === undefined && elementCount(input.shape) > 0) {
      throw new InvalidRequestError(
        `${where}: unable to find data; send raw_input_contents, one buffer per input, or contents`,
      );
    }
    return {
      ...tensorFromContents(dtype, input.shape, contents ?? new Uint8Array(0), where),
      name: input.name,
    };
  });
}

function checkSize({ shape }: InputMessage, where: string): void {
  if (!Number.isSafeInteger(elementCount(shape)))
    throw new InvalidRequestError(`${where}: 'shape' is too large`);
}

function refuseSharedMemory(parameters: Parameters, where: string): void {
  if (parameters.has('shared_memory_region')) {
    throw new BonsaiError('unsupported', `${where}: shared memory is not offered; send the data`);
  }
}

/** Field numbers of ModelInferResponse and of what is in it. */
const RESPONSE = {
  modelName: 1,
  modelVersion: 2,
  id: 3,
  parameters: 4,
  outputs: 5,
  rawOutputContents: 6,
} as const;
const OUTPUT = { name: 1, datatype: 2, shape: 3 } as const;
const ENTRY = { key: 1, value: 2 } as const;
const PARAMETER = { bool: 1, string: 3, double: 4 } as const;
const STREAM_RESPONSE = { errorMessage: 1, inferResponse: 2 } as const;

/** Everything of a response but its tensors, names and identifier fits; the buffer grows if not. */
const HEAD_BYTES = 256;

/** The framed ModelInferResponse: outputs in the model's order, always raw, as Triton's. */
export function encodeInfer(decoded: DecodedInfer, scores: InferAnswer): Buffer {
  const answer = withClasses(decoded.request.model, decoded.classes, scores);
  const contents = answer.outputs.map(bytesFromTensor);
  const writer = new WireWriter(FRAME_PREFIX_BYTES, HEAD_BYTES + totalLength(contents));
  writeResponse(writer, decoded, answer, contents, false);
  return sealFrame(writer.finish());
}

/** The framed ModelStreamInferResponse around it. */
export function encodeStreamInfer(decoded: DecodedInfer, scores: InferAnswer): Buffer {
  const answer = withClasses(decoded.request.model, decoded.classes, scores);
  const contents = answer.outputs.map(bytesFromTensor);
  const writer = new WireWriter(FRAME_PREFIX_BYTES, HEAD_BYTES + totalLength(contents));
  writer.message(STREAM_RESPONSE.inferResponse, () =>
    writeResponse(writer, decoded, answer, contents, decoded.isFinalMarked),
  );
  return sealFrame(writer.finish());
}

/** The framed ModelStreamInferResponse that says why a request failed; with the request's id where it is known. */
export function encodeStreamError(message: string, id: string): Buffer {
  const writer = new WireWriter(FRAME_PREFIX_BYTES, HEAD_BYTES);
  writer.string(STREAM_RESPONSE.errorMessage, message);
  writer.message(STREAM_RESPONSE.inferResponse, () => writer.string(RESPONSE.id, id));
  return sealFrame(writer.finish());
}

function writeResponse(
  writer: WireWriter,
  decoded: DecodedInfer,
  answer: InferAnswer,
  contents: readonly Uint8Array[],
  isMarkedFinal: boolean,
): void {
  writer.string(RESPONSE.modelName, decoded.request.model.name);
  writer.string(RESPONSE.modelVersion, String(answer.version));
  writer.string(RESPONSE.id, decoded.id);
  const { accuracy } = answer;
  if (accuracy !== undefined) {
    writeParameter(writer, 'accuracy', () => writer.double(PARAMETER.double, accuracy));
  }
  const queueMs = Math.round(answer.queueMs * US_PER_MS) / US_PER_MS;
  writeParameter(writer, 'queue_ms', () => writer.double(PARAMETER.double, queueMs));
  const { secondOpinion } = answer;
  if (secondOpinion !== undefined) {
    writeParameter(writer, 'second_opinion', () => writer.string(PARAMETER.string, secondOpinion));
  }
  if (isMarkedFinal) {
    writeParameter(writer, 'triton_final_response', () => writer.bool(PARAMETER.bool, true));
  }
  for (const { name, dtype, shape } of answer.outputs) {
    writer.message(RESPONSE.outputs, () => {
      writer.string(OUTPUT.name, name);
      writer.string(OUTPUT.datatype, datatypeOf(dtype));
      writer.sizes(OUTPUT.shape, shape);
    });
  }
  for (const bytes of contents) writer.bytes(RESPONSE.rawOutputContents, bytes);
}

function writeParameter(writer: WireWriter, key: string, writeValue: () => void): void {
  writer.message(RESPONSE.parameters, () => {
    writer.string(ENTRY.key, key);
    writer.message(ENTRY.value, writeValue);
  });
}

function totalLength(contents: readonly Uint8Array[]): number {
  // Each has a tag and a length of its own.
  return contents.reduce((sum, bytes) => sum + bytes.length + 2 * Uint32Array.BYTES_PER_ELEMENT, 0);
}
