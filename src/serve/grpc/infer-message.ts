import { InvalidRequestError } from '../errors.ts';
import { DELIMITED, WireReader } from './wire.ts';

/** The value of a parameter, as the protocol's InferParameter holds one. */
export type ParameterValue = boolean | bigint | number | string;

export type Parameters = ReadonlyMap<string, ParameterValue>;

/** A ModelInferRequest as it came: `contents` undecoded, all bytes views of the message. */
export interface InferMessage {
  modelName: string;
  modelVersion: string;
  id: string;
  parameters: Parameters;
  readonly inputs: InputMessage[];
  readonly outputs: OutputMessage[];
  readonly rawContents: Uint8Array[];
}

export interface InputMessage {
  name: string;
  datatype: string;
  readonly shape: number[];
  parameters: Parameters;
  /** The InferTensorContents message; undefined where there is none. */
  contents: Uint8Array | undefined;
}

export interface OutputMessage {
  name: string;
  parameters: Parameters;
}

const NONE: Parameters = new Map();

/** Tensors of a request have few dimensions; more is a mistake or malice. */
export const MAX_RANK = 16;

/** Networks have few inputs and outputs, requests few parameters; more of either is a mistake or malice. */
export const MAX_ENTRIES = 1024;

/**
 * Reads a ModelInferRequest without copying tensors. Repeated singular fields follow the encoding's rules: of scalars
 * the last counts, messages are merged.
 * @throws InvalidRequestError
 */
export function readInferMessage(bytes: Uint8Array): InferMessage {
  const message: InferMessage = {
    modelName: '',
    modelVersion: '',
    id: '',
    parameters: NONE,
    inputs: [],
    outputs: [],
    rawContents: [],
  };
  const reader = new WireReader(bytes);
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        message.modelName = reader.string();
        break;
      case 2:
        message.modelVersion = reader.string();
        break;
      case 3:
        message.id = reader.string();
        break;
      case 4:
        message.parameters = withParameter(message.parameters, reader.bytes());
        break;
      case 5:
        bounded(message.inputs, 'inputs').push(readInput(reader.bytes()));
        break;
      case 6:
        bounded(message.outputs, 'outputs').push(readOutput(reader.bytes()));
        break;
      case 7:
        bounded(message.rawContents, 'raw_input_contents').push(reader.bytes());
        break;
      default:
        reader.skip();
    }
  }
  return message;
}

function readInput(bytes: Uint8Array): InputMessage {
  const input: InputMessage = { name: '', datatype: '', shape: [], parameters: NONE, contents: undefined };
  const reader = new WireReader(bytes);
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        input.name = reader.string();
        break;
      case 2:
        input.datatype = reader.string();
        break;
      case 3:
        readShape(reader, input);
        break;
      case 4:
        input.parameters = withParameter(input.parameters, reader.bytes());
        break;
      case 5: {
        const more = reader.bytes();
        // Messages one after the other are merged by concatenation.
        input.contents = input.contents === undefined ? more : Buffer.concat([input.contents, more]);
        break;
      }
      default:
        reader.skip();
    }
  }
  return input;
}

function readShape(reader: WireReader, input: InputMessage): void {
  if (reader.wireType !== DELIMITED) {
    pushSize(input, reader.int64());
    return;
  }
  const packed = new WireReader(reader.bytes());
  while (!packed.isAtEnd) pushSize(input, BigInt.asIntN(64, packed.uint64Value()));
}

function pushSize({ name, shape }: InputMessage, size: bigint): void {
  if (size < 0n || size > Number.MAX_SAFE_INTEGER) {
    throw new InvalidRequestError(`input '${name}': 'shape' must hold integers, 0 or more; got ${size}`);
  }
  if (shape.length >= MAX_RANK) {
    throw new InvalidRequestError(`input '${name}': 'shape' has more than ${MAX_RANK} sizes`);
  }
  shape.push(Number(size));
}

function readOutput(bytes: Uint8Array): OutputMessage {
  const output: OutputMessage = { name: '', parameters: NONE };
  const reader = new WireReader(bytes);
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        output.name = reader.string();
        break;
      case 2:
        output.parameters = withParameter(output.parameters, reader.bytes());
        break;
      default:
        reader.skip();
    }
  }
  return output;
}

/** An entry of a map<string, InferParameter>: key 1, value 2. One without a value is as if it were not there. */
function withParameter(parameters: Parameters, entry: Uint8Array): Parameters {
  if (parameters.size >= MAX_ENTRIES) throw tooMany('parameters');
  let key = '';
  let value: ParameterValue | undefined;
  const reader = new WireReader(entry);
  while (reader.next()) {
    if (reader.field === 1) key = reader.string();
    else if (reader.field === 2) value = readParameter(reader.bytes()) ?? value;
    else reader.skip();
  }
  if (value === undefined) return parameters;
  // The one empty map is shared, every other is this message's own.
  const map =
    parameters === NONE ? new Map<string, ParameterValue>() : (parameters as Map<string, ParameterValue>);
  return map.set(key, value);
}

function readParameter(bytes: Uint8Array): ParameterValue | undefined {
  let value: ParameterValue | undefined;
  const reader = new WireReader(bytes);
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        value = reader.bool();
        break;
      case 2:
        value = reader.int64();
        break;
      case 3:
        value = reader.string();
        break;
      case 4:
        value = reader.double();
        break;
      case 5:
        value = reader.uint64();
        break;
      default:
        reader.skip();
    }
  }
  return value;
}

function bounded<T>(list: T[], what: string): T[] {
  if (list.length >= MAX_ENTRIES) throw tooMany(what);
  return list;
}

function tooMany(what: string): InvalidRequestError {
  return new InvalidRequestError(`the request has more than ${MAX_ENTRIES} ${what}`);
}
