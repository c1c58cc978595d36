import { Option } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
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
  return new Option(
    '--shape <input=sizes>',
    'fix the sizes of an input that the file leaves open, such as image=1,3,224,224; may be repeated',
  )
    .argParser(parseShape)
    .default({}, "the file's, an open batch counts as 1");
}

/** `image=1,3,224,224` after others. @throws InvalidArgumentError for anything else */
export function parseShape(text: string, others: InputShapes = {}): InputShapes {
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
