import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { isHalf } from '../../base/half.ts';
import { elementCount, float32Tensor, floatsOf, type Tensor } from '../../base/tensor.ts';
import { type Model, type Node, withGraph } from '../../graph/model.ts';
import { NORMALIZATION_PREFIX } from '../../ops/parameters.ts';

/** A trained tensor's place in the flat vector of all parameters. */
export interface ParameterSlot {
  /** The initialiser's name in the network. */
  readonly name: string;
  readonly shape: readonly number[];
  /** First element in the flat vector, and how many follow. */
  readonly offset: number;
  readonly size: number;
}

/** A tensor that steps carry along without a gradient: running averages. */
export interface StateSlot {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Metadata key: a JSON list of initialisers that training leaves alone. */
export const FROZEN_KEY = 'bonsai.frozen';

/**
 * Names of the initialisers that training may change, in the order of their first use: float32 weights and biases of
 * Conv, ConvTranspose, Gemm and MatMul, scale and shift of normalisations, slopes of PRelu, and channel-wise constants
 * (one axis larger than 1) of Add, Sub, Mul and Div. Left out are those that the metadata calls frozen.
 * @throws BonsaiError `invalid_graph` if that metadata is not a list of names
 */
export function trainableParameters(model: Model): string[] {
  const frozen = new Set(frozenNames(model));
  const found = new Set<string>();
  for (const node of model.graph.nodes) {
    for (const [input, name] of node.inputs.entries()) {
      const tensor = model.graph.initializers.get(name);
      if (tensor?.dtype !== 'float32' || frozen.has(name) || name.startsWith(NORMALIZATION_PREFIX)) continue;
      if (isTrainableInput(node, input, tensor)) found.add(name);
    }
  }
  return [...found];
}

/** @throws InvalidArgumentError, BonsaiError `unsupported` where nothing of a network could be trained; both say what to do */
export function checkTrainable(model: Model): void {
  if (trainableParameters(model).length === 0) throw nothingToTrain(model);
}

/** What is wrong with a network of which nothing can be trained. */
export function nothingToTrain({ graph }: Model): BonsaiError {
  const half = [...graph.initializers].find(([, { dtype }]) => isHalf(dtype));
  if (half !== undefined) {
    const [name, { dtype }] = half;
    return new BonsaiError(
      'unsupported',
      `The network's weights are ${dtype} ("${name}"), and training computes in float32. Give the float32 network that it was ` +
        'converted from, or convert it (`singlePrecision` of the library).',
    );
  }
  const isQuantized = graph.nodes.some(
    ({ opType }) => opType === 'DequantizeLinear' || opType.startsWith('QLinear'),
  );
  return new InvalidArgumentError(
    isQuantized
      ? 'The network is quantised: its weights are integers, which cannot be trained. Give the floating-point network that it was made from; `bonsai port --int8` makes quantised variants of it.'
      : 'The network has no parameter that could be trained.',
  );
}

/** The current values of a network, laid out as its training step takes them. */
export function readParameters(
  model: Model,
  step: {
    readonly parameters: readonly ParameterSlot[];
    readonly parameterCount: number;
    readonly state: readonly StateSlot[];
  },
): { parameters: Float32Array; state: Record<string, Float32Array> } {
  const parameters = new Float32Array(step.parameterCount);
  for (const slot of step.parameters) parameters.set(valuesOf(model, slot), slot.offset);
  // Object.fromEntries would do, but a name such as "__proto__" must stay a plain key.
  const state: Record<string, Float32Array> = Object.create(null);
  for (const slot of step.state) state[slot.name] = valuesOf(model, slot).slice();
  return { parameters, state };
}

/** The network with these values in place of its own; the rest is shared with `model`. */
export function writeParameters(
  model: Model,
  step: {
    readonly parameters: readonly ParameterSlot[];
    readonly parameterCount: number;
    readonly state: readonly StateSlot[];
  },
  parameters: Float32Array,
  state: Readonly<Record<string, Float32Array>>,
): Model {
  if (parameters.length !== step.parameterCount) {
    throw new BonsaiError(
      'shape_mismatch',
      `The training step has ${step.parameterCount} parameters, got ${parameters.length}.`,
    );
  }
  const initializers = new Map(model.graph.initializers);
  for (const { name, shape, offset, size } of step.parameters) {
    initializers.set(name, float32Tensor(shape, parameters.slice(offset, offset + size)));
  }
  for (const { name, shape } of step.state) {
    const values = state[name];
    if (values === undefined) throw new BonsaiError('invalid_argument', `The state has no "${name}".`);
    initializers.set(name, float32Tensor(shape, values.slice()));
  }
  return withGraph(model, { ...model.graph, initializers });
}

function valuesOf(model: Model, slot: { name: string; shape: readonly number[] }): Float32Array {
  const tensor = model.graph.initializers.get(slot.name);
  if (tensor === undefined || tensor.shape.join() !== slot.shape.join()) {
    throw new BonsaiError(
      'shape_mismatch',
      `The training step expects an initialiser "${slot.name}" of shape [${slot.shape.join(', ')}], ` +
        `the network has ${tensor === undefined ? 'none' : `[${tensor.shape.join(', ')}]`}.`,
    );
  }
  return floatsOf(tensor);
}

function isTrainableInput(node: Node, input: number, tensor: Tensor): boolean {
  if (node.domain !== '' && node.domain !== 'ai.onnx') return false;
  switch (node.opType) {
    case 'Conv':
    case 'ConvTranspose':
    case 'Gemm':
    case 'MatMul':
      return true;
    case 'BatchNormalization':
    case 'InstanceNormalization':
    case 'LayerNormalization':
      return input === 1 || input === 2;
    case 'PRelu':
      return input === 1;
    case 'Add':
    case 'Sub':
    case 'Mul':
    case 'Div':
      return elementCount(tensor.shape) > 1 && tensor.shape.filter((size) => size > 1).length === 1;
    default:
      return false;
  }
}

function frozenNames(model: Model): string[] {
  const text = model.metadata.get(FROZEN_KEY);
  if (text === undefined) return [];
  let names: unknown;
  try {
    names = JSON.parse(text);
  } catch {
    names = undefined;
  }
  if (Array.isArray(names) && names.every((name) => typeof name === 'string')) return names;
  throw new BonsaiError(
    'invalid_graph',
    `Metadata "${FROZEN_KEY}" should be a JSON list of names, got: ${text}`,
  );
}
