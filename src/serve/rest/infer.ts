import type { DType } from '../../base/dtype.ts';
import { BonsaiError } from '../../base/errors.ts';
import { elementCount } from '../../base/tensor.ts';
import { DTYPE_BY_DATATYPE, datatypeOf } from '../../repository/datatypes.ts';
import type { TensorSpec } from '../../repository/types.ts';
import { classCountOf } from '../classification.ts';
import type { InferAnswer, InferRequest } from '../data-plane.ts';
import { InvalidRequestError } from '../errors.ts';
import { checkInputName, type NamedTensor } from '../input-check.ts';
import { type Json, parseJson } from '../json.ts';
import { timeoutMsOf, wishesOf } from '../request-parameters.ts';
import type { ServedModel } from '../served-model.ts';
import { bytesFromTensor, elementBytes, tensorFromBytes } from '../tensor-bytes.ts';
import type { Wishes } from '../wishes.ts';
import { jsonFromTensor, tensorFromJson } from './tensors.ts';

/** A decoded inference request, and how its answer is to be written. */
export interface DecodedInfer {
  readonly request: InferRequest;
  readonly format: AnswerFormat;
}

/** How an answer is to be written; plain data, so that another thread can write it. */
export interface AnswerFormat {
  readonly id: string;
  readonly model: string;
  /** Of the outputs that were named. */
  readonly outputs: readonly OutputWish[];
  readonly isBinaryByDefault: boolean;
}

interface OutputWish {
  readonly name: string;
  readonly isBinary: boolean | undefined;
  /** Classes wanted instead of the tensor. */
  readonly classes: number | undefined;
}

/** What a request's JSON is read against; plain data, so that another thread can read it. */
export interface InferTarget {
  readonly model: string;
  readonly inputs: readonly TensorSpec[];
}

/** An inference request as the body says it; plain data. */
export interface InferDocument {
  readonly id: string;
  readonly inputs: readonly NamedTensor[];
  readonly outputs: readonly OutputWish[];
  readonly isBinaryByDefault: boolean;
  readonly timeoutMs: number | undefined;
  readonly wishes: Omit<Wishes, 'version'>;
}

export interface DocumentLimits {
  readonly maxJsonBytes: number;
  readonly maxJsonDepth: number;
  /** Of one tensor after decoding. */
  readonly maxTensorBytes: number;
}

/** The part of a version that a request's JSON is read against. @throws what `ServedModel.resolve` throws */
export function targetOf(model: ServedModel, version: number | undefined): InferTarget {
  return { model: model.name, inputs: model.resolve(version).inputs };
}

/** An encoded answer. `jsonLength` is set where binary tensors follow the JSON. */
export interface EncodedInfer {
  readonly body: Uint8Array;
  readonly jsonLength?: number;
}

/** The protocol's tensors have few dimensions; more is a mistake or malice. */
export const MAX_RANK = 16;

const US_PER_MS = 1000;

/**
 * Reads the JSON and the binary tensors behind it (binary tensor data extension). Tensor bytes are views of the body.
 * @param headerLength the value of Inference-Header-Content-Length, or undefined where absent
 * @throws InvalidRequestError, BonsaiError `unsupported`, `body_too_large`
 */
