import { totalmem } from 'node:os';
import { Option } from 'commander';
import { byteLengthOf } from '../base/dtype.ts';
import { InvalidArgumentError } from '../base/errors.ts';
import { elementCount } from '../base/tensor.ts';
import { probeBlockSize } from '../engine/probe-block.ts';
import { checkModel } from '../graph/check.ts';
import type { Model, Shape } from '../graph/model.ts';
import { readModelFile } from '../graph/onnx/read.ts';
import { ShapeError } from '../ops/errors.ts';
import { inferTypes } from '../ops/infer.ts';
import { checkInputShapes } from '../ops/input-shapes.ts';

/** Shapes of inputs by name, as `--shape` gives them. */
export type InputShapes = Readonly<Record<string, readonly number[]>>;

/** Reads a network of anybody's and makes sure that it is a graph. @throws BonsaiError as `readModelFile`, `checkModel` */
export async function readNetwork(file: string): Promise<Model> {
  return (await readNetworkFiles(file)).model;
}

/** The same, with all files that it was read from: its own and those of external data. */
export async function readNetworkFiles(
  file: string,
): Promise<{ readonly model: Model; readonly reads: readonly string[] }> {
  const reads = [file];
  const model = await readModelFile(file, (path) => reads.push(path));
  checkModel(model);
  return { model, reads };
}

export function shapeOption(): Option {
  const given = new Set<string>();
  return new Option(
    '--shape <input=sizes>',
    'fix the sizes of an input that the file leaves open, such as image=1,3,224,224; may be repeated',
  )
    .argParser((text: string, others?: InputShapes) => {
      // Without others it is the configuration's or the environment's, which a flag overrides.
      return others === undefined ? parseShape(text) : parseShape(text, others, given);
    })
    .default({}, "the file's, an open batch counts as 1");
}

/**
 * `image=1,3,224,224` after others.
 * @param given inputs that others were given for on the command line; this one's is added
 * @throws InvalidArgumentError for anything else, and for an input that was given before
 */
export function parseShape(
  text: string,
  others: InputShapes = {},
  given: Set<string> = new Set(),
): InputShapes {
  const at = text.lastIndexOf('=');
  const name = text.slice(0, Math.max(0, at));
  const sizes = text
    .slice(at + 1)
    .split(',')
    .map((part) => (part.trim() === '' ? Number.NaN : Number(part)));
  if (name === '' || !sizes.every((size) => Number.isInteger(size) && size > 0)) {
    throw new InvalidArgumentError(
      `Expected an input and its sizes such as image=1,3,224,224, got "${text}".`,
    );
  }
  if (given.has(name)) {
    throw new InvalidArgumentError(
      `The sizes of the input "${name}" are given twice: ${others[name]?.join(',')} and ${sizes.join(',')}. Give them once.`,
    );
  }
  given.add(name);
  return { ...others, [name]: sizes };
}

/**
 * @throws InvalidArgumentError for inputs that the network lacks, sizes that the file contradicts, and sizes at which a layer
 *   cannot compute
 */
export function checkShapes(model: Model, shapes: InputShapes): void {
  checkInputShapes(model.graph, shapes);
  const given = Object.entries(shapes);
  for (const [name, sizes] of given) {
    const stated = model.graph.inputs.find((input) => input.name === name)?.type?.shape;
    const fits = stated?.every((size, axis) => typeof size !== 'number' || size === sizes[axis]) ?? true;
    if (!fits) {
      throw new InvalidArgumentError(
        `The input "${name}" is ${shapeText(stated)}; the sizes ${sizes.join(',')} do not fit. Only open sizes can be chosen.`,
      );
    }
  }
  if (given.length === 0) return;
  try {
    inferTypes(model, { inputs: shapes });
  } catch (cause) {
    if (!(cause instanceof ShapeError)) throw cause;
    const text = given.map(([name, sizes]) => `--shape ${name}=${sizes.join(',')}`).join(' ');
    throw new InvalidArgumentError(
      `The network cannot compute at ${text}: ${cause.message} Give other sizes.`,
      {
        cause,
      },
    );
  }
}

/**
 * Makes sure that a network can be run at the given sizes before that is tried: the inputs have to be made, and every
 * value of the network fits the memory.
 * @param memoryBytes of the machine
 * @throws InvalidArgumentError naming what is too large, with its size
 */
export function checkRunnable(model: Model, shapes: InputShapes, memoryBytes = totalmem()): void {
  if (Object.keys(shapes).length === 0) return;
  const inputs = new Set(model.graph.inputs.map(({ name }) => name));
  for (const [name, { dtype, shape }] of inferTypes(model, { inputs: shapes }).types) {
    if (shape === undefined || dtype === 'string') continue;
    // What is open counts as one: the least that it can be.
    const sizes = shape.map((size) => (typeof size === 'number' ? size : 1));
    const bytes = byteLengthOf(dtype, elementCount(sizes));
    const isInput = inputs.has(name);
    const most = isInput ? Math.min(memoryBytes, MAX_INPUT_BYTES) : memoryBytes;
    if (bytes <= most) continue;
    throw new InvalidArgumentError(
      `The ${isInput ? 'input' : 'value'} "${name}" takes ${gigabytes(bytes)} GB at [${sizes.join(', ')}]; ` +
        `${most < memoryBytes ? 'an input can have' : 'this machine has'} ${gigabytes(most)} GB. ` +
        'Give smaller sizes (--shape); bonsai inspect counts at any.',
    );
  }
}

/** The longest buffer of every supported Node.js. */
const MAX_INPUT_BYTES = 2 ** 32;

function gigabytes(bytes: number): string {
  return bytes < 1e11 ? (bytes / 1e9).toPrecision(3) : Math.round(bytes / 1e9).toLocaleString('en');
}

export function alignOption(): Option {
  return new Option(
    '--align <multiple>',
    "keep channels at multiples of this: auto is the block that this machine's engine computes in (8, 16; 1: none)",
  )
    .argParser(parseAlign)
    .default('auto');
}

/** The multiple to which kept channels are rounded, 'auto' resolved by asking the engine of this machine. */
export async function resolveAlign(align: 'auto' | number): Promise<number> {
  return align === 'auto' ? probeBlockSize() : align;
}

/** A unit of anybody's engine is far below. */
export const MAX_ALIGN = 256;

export function parseAlign(text: string): 'auto' | number {
  if (text === 'auto') return 'auto';
  const align = Number(text);
  if (text.trim() === '' || !Number.isInteger(align) || align < 1 || align > MAX_ALIGN) {
    throw new InvalidArgumentError(`Expected auto or an integer from 1 to ${MAX_ALIGN}, got "${text}".`);
  }
  return align;
}

/** `[N, 3, 224, 224]`; `?` for sizes of which nothing is known. */
export function shapeText(shape: Shape | undefined): string {
  return shape === undefined ? 'of unknown rank' : `[${shape.map((size) => size ?? '?').join(', ')}]`;
}

/** `1.81 G`, `25.6 M`, `512`: three digits. */
export function compactCount(count: number): string {
  for (const [unit, size] of UNITS) if (count >= size) return `${(count / size).toPrecision(3)} ${unit}`;
  return String(Math.round(count));
}

const UNITS = [
  ['G', 1e9],
  ['M', 1e6],
  ['k', 1e3],
] as const;
