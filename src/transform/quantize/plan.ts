import { InvalidArgumentError } from '../../base/errors.ts';
import { floatAttribute, intAttribute, stringAttribute } from '../../graph/attributes.ts';
import type { Graph, Model, Node } from '../../graph/model.ts';
import { consumersOf, isOutput, subgraphsOf } from '../../graph/walk.ts';
import { inferTypes } from '../../ops/infer.ts';

/** Which values of a network become 8-bit integers, and which nodes compute on them. */
export interface QuantizationPlan {
  /** Nodes that read integers, by their first output. */
  readonly nodes: ReadonlySet<string>;
  /**
   * Values that become integers → the value whose range they are scaled by: their own, or that of the value which they
   * only rearrange (MaxPool, Reshape, …), because engines drop the conversion around such nodes where both agree.
   */
  readonly values: ReadonlyMap<string, string>;
  /** Values of which every reader takes the integers, because a node of the plan makes them. */
  readonly owned: ReadonlySet<string>;
  /** The values whose ranges have to be known. */
  readonly observed: readonly string[];
}

export interface PlanOptions {
  /** Nodes that stay in floating point, by name; a node without one by its first output. */
  readonly exclude?: readonly string[];
}

/**
 * Decides what is quantised. Conv, Gemm and MatMul with stored weights always are. Around them, what ONNX Runtime's CPU
 * provider computes in integers is too, where all that it reads is already available in integers: Add, Mul, Concat,
 * AveragePool, GlobalAveragePool, Sigmoid, LeakyRelu with a range of their own; MaxPool, Reshape, Transpose, Flatten,
 * Squeeze, Unsqueeze, Slice, Split and nearest Resize with that of their input. A Relu or Clip behind one of the former is
 * part of it: quantisation clips by itself. Everything else, and every operator that is not known, stays float.
 * Source: ONNX Runtime, core/optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc (which
 * groups of nodes between DequantizeLinear and QuantizeLinear it replaces), relu_quantizelinear.cc, clip_quantizelinear.cc.
 * @param model prepared by `prepareQuantization`
 * @throws InvalidArgumentError for an excluded name that no node has, and for networks that are quantised already
 */
export function planQuantization(model: Model, options: PlanOptions = {}): QuantizationPlan {
  const { graph } = model;
  checkUnquantized(graph);
  const consumers = consumersOf(graph);
  const excluded = excludedNodes(graph, consumers, options.exclude ?? []);
  const { types } = inferTypes(model);
  const nodes = new Set<string>();
  const values = new Map<string, string>();
  const owned = new Set<string>();
  /** Values that a node of the plan can give as integers if somebody wants them so → whose range they have. */
  const offered = new Map<string, string>();

  const demand = (value: string) => {
    const source = offered.get(value) ?? values.get(value) ?? value;
    values.set(value, source);
    if (offered.has(value)) owned.add(value);
  };
  const isFloat = (value: string) => (types.get(value)?.dtype ?? 'float32') === 'float32';
  const isAvailable = (value: string) => offered.has(value) || values.has(value);

  for (const node of graph.nodes) {
    const role = excluded.has(node) ? undefined : roleOf(node, graph, consumers);
    if (role === undefined) continue;
    const { kind, reads } = role;
    if (!reads.every(isFloat)) continue;
    if (kind !== 'anchor' && !reads.every(isAvailable)) continue;
    const results = node.outputs
      .filter((name) => name !== '')
      .map((name) => (kind === 'carrier' ? name : clippedResult(graph, consumers, name)));
    // The answers of a network stay in floating point, where that costs nothing.
    if (kind !== 'anchor' && results.some((name) => isOutput(graph, name))) continue;
    for (const value of reads) demand(value);
    nodes.add(node.outputs[0]!);
    for (const result of results) {
      if (isOutput(graph, result) && !role.mustRequantize) continue;
      offered.set(result, kind === 'carrier' ? values.get(reads[0]!)! : result);
      if (role.mustRequantize) demand(result);
    }
  }
  return { nodes, values, owned, observed: [...new Set(values.values())] };
}

interface Role {
  /** anchor: has weights; join: computes on integers with a range of its own; carrier: only moves its input. */
  readonly kind: 'anchor' | 'join' | 'carrier';
  /** The activations that it reads. */
  readonly reads: readonly string[];
  /** Whether the integer kernel can give nothing but integers. */
  readonly mustRequantize: boolean;
}