export function readDocument(
  target: InferTarget,
  body: Uint8Array,
  headerLength: string | undefined,
  limits: DocumentLimits,
): InferDocument {
  const jsonLength = jsonLengthOf(headerLength, body.byteLength, limits.maxJsonBytes);
  if (jsonLength === 0 && headerLength !== undefined) return readRaw(target, body);
  const root = objectOf(parseJson(body.subarray(0, jsonLength), limits.maxJsonDepth), 'the request');
  const parameters = parametersOf(root, 'the request');
  for (const name of Object.keys(parameters)) {
    if (name.startsWith('triton_'))
      throw new InvalidRequestError(`parameter names that begin with 'triton_' are reserved: '${name}'`);
  }
  const binary = new BinaryPart(body, jsonLength);
  const inputs = arrayOf(root, 'inputs').map((item) =>
    decodeInput(item, binary, limits.maxTensorBytes, (name) =>
      checkInputName(name, target.inputs, target.model),
    ),
  );
  binary.checkUsedUp();
  const parameter = (name: string) => parameters[name];
  return {
    id: root.id === undefined ? '' : stringOf(root, 'id', 'the request'),
    inputs,
    outputs: root.outputs === undefined ? [] : arrayOf(root, 'outputs').map(decodeOutput),
    isBinaryByDefault: booleanOf(parameters, 'binary_data_output', 'the request') ?? false,
    timeoutMs: timeoutMsOf(parameter),
    wishes: wishesOf(parameter),
  };
}

/** The request that a document makes of a model, its bytes being accounted for already. */
export function inferOf(
  model: ServedModel,
  version: number | undefined,
  document: InferDocument,
): DecodedInfer {
  const { id, inputs, outputs, isBinaryByDefault, timeoutMs, wishes } = document;
  return {
    format: { id, model: model.name, outputs, isBinaryByDefault },
    request: {
      model,
      version,
      inputs,
      // An empty list asks for nothing in particular, so for all, as in Triton.
      outputs: outputs.length === 0 ? undefined : outputs.map(({ name }) => name),
      timeoutMs,
      isCharged: true,
      ...wishes,
    },
  };
}

/** The classes wanted, by output. */
export function classesOf({ outputs }: AnswerFormat): ReadonlyMap<string, number> {
  return new Map(
    outputs.flatMap(({ name, classes }) => (classes === undefined ? [] : [[name, classes] as const])),
  );
}

/** Writes the answer: keys in Triton's order, outputs in the model's. */
export function encodeInfer(format: AnswerFormat, answer: InferAnswer): EncodedInfer {
  const blobs: Uint8Array[] = [];
  const outputs = answer.outputs.map((tensor) => {
    const head = `{"name":${JSON.stringify(tensor.name)},"datatype":"${datatypeOf(tensor.dtype)}","shape":[${tensor.shape.join(',')}]`;
    const isBinary =
      format.outputs.find(({ name }) => name === tensor.name)?.isBinary ?? format.isBinaryByDefault;
    if (!isBinary) return `${head},"data":${jsonFromTensor(tensor, `output '${tensor.name}'`)}}`;
    const bytes = bytesFromTensor(tensor);
    if (bytes.byteLength > 0) blobs.push(bytes);
    return `${head},"parameters":{"binary_data_size":${bytes.byteLength}}}`;
  });
  const id = format.id === '' ? '' : `"id":${JSON.stringify(format.id)},`;
  const accuracy = answer.accuracy === undefined ? '' : `"accuracy":${answer.accuracy},`;
  const queueMs = Math.round(answer.queueMs * US_PER_MS) / US_PER_MS;
  const opinion =
    answer.secondOpinion === undefined ? '' : `,"second_opinion":${JSON.stringify(answer.secondOpinion)}`;
  const text = `{${id}"model_name":${JSON.stringify(format.model)},"model_version":"${answer.version}","parameters":{${accuracy}"queue_ms":${queueMs}${opinion}},"outputs":[${outputs.join(',')}]}`;
  const json = Buffer.from(text);
  return blobs.length === 0
    ? { body: json }
    : { body: Buffer.concat([json, ...blobs]), jsonLength: json.byteLength };
}

/** The bytes behind the JSON, given out in the order of the inputs. */
class BinaryPart {
  readonly #body: Uint8Array;
  #offset: number;

  constructor(body: Uint8Array, offset: number) {
    this.#body = body;
    this.#offset = offset;
  }

