import { BonsaiError } from '../../base/errors.ts';
import { float32Tensor, int64Tensor, scalarTensor, type Tensor } from '../../base/tensor.ts';
import {
  describeNode,
  floatAttribute,
  intAttribute,
  intsAttribute,
  stringAttribute,
} from '../../graph/attributes.ts';
import { type AttributeValues, GraphBuilder } from '../../graph/build.ts';
import { type Model, type Node, opsetOf, type Shape, withGraph } from '../../graph/model.ts';
import { namesIn, removeUnused, subgraphsOf } from '../../graph/walk.ts';
import { inferTypes } from '../../ops/infer.ts';

/**
 * The operator set in which the last attributes of common operators became inputs, Softmax took one axis, and
 * QuantizeLinear and DequantizeLinear learnt one scale per channel.
 */
export const LIFTED_OPSET = 13;
/** The IR version that came with it. */
const LIFTED_IR_VERSION = 7;
/** Operators broadcast by attributes before this version, a form that is not converted. */
export const OLDEST_LIFTED_OPSET = 7;

/**
 * The same network in operator set 13 where it is written in an older one: attributes that became inputs (Clip, Pad,
 * Slice, Split, Squeeze, …) are moved, Upsample becomes Resize, and Softmax over several axes is written out.
 * Source: the ONNX operator changelog, versions 7 to 13.
 * @returns the model itself where it is new enough
 * @throws BonsaiError `unsupported` for older sets, subgraphs, and nodes that have no equivalent
 */
export function liftOpset(model: Model): Model {
  const opset = opsetOf(model) ?? 1;
  if (opset >= LIFTED_OPSET) return model;
  if (opset < OLDEST_LIFTED_OPSET) {
    throw new BonsaiError(
      'unsupported',
      `The network is written in operator set ${opset}; sets from ${OLDEST_LIFTED_OPSET} on can be lifted to ` +
        `${LIFTED_OPSET}, which quantising and training need. Export it again with a newer one.`,
    );
  }
  const { graph } = model;
  const { types } = inferTypes(model);
  const build = new GraphBuilder(graph.name, { ...graph, nodes: [] });
  build.avoid(namesIn(graph));
  for (const node of graph.nodes) {
    if (subgraphsOf(node).length > 0) throw cannotLift(node, opset, 'it holds a graph of its own');
    const converter = node.domain === '' ? CONVERTERS.get(node.opType) : undefined;
    if (converter === undefined || opset >= converter.until) {
      build.node(node);
      continue;
    }
    const given: Given = {
      node,
      opset,
      build,
      shape: types.get(node.inputs[0] ?? '')?.shape,
      constant: (input) => graph.initializers.get(node.inputs[input] ?? ''),
    };
    converter.convert(given);
  }
  const lifted = { ...graph, ...build.finish(), docString: graph.docString };
  const opsets = model.opsets.map((entry) =>
    entry.domain === '' ? { ...entry, version: LIFTED_OPSET } : entry,
  );
  return {
    ...withGraph(model, removeUnused(lifted)),
    opsets,
    irVersion: Math.max(model.irVersion, LIFTED_IR_VERSION),
  };
}

interface Given {
  readonly node: Node;
  readonly opset: number;
  readonly build: GraphBuilder;
  /** Of input 0. */
  readonly shape: Shape | undefined;
  constant(input: number): Tensor | undefined;
}

interface Converter {
  /** The operator set from which on a node needs no conversion. */
  readonly until: number;
  readonly convert: (given: Given) => void;
}

/** Adds the node in its new form, under its old outputs, without the attributes that became inputs. */
function emit(
  { node, build }: Given,
  change: {
    opType?: string;
    inputs?: readonly (string | undefined)[];
    drop?: readonly string[];
    set?: AttributeValues;
  },
): void {
  const kept = [...node.attributes].filter(([name]) => !change.drop?.includes(name));
  build.ops(
    change.opType ?? node.opType,
    change.inputs ?? node.inputs,
    { ...Object.fromEntries(kept), ...change.set },
    { outputs: node.outputs, name: node.name },
  );
}

/** An attribute with a list of integers that became an input. */
function intsToInput(attribute: string): Converter['convert'] {
  return (given) => {
    const values = intsAttribute(given.node, attribute);
    const input =
      values && given.build.constant(int64Tensor(values), `${given.node.outputs[0]}_${attribute}`);
    emit(given, { inputs: [given.node.inputs[0], input], drop: [attribute] });
  };
}

const CONVERTERS: ReadonlyMap<string, Converter> = new Map<string, Converter>([
  ['BatchNormalization', { until: 9, convert: convertBatchNorm }],
  ['Clip', { until: 11, convert: convertClip }],
  ['Dropout', { until: 12, convert: convertDropout }],
  ['Hardmax', { until: 13, convert: convertSoftmax }],
  ['LogSoftmax', { until: 13, convert: convertSoftmax }],
  ['Pad', { until: 11, convert: convertPad }],
  ['ReduceSum', { until: 13, convert: intsToInput('axes') }],
  ['Resize', { until: 11, convert: (given) => convertResize(given, given.node.inputs[1]) }],
  ['Scan', { until: 9, convert: refuse('its batch axis was dropped') }],
  ['Scatter', { until: 11, convert: (given) => emit(given, { opType: 'ScatterElements' }) }],
  ['Slice', { until: 10, convert: convertSlice }],
  ['Softmax', { until: 13, convert: convertSoftmax }],
  ['Split', { until: 13, convert: intsToInput('split') }],
  ['Squeeze', { until: 13, convert: intsToInput('axes') }],
  ['TopK', { until: 10, convert: convertTopK }],
  ['Unsqueeze', { until: 13, convert: intsToInput('axes') }],
  ['Upsample', { until: 10, convert: convertUpsample }],
]);

