import { createHash } from 'node:crypto';
import { ownValue } from '../../base/own-value.ts';
import { isNumeric } from '../../base/tensor.ts';
import {
  type Graph,
  type Model,
  type Node,
  type Shape,
  type ValueInfo,
  withGraph,
} from '../../graph/model.ts';
import { consumersOf, readsOf } from '../../graph/walk.ts';
import { inferTypes } from '../../ops/infer.ts';

/**
 * Cuts a network into segments that can be measured alone: a convolution or matrix product with the normalisation,
 * activation and addition behind it, which the engine fuses into one kernel; a pooling; a run of reshapes. A node
 * joins the segment of the node before it where it is the only reader of that node's only output and does not
 * multiply matrices itself. Depends on the graph's structure alone, so the segments of a network and of what pruning
 * made of it correspond by the names of their outputs.
 * @returns lists of positions of nodes, each ascending, in the order of their first node
 */
export function segmentsOf(graph: Graph): number[][] {
  const consumers = consumersOf(graph);
  const outputs = new Set(graph.outputs.map(({ name }) => name));
  const segmentEndingIn = new Map<string, number[]>();
  const segments: number[][] = [];
  for (const [index, node] of graph.nodes.entries()) {
    const before = ANCHORS.has(node.opType)
      ? undefined
      : node.inputs.find(
          (name) => segmentEndingIn.has(name) && consumers.get(name)?.length === 1 && !outputs.has(name),
        );
    let segment = before === undefined ? undefined : segmentEndingIn.get(before);
    if (before === undefined || segment === undefined) {
      segment = [];
      segments.push(segment);
    } else segmentEndingIn.delete(before);
    segment.push(index);
    const made = node.outputs.filter((name) => name !== '');
    if (made.length === 1) segmentEndingIn.set(made[0]!, segment);
  }
  return segments;
}

/** Operators that the engine computes with a kernel of their own, whatever stands before them. */
const ANCHORS: ReadonlySet<string> = new Set(['Conv', 'ConvTranspose', 'Gemm', 'MatMul', 'Einsum', 'Concat']);

/**
 * Each segment of a network as a network of its own. Its inputs are the values that it reads from elsewhere, at the
 * shapes they have there.
 * @param inputs shapes of the network's inputs; sizes left open are taken as 1
 * @returns without those that cannot run alone, because a shape or type is unknown
 */
export function extractSegments(
  model: Model,
  inputs: Readonly<Record<string, Shape>> = {},
): ExtractedSegment[] {
  const { graph } = model;
  const { types, constants } = inferTypes(model, {
    inputs: Object.fromEntries(
      graph.inputs.flatMap(({ name, type }) => {
        const shape = ownValue(inputs, name) ?? type?.shape;
        return shape === undefined ? [] : [[name, shape.map(fixed)]];
      }),
    ),
  });
  const consumers = consumersOf(graph);
  const isOutput = new Set(graph.outputs.map(({ name }) => name));
  const infoOf = (name: string): ValueInfo | undefined => {
    const type = types.get(name);
    if (type?.shape === undefined || !isNumeric(type.dtype)) return undefined;
    return { name, type: { dtype: type.dtype, shape: type.shape.map(fixed) } };
  };

  const extracted: ExtractedSegment[] = [];
  for (const segment of segmentsOf(graph)) {
    const nodes = segment.map((index) => graph.nodes[index]!);
    const inside = new Set(nodes);
    const made = new Set(nodes.flatMap((node) => node.outputs));
    const initializers = new Map<string, NonNullable<ReturnType<typeof constants.get>>>();
    const read: (ValueInfo | undefined)[] = [];
    const seen = new Set<string>();
    for (const node of nodes) {
      for (const name of readsOf(node)) {
        if (made.has(name) || seen.has(name)) continue;
        seen.add(name);
        const constant = constants.get(name);
        if (constant === undefined) read.push(infoOf(name));
        else initializers.set(name, constant);
      }
    }
    const written = [...made].filter(
      (name) => name !== '' && (isOutput.has(name) || consumers.get(name)?.some((node) => !inside.has(node))),
    );
    const outputs = written.map(infoOf);
    if (read.includes(undefined) || outputs.includes(undefined) || outputs.length === 0 || read.length === 0)
      continue;
    const part: Graph = {
      ...graph,
      nodes,
      initializers,
      inputs: read.filter((info) => info !== undefined),
      outputs: outputs.filter((info) => info !== undefined),
      valueInfos: new Map(),
    };
    extracted.push({
      outputs: nodes.map((node) => node.outputs[0] ?? ''),
      model: withGraph({ ...model, metadata: new Map() }, part),
      signature: signatureOf(part),
    });
  }
  return extracted;
}

export interface ExtractedSegment {
  /** The first output of each of its nodes. */
  readonly outputs: readonly string[];
  readonly model: Model;
  /** Equal for segments that do the same work: structure, attributes and shapes, whatever names and weights. */
  readonly signature: string;
}

function signatureOf(graph: Graph): string {
  const numbers = new Map<string, number>();
  const numberOf = (name: string) => {
    if (name === '') return -1;
    if (!numbers.has(name)) numbers.set(name, numbers.size);
    return numbers.get(name)!;
  };
  const description = {
    nodes: graph.nodes.map((node: Node) => [
      node.domain,
      node.opType,
      node.inputs.map(numberOf),
      node.outputs.map(numberOf),
      [...node.attributes].sort(([a], [b]) => (a < b ? -1 : 1)),
    ]),
    inputs: graph.inputs.map(({ name, type }) => [numberOf(name), type]),
    outputs: graph.outputs.map(({ name }) => numberOf(name)),
    initializers: [...graph.initializers].map(([name, { dtype, shape, bytes }]) => [
      numberOf(name),
      dtype,
      shape,
      // Small integers are shapes and axes: the work depends on them.
      dtype === 'int64' || dtype === 'int32' ? [...bytes.subarray(0, SIGNATURE_BYTES)] : 0,
    ]),
  };
  const text = JSON.stringify(description, (_, value: unknown) => plain(value));
  return createHash('sha256').update(text).digest('hex');
}

/** Shapes of up to 64 axes: whoever has longer integer constants indexes with them, at the same cost. */
const SIGNATURE_BYTES = 512;

function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return String(value);
  if (value instanceof Map) return [...value];
  return value;
}

function fixed(size: Shape[number]): number {
  return typeof size === 'number' ? size : 1;
}