  take(length: number, where: string): Uint8Array {
    const end = this.#offset + length;
    if (end > this.#body.byteLength) {
      throw new InvalidRequestError(
        `${where}: binary_data_size is ${length}, but only ${this.#body.byteLength - this.#offset} bytes are left in the body`,
      );
    }
    const bytes = this.#body.subarray(this.#offset, end);
    this.#offset = end;
    return bytes;
  }

  checkUsedUp(): void {
    const left = this.#body.byteLength - this.#offset;
    if (left > 0)
      throw new InvalidRequestError(
        `unexpected additional input data: ${left} bytes are left over in the body`,
      );
  }
}

/** How many bytes of a body are JSON. @throws InvalidRequestError, BonsaiError `body_too_large` */
export function jsonLengthOf(value: string | undefined, bodyLength: number, maxJsonBytes: number): number {
  const length =
    value === undefined ? bodyLength : /^\d{1,15}$/.test(value.trim()) ? Number(value) : Number.NaN;
  if (!(length <= bodyLength)) {
    throw new InvalidRequestError(
      `Inference-Header-Content-Length is '${value}'; expected an integer from 0 to the body's ${bodyLength}`,
    );
  }
  if (length > maxJsonBytes) {
    throw new BonsaiError(
      'body_too_large',
      `the request's JSON exceeds the maximum of ${maxJsonBytes} bytes: it has ${length}. Send the tensors as binary data behind the JSON (Inference-Header-Content-Length), which takes a quarter of the bytes`,
    );
  }
  return length;
}

function decodeInput(
  item: Json,
  binary: BinaryPart,
  maxTensorBytes: number,
  checkName: (name: string) => void,
): NamedTensor {
  const input = objectOf(item, 'an input');
  const name = stringOf(input, 'name', 'an input');
  checkName(name);
  const where = `input '${name}'`;
  const datatype = stringOf(input, 'datatype', where);
  const dtype = DTYPE_BY_DATATYPE.get(datatype);
  if (dtype === undefined) throw new InvalidRequestError(`${where}: unknown datatype '${datatype}'`);
  const shape = shapeOf(input, where);
  const bytes = elementCount(shape) * elementBytes(dtype);
  if (bytes > maxTensorBytes) {
    throw new BonsaiError(
      'body_too_large',
      `${where}: ${datatype} of shape [${shape.join(',')}] takes ${bytes} bytes, more than the maximum of ${maxTensorBytes}. Send fewer examples per request`,
    );
  }
  const parameters = parametersOf(input, where);
  refuseSharedMemory(parameters, where);
  const size = numberOf(parameters, 'binary_data_size');
  if (size === undefined) {
    if (input.data === undefined || input.data === null)
      throw new InvalidRequestError(`${where}: neither 'data' nor binary_data_size is given`);
    return { ...tensorFromJson(dtype, shape, input.data, where), name };
  }
  if (input.data !== undefined)
    throw new InvalidRequestError(`${where}: both 'data' and binary_data_size are given`);
  if (!Number.isInteger(size)) throw new InvalidRequestError(`${where}: binary_data_size must be an integer`);
  return { ...tensorFromBytes(dtype, shape, binary.take(size, where), where), name };
}

function decodeOutput(item: Json): OutputWish {
  const output = objectOf(item, 'an output');
  const name = stringOf(output, 'name', 'an output');
  const where = `output '${name}'`;
  const parameters = parametersOf(output, where);
  refuseSharedMemory(parameters, where);
  const wanted = parameters.classification;
  const classes = wanted === undefined ? undefined : classCountOf(wanted, where);
  return { name, isBinary: booleanOf(parameters, 'binary_data', where), classes };
}

/** A raw request: the whole body is the one input, its open size follows from the length; all outputs are binary. */
function readRaw(target: InferTarget, body: Uint8Array): InferDocument {
  const spec = target.inputs[0];
  if (spec === undefined || target.inputs.length !== 1) {
    throw new InvalidRequestError(
      `a raw request needs a model with one input; '${target.model}' has ${target.inputs.length}`,
    );
  }
  const where = `input '${spec.name}'`;
  const input: NamedTensor =
    spec.dtype === 'string'
      ? { ...rawString(spec, body, where), name: spec.name }
      : {
          ...tensorFromBytes(spec.dtype, rawShape(spec, spec.dtype, body.byteLength, where), body, where),
          name: spec.name,
        };
  return { id: '', inputs: [input], outputs: [], isBinaryByDefault: true, timeoutMs: undefined, wishes: {} };
}