function convertBatchNorm(given: Given): void {
  if (intAttribute(given.node, 'spatial', 1) !== 1) {
    throw cannotLift(given.node, given.opset, 'it normalises every position by itself (spatial = 0)');
  }
  emit(given, { drop: ['spatial'] });
}

function convertClip(given: Given): void {
  const { node, build } = given;
  const bound = (name: string) => {
    const value = floatAttribute(node, name);
    return value === undefined
      ? undefined
      : build.constant(scalarTensor(value), `${node.outputs[0]}_${name}`);
  };
  emit(given, { inputs: [node.inputs[0], bound('min'), bound('max')], drop: ['min', 'max'] });
}

/** At inference a Dropout passes its input on, so its ratio does not matter. */
function convertDropout(given: Given): void {
  emit(given, { inputs: given.node.inputs.slice(0, 1), drop: ['ratio'] });
}

function convertPad(given: Given): void {
  const { node, build } = given;
  const pads = build.constant(int64Tensor(intsAttribute(node, 'pads', [])), `${node.outputs[0]}_pads`);
  const value = floatAttribute(node, 'value', 0);
  const filler = value === 0 ? undefined : build.constant(scalarTensor(value), `${node.outputs[0]}_value`);
  emit(given, { inputs: [node.inputs[0], pads, filler], drop: ['pads', 'value'] });
}

function convertSlice(given: Given): void {
  const { node, build } = given;
  const vector = (name: string) => {
    const values = intsAttribute(node, name);
    return values && build.constant(int64Tensor(values), `${node.outputs[0]}_${name}`);
  };
  emit(given, {
    inputs: [node.inputs[0], vector('starts'), vector('ends'), vector('axes')],
    drop: ['starts', 'ends', 'axes'],
  });
}

function convertTopK(given: Given): void {
  const { node, build } = given;
  const k = build.constant(int64Tensor([intAttribute(node, 'k', 1)]), `${node.outputs[0]}_k`);
  emit(given, { inputs: [node.inputs[0], k], drop: ['k'] });
}

function convertUpsample(given: Given): void {
  const { node, build, opset } = given;
  const attribute = node.attributes.get('scales');
  const scales = attribute?.kind === 'floats' ? attribute.value : undefined;
  if (opset < 9 && scales === undefined) throw cannotLift(node, opset, 'it states no scales');
  const input =
    scales === undefined
      ? node.inputs[1]
      : build.constant(float32Tensor([scales.length], scales), `${node.outputs[0]}_scales`);
  convertResize(given, input);
}

/** Before version 11, positions were scaled from the corner and rounded down. */
function convertResize(given: Given, scales: string | undefined): void {
  const { node, build } = given;
  const roi = build.constant(float32Tensor([0], []), `${node.outputs[0]}_roi`);
  const mode = stringAttribute(node, 'mode', 'nearest');
  emit(given, {
    opType: 'Resize',
    inputs: [node.inputs[0], roi, scales],
    drop: ['scales'],
    set: {
      mode,
      coordinate_transformation_mode: 'asymmetric',
      ...(mode === 'nearest' && { nearest_mode: 'floor' }),
    },
  });
}

/**
 * Before version 13, Softmax ran over all axes from `axis` on together. Where only one of them has a size above 1 that
 * is one axis; else the value is flattened and shaped back.
 */
function convertSoftmax(given: Given): void {
  const { node, build, shape, opset } = given;
  const stated = intAttribute(node, 'axis', 1);
  const rank = shape?.length;
  const axis = stated < 0 && rank !== undefined ? stated + rank : stated;
  if (axis < 0) throw cannotLift(node, opset, `its axis is ${axis} and the rank of its input is not known`);
  if (shape !== undefined) {
    const wide = shape.flatMap((size, i) => (i >= axis && size !== 1 ? [i] : []));
    if (wide.length <= 1) {
      emit(given, { set: { axis: wide[0] ?? Math.min(axis, shape.length - 1) } });
      return;
    }
  }
  const x = node.inputs[0]!;
  const sizes = build.op('Shape', [x]);
  const flat = build.op('Flatten', [x], { axis });
  const scores = build.op(node.opType, [flat], { axis: 1 });
  build.ops('Reshape', [scores, sizes], {}, { outputs: node.outputs, name: node.name });
}

function refuse(reason: string): Converter['convert'] {
  return ({ node, opset }) => {
    throw cannotLift(node, opset, reason);
  };
}

function cannotLift(node: Node, opset: number, reason: string): BonsaiError {
  return new BonsaiError(
    'unsupported',
    `${describeNode(node)} of operator set ${opset} cannot be lifted to ${LIFTED_OPSET}, which quantising and training need: ` +
      `${reason}. Export the network again with operator set ${LIFTED_OPSET} or newer.`,
  );
}
