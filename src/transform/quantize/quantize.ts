import { InvalidArgumentError } from '../../base/errors.ts';
import { float32Tensor, scalarTensor, type Tensor, tensorOf } from '../../base/tensor.ts';
import { GraphBuilder } from '../../graph/build.ts';
import { checkModel } from '../../graph/check.ts';
import { type Graph, type Model, type Node, withGraph } from '../../graph/model.ts';
import { isOutput, namesIn, producersOf, removeUnused } from '../../graph/walk.ts';
import { type ActivationScale, activationScale, quantizeWeight, type Range } from './integers.ts';
import { channelAxisOf, type PlanOptions, planQuantization, type QuantizationPlan } from './plan.ts';
import { prepareQuantization } from './prepare.ts';

export interface QuantizeOptions extends PlanOptions {
  /**
   * Weights in 7 bits. For CPUs whose kernels saturate on 8 (x86 without VNNI): `probeSaturation` of the engine tells.
   * Default false.
   */
  readonly reduceRange?: boolean;
}

/**
 * A network in 8-bit integers, in the QDQ form: floating-point operators between DequantizeLinear and QuantizeLinear,
 * which engines replace by integer kernels. Weights are symmetric int8 with a scale for each output channel,
 * activations asymmetric uint8 with one scale, biases int32 at the scale of the products. `planQuantization` says which
 * nodes take part; inputs and outputs of the network stay float.
 * Source: ONNX Runtime's documentation, "Quantize ONNX models" (QDQ form); U8S8 because it is the fastest on x86.
 * @param ranges of the values that `observedValues` names, from calibration
 * @throws InvalidArgumentError where a range is missing, nothing can be quantised, the network is quantised already, or
 *   an excluded node does not exist; BonsaiError `unsupported` as `liftOpset`
 */
export function quantize(
  model: Model,
  ranges: ReadonlyMap<string, Range>,
  options: QuantizeOptions = {},
): Model {
  const prepared = prepareQuantization(model);
  const plan = fullPlan(prepared, options);
  const quantized = withGraph(
    prepared,
    rewritten(prepared.graph, plan, scalesOf(prepared, plan, ranges), options),
  );
  checkModel(quantized);
  return quantized;
}

/** What `quantize` refuses whatever the ranges are, before calibrating. @throws as `quantize` does */
export function checkQuantizable(model: Model, options: PlanOptions = {}): void {
  fullPlan(prepareQuantization(model), options);
}

/** @throws InvalidArgumentError for a plan of nothing, and as `planQuantization` */
function fullPlan(prepared: Model, options: PlanOptions): QuantizationPlan {
  const plan = planQuantization(prepared, options);
  if (plan.nodes.size > 0) return plan;
  throw new InvalidArgumentError(
    'Nothing in the network can be quantised: no Conv, Gemm or MatMul with stored float32 weights is left.',
  );
}

/** The values whose ranges `quantize` needs, by their names in the prepared network. */
export function observedValues(model: Model, options: PlanOptions = {}): readonly string[] {
  return planQuantization(prepareQuantization(model), options).observed;
}

function scalesOf(
  { graph }: Model,
  plan: QuantizationPlan,
  ranges: ReadonlyMap<string, Range>,
): ReadonlyMap<string, ActivationScale> {
  const missing = plan.observed.filter((name) => !ranges.has(name));
  if (missing.length > 0) {
    throw new InvalidArgumentError(
      `The ranges of ${missing.length} values are missing, the first is "${missing[0]}". Calibrate the same network with ` +
        'the same excluded nodes.',
    );
  }
  const producers = producersOf(graph);
  const scales = new Map<string, ActivationScale>();
  for (const [value, source] of plan.values) {
    scales.set(value, activationScale(ranges.get(source)!, boundOf(producers.get(source), graph)));
  }
  return scales;
}

/** The constant maximum of a Clip. */
function boundOf(node: Node | undefined, graph: Graph): number | undefined {
  if (node?.opType !== 'Clip' || node.domain !== '') return undefined;
  const tensor = graph.initializers.get(node.inputs[2] ?? '');
  if (tensor?.dtype !== 'float32') return undefined;
  const bound = new DataView(tensor.bytes.buffer, tensor.bytes.byteOffset).getFloat32(0, true);
  return bound > 0 ? bound : undefined;
}