function rawShape({ shape }: TensorSpec, dtype: DType, byteLength: number, where: string): number[] {
  const open = shape.filter((size) => size === -1).length;
  if (open > 1)
    throw new InvalidRequestError(
      `${where}: a raw request cannot tell ${open} open sizes of [${shape.join(',')}]`,
    );
  const known = elementCount(shape.filter((size) => size !== -1)) * elementBytes(dtype);
  if (open === 1 && byteLength % known !== 0) {
    throw new InvalidRequestError(
      `${where}: ${byteLength} bytes are no multiple of the ${known} that one row of [${shape.join(',')}] takes`,
    );
  }
  return shape.map((size) => (size === -1 ? byteLength / known : size));
}

function rawString({ shape }: TensorSpec, body: Uint8Array, where: string) {
  if (shape.length !== 1 || Math.abs(shape[0]!) !== 1) {
    throw new InvalidRequestError(`${where}: a raw request can carry BYTES only for shape [1]`);
  }
  return { dtype: 'string' as const, shape: [1], bytes: new Uint8Array(0), strings: [body] };
}

type JsonObject = { readonly [key: string]: Json };

function objectOf(value: Json | undefined, where: string): JsonObject {
  if (isObject(value)) return value;
  throw new InvalidRequestError(`${where} must be a JSON object`);
}

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function arrayOf(parent: JsonObject, key: string): readonly Json[] {
  const value = parent[key];
  if (Array.isArray(value)) return value;
  throw new InvalidRequestError(`the request must have '${key}', an array`);
}

function stringOf(parent: JsonObject, key: string, where: string): string {
  const value = parent[key];
  if (typeof value === 'string') return value;
  throw new InvalidRequestError(`${where} must have '${key}', a string`);
}

function parametersOf(parent: JsonObject, where: string): JsonObject {
  return parent.parameters === undefined ? {} : objectOf(parent.parameters, `'parameters' of ${where}`);
}

function booleanOf(parent: JsonObject, key: string, where: string): boolean | undefined {
  const value = parent[key];
  if (value === undefined || typeof value === 'boolean') return value;
  throw new InvalidRequestError(`parameter '${key}' of ${where} must be true or false`);
}

function numberOf(parent: JsonObject, key: string): number | undefined {
  const value = parent[key];
  if (value === undefined) return undefined;
  if ((typeof value === 'number' || typeof value === 'bigint') && value >= 0) return Number(value);
  throw new InvalidRequestError(`parameter '${key}' must be a number, 0 or more`);
}

function shapeOf(input: JsonObject, where: string): number[] {
  const value = input.shape;
  if (!Array.isArray(value)) throw new InvalidRequestError(`${where} must have 'shape', an array`);
  const shape: number[] = [];
  for (const size of value) {
    if (typeof size !== 'number' || !Number.isInteger(size) || size < 0) {
      throw new InvalidRequestError(`${where}: 'shape' must hold integers, 0 or more`);
    }
    shape.push(size);
  }
  if (shape.length > MAX_RANK)
    throw new InvalidRequestError(`${where}: 'shape' has more than ${MAX_RANK} sizes`);
  if (!Number.isSafeInteger(elementCount(shape)))
    throw new InvalidRequestError(`${where}: 'shape' is too large`);
  return shape;
}

function refuseSharedMemory(parameters: JsonObject, where: string): void {
  if (parameters.shared_memory_region === undefined) return;
  throw new BonsaiError('unsupported', `${where}: shared memory is not offered; send the data`);
}