function roleOf(node: Node, graph: Graph, consumers: ReadonlyMap<string, Node[]>): Role | undefined {
  if (node.domain !== '') return undefined;
  const [x, second] = node.inputs;
  if (x === undefined || x === '' || graph.initializers.has(x)) return undefined;
  const anchor = (mustRequantize: boolean): Role => ({ kind: 'anchor', reads: [x], mustRequantize });
  const join = (): Role => ({ kind: 'join', reads: node.inputs, mustRequantize: true });
  const carrier = (): Role => ({ kind: 'carrier', reads: [x], mustRequantize: true });
  switch (node.opType) {
    case 'Conv':
      return hasWeights(node, graph) ? anchor(true) : undefined;
    case 'Gemm': {
      const isPlain =
        intAttribute(node, 'transA', 0) === 0 &&
        floatAttribute(node, 'alpha', 1) === 1 &&
        floatAttribute(node, 'beta', 1) === 1;
      return isPlain && hasWeights(node, graph, 2) ? anchor(false) : undefined;
    }
    case 'MatMul':
      return hasWeights(node, graph, 2) ? anchor(isBiased(node, graph, consumers)) : undefined;
    case 'Add':
    case 'Mul':
      return graph.initializers.has(second ?? '') ? undefined : join();
    case 'Concat':
      return node.inputs.some((name) => graph.initializers.has(name)) ? undefined : join();
    case 'AveragePool':
    case 'GlobalAveragePool':
    case 'Sigmoid':
    case 'LeakyRelu':
      return join();
    case 'MaxPool':
      return node.outputs.length === 1 ? carrier() : undefined;
    case 'Reshape':
    case 'Transpose':
    case 'Flatten':
    case 'Squeeze':
    case 'Unsqueeze':
    case 'Slice':
    case 'Split':
      return carrier();
    case 'Resize':
      return stringAttribute(node, 'mode', 'nearest') === 'nearest' ? carrier() : undefined;
    default:
      return undefined;
  }
}

/**
 * Whether all that reads a product is the addition of a constant. ONNX Runtime would merge the two into a Gemm before it
 * looks for integers, and then find none, so the product is requantised on its own.
 */
function isBiased(node: Node, graph: Graph, consumers: ReadonlyMap<string, Node[]>): boolean {
  const output = node.outputs[0]!;
  const [reader, ...others] = consumers.get(output) ?? [];
  if (reader === undefined || others.length > 0 || isOutput(graph, output)) return false;
  return (
    reader.domain === '' &&
    reader.opType === 'Add' &&
    reader.inputs.some((name) => graph.initializers.has(name))
  );
}

/** Whether weight and bias are stored as float32, and the bias is one value for each output channel. */
function hasWeights(node: Node, graph: Graph, rank?: number): boolean {
  const weight = graph.initializers.get(node.inputs[1] ?? '');
  if (weight?.dtype !== 'float32' || (rank !== undefined && weight.shape.length !== rank)) return false;
  const biasName = node.inputs[2] ?? '';
  if (biasName === '') return true;
  const bias = graph.initializers.get(biasName);
  if (bias?.dtype !== 'float32') return false;
  const channels = weight.shape[channelAxisOf(node)]!;
  // Gemm's bias may also be [M, 1] or [M, N], which integer kernels do not take.
  return bias.shape.length <= 1
    ? [1, channels].includes(bias.shape[0] ?? 1)
    : bias.shape.length === 2 && bias.shape[0] === 1 && [1, channels].includes(bias.shape[1]!);
}

/** The axis of a node's weight along which its output channels lie. */
export function channelAxisOf(node: Node): number {
  if (node.opType === 'Conv') return 0;
  return node.opType === 'Gemm' && intAttribute(node, 'transB', 0) !== 0 ? 0 : 1;
}

/** The value behind the Relu or Clip that alone reads a node's result, else the result itself. */
function clippedResult(graph: Graph, consumers: ReadonlyMap<string, Node[]>, result: string): string {
  const [reader, ...others] = consumers.get(result) ?? [];
  if (reader === undefined || others.length > 0 || isOutput(graph, result)) return result;
  const isClipping = reader.domain === '' && (reader.opType === 'Relu' || reader.opType === 'Clip');
  return isClipping && reader.inputs[0] === result ? reader.outputs[0]! : result;
}

function excludedNodes(
  graph: Graph,
  consumers: ReadonlyMap<string, Node[]>,
  names: readonly string[],
): ReadonlySet<Node> {
  const excluded = new Set<Node>();
  for (const name of names) {
    const matching = graph.nodes.filter((node) => node.name === name || node.outputs[0] === name);
    if (matching.length === 0) {
      const known = graph.nodes
        .filter((node) => roleOf(node, graph, consumers)?.kind === 'anchor')
        .map((node) => node.name || node.outputs[0]!);
      throw new InvalidArgumentError(
        `No node is called "${name}". Nodes with weights that can be excluded: ${known.join(', ')}.`,
      );
    }
    for (const node of matching) excluded.add(node);
  }
  return excluded;
}

const INTEGER_OPERATORS: ReadonlySet<string> = new Set([
  'ConvInteger',
  'DequantizeLinear',
  'DynamicQuantizeLinear',
  'MatMulInteger',
  'QLinearConv',
  'QLinearMatMul',
  'QuantizeLinear',
]);

function checkUnquantized(graph: Graph): void {
  const found = graph.nodes.find((node) => INTEGER_OPERATORS.has(node.opType));
  if (found === undefined) {
    for (const node of graph.nodes) for (const subgraph of subgraphsOf(node)) checkUnquantized(subgraph);
    return;
  }
  throw new InvalidArgumentError(
    `The network is quantised already: it has a ${found.opType} ("${found.name || found.outputs[0]}"). ` +
      'Give the floating-point network that it was made from.',
  );
}