function rewritten(
  graph: Graph,
  plan: QuantizationPlan,
  scales: ReadonlyMap<string, ActivationScale>,
  options: QuantizeOptions,
): Graph {
  const build = new GraphBuilder(graph.name, { ...graph, nodes: [] });
  build.avoid(namesIn(graph));
  /** What DequantizeLinear makes of a value. */
  const dequantized = new Map<string, string>();
  /** Outputs of the network keep their names, so what they are made from takes another. */
  const renamed = new Map<string, string>();
  const parameters = new Map<string, [scale: string, zeroPoint: string]>();

  const fresh = (value: string, suffix: string) => build.fresh(`${value}_${suffix}`);
  const parametersOf = ({ scale, zeroPoint }: ActivationScale) => {
    const key = `${scale} ${zeroPoint}`;
    const known = parameters.get(key);
    if (known !== undefined) return known;
    const made: [string, string] = [
      build.constant(scalarTensor(scale), 'activation_scale'),
      build.constant(tensorOf('uint8', [], Uint8Array.of(zeroPoint)), 'activation_zero_point'),
    ];
    parameters.set(key, made);
    return made;
  };
  const addPair = (value: string) => {
    const scale = scales.get(value);
    if (scale === undefined) return;
    const [s, z] = parametersOf(scale);
    const q = build.op(
      'QuantizeLinear',
      [renamed.get(value) ?? value, s, z],
      {},
      { outputs: [fresh(value, 'quantized')] },
    );
    const name = renamed.has(value) ? value : fresh(value, 'dequantized');
    // Named apart from its output, which may be called like the node that made it before.
    build.op('DequantizeLinear', [q, s, z], {}, { outputs: [name], name: fresh(value, 'dequantize') });
    dequantized.set(value, name);
  };

  for (const value of plan.owned) if (isOutput(graph, value)) renamed.set(value, fresh(value, 'raw'));
  for (const { name } of graph.inputs) addPair(name);
  for (const node of graph.nodes) {
    const isPlanned = plan.nodes.has(node.outputs[0] ?? '');
    const read = (value: string) =>
      isPlanned || plan.owned.has(value) ? (dequantized.get(value) ?? value) : value;
    let inputs = node.inputs.map((name) => (name === '' ? '' : read(name)));
    if (isPlanned && ['Conv', 'Gemm', 'MatMul'].includes(node.opType)) {
      inputs = [inputs[0]!, ...weightInputs(node, graph, build, scales.get(node.inputs[0]!)!, options)];
    }
    build.node({ ...node, inputs, outputs: node.outputs.map((name) => renamed.get(name) ?? name) });
    for (const output of node.outputs) if (output !== '') addPair(output);
  }
  return removeUnused({ ...graph, ...build.finish(), docString: graph.docString });
}

/** Adds a node's weight and bias in integers; returns what DequantizeLinear makes of them. */
function weightInputs(
  node: Node,
  graph: Graph,
  build: GraphBuilder,
  input: ActivationScale,
  options: QuantizeOptions,
): string[] {
  const name = node.inputs[1]!;
  const biasName = node.inputs[2] ?? '';
  const axis = channelAxisOf(node);
  const bias = graph.initializers.get(biasName);
  const made = quantizeWeight(graph.initializers.get(name)!, axis, {
    bias,
    inputScale: input.scale,
    reduceRange: options.reduceRange,
  });
  const channels = made.scale.length;
  const vector = (values: Float32Array, hint: string) =>
    build.constant(float32Tensor([channels], values), hint);
  const dequantize = (integers: Tensor, scale: Float32Array, zeros: Tensor, hint: string, along: number) =>
    build.op(
      'DequantizeLinear',
      [
        build.constant(integers, `${hint}_quantized`),
        vector(scale, `${hint}_scale`),
        build.constant(zeros, `${hint}_zero_point`),
      ],
      { axis: along },
      { outputs: [build.fresh(`${hint}_dequantized`)] },
    );
  const weightZeros = tensorOf('int8', [channels], new Int8Array(channels));
  const weight = dequantize(made.weight, made.scale, weightZeros, name, axis);
  if (made.bias === undefined) return [weight];
  const biasZeros = tensorOf('int32', [channels], new Int32Array(channels));
  return [weight, dequantize(made.bias, made.biasScale, biasZeros, biasName, 0)];
}
