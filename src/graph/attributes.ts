import { BonsaiError } from '../base/errors.ts';
import type { Tensor } from '../base/tensor.ts';
import type { Attribute, Node } from './model.ts';

/** What a builder call may give as an attribute; numbers that are integers become `int`s. Use `float()` to say otherwise. */
export type AttributeValue =
  | number
  | bigint
  | string
  | readonly number[]
  | readonly string[]
  | Tensor
  | Attribute;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A float attribute, for values such as 1.0 that would be taken for integers. */
export function float(value: number): Attribute {
  return { kind: 'float', value };
}

export function floats(value: readonly number[]): Attribute {
  return { kind: 'floats', value };
}

export function toAttribute(value: AttributeValue): Attribute {
  if (typeof value === 'bigint') return { kind: 'int', value };
  if (typeof value === 'number') {
    return Number.isInteger(value) ? { kind: 'int', value: BigInt(value) } : { kind: 'float', value };
  }
  if (typeof value === 'string') return { kind: 'string', value: encoder.encode(value) };
  if ('kind' in value) return value;
  if ('dtype' in value) return { kind: 'tensor', value };
  const items = value as readonly (number | string)[]; // The remaining alternatives are the two array types.
  if (items.every((item) => typeof item === 'string')) {
    return { kind: 'strings', value: items.map((item) => encoder.encode(item)) };
  }
  const numbers = items as readonly number[];
  return numbers.every((item) => Number.isInteger(item))
    ? { kind: 'ints', value: numbers.map(BigInt) }
    : { kind: 'floats', value: numbers };
}

/** An int attribute as a number, clamped to ±2^53 (ONNX files use INT64_MAX for "to the end"). */
export function intAttribute(node: Node, name: string, fallback: number): number;
export function intAttribute(node: Node, name: string): number | undefined;
export function intAttribute(node: Node, name: string, fallback?: number): number | undefined {
  const attribute = expect(node, name, 'int');
  return attribute === undefined ? fallback : clampToSafe(attribute.value);
}

export function intsAttribute(node: Node, name: string, fallback: readonly number[]): readonly number[];
export function intsAttribute(node: Node, name: string): readonly number[] | undefined;
export function intsAttribute(
  node: Node,
  name: string,
  fallback?: readonly number[],
): readonly number[] | undefined {
  const attribute = expect(node, name, 'ints');
  return attribute === undefined ? fallback : attribute.value.map(clampToSafe);
}

export function floatAttribute(node: Node, name: string, fallback: number): number;
export function floatAttribute(node: Node, name: string): number | undefined;
export function floatAttribute(node: Node, name: string, fallback?: number): number | undefined {
  return expect(node, name, 'float')?.value ?? fallback;
}

export function stringAttribute(node: Node, name: string, fallback: string): string;
export function stringAttribute(node: Node, name: string): string | undefined;
export function stringAttribute(node: Node, name: string, fallback?: string): string | undefined {
  const attribute = expect(node, name, 'string');
  return attribute === undefined ? fallback : decoder.decode(attribute.value);
}

export function tensorAttribute(node: Node, name: string): Tensor | undefined {
  return expect(node, name, 'tensor')?.value;
}

/** How an error names a node: its operator and, where it has one, its name. */
export function describeNode(node: Node): string {
  return node.name
    ? `${node.opType} (node "${node.name}")`
    : `${node.opType} (output "${node.outputs[0] ?? ''}")`;
}

function expect<K extends Attribute['kind']>(
  node: Node,
  name: string,
  kind: K,
): Extract<Attribute, { kind: K }> | undefined {
  const attribute = node.attributes.get(name);
  if (attribute === undefined) return undefined;
  if (attribute.kind !== kind) {
    throw new BonsaiError(
      'invalid_graph',
      `${describeNode(node)}: attribute "${name}" should be of kind ${kind}, the file has ${attribute.kind}.`,
    );
  }
  return attribute as Extract<Attribute, { kind: K }>; // Its kind was just compared.
}

const SAFE = BigInt(Number.MAX_SAFE_INTEGER);

function clampToSafe(value: bigint): number {
  return Number(value > SAFE ? SAFE : value < -SAFE ? -SAFE : value);
}
