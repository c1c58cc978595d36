import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { elementCount, float32Tensor } from '../../base/tensor.ts';
import { describeNode } from '../../graph/attributes.ts';
import { DEFAULT_OPSET, GraphBuilder, modelOf } from '../../graph/build.ts';
import { type Model, type Node, opsetOf } from '../../graph/model.ts';
import { COMPOUND_DOMAIN } from '../../ops/compound.ts';
import { inferTypes } from '../../ops/infer.ts';
import { recordFor } from '../../ops/table.ts';
import { addBackward, staticShape } from './backward.ts';
import { type ParameterSlot, type StateSlot, trainableParameters } from './parameters.ts';

export { readParameters, trainableParameters, writeParameters } from './parameters.ts';

export interface TrainingStepOptions {
  /** Images per step; fixed, because gradients are written for known sizes. */
  readonly batch: number;
  /** [C, H, W] other than the network's own: one with global pooling trains at any resolution. */
  readonly inputShape?: readonly number[];
  readonly loss?: 'cross-entropy';
  /** Share of the target that is spread evenly over all classes. Default 0. */
  readonly labelSmoothing?: number;
  readonly momentum: number;
  readonly nesterov: boolean;
  /** Added to the gradient as weightDecay · w, for tensors of rank 2 and more only (not biases and scales). */
  readonly weightDecay: number;
  /**
   * λ of λ·Σ|γ| over the scales of BatchNormalization, which the objective gains (network slimming, Liu et al. 2017):
   * their gradient gains λ·sign(γ). Default 0.
   */
  readonly scaleL1?: number;
  /** Parameters to leave as they are, besides those that the network's metadata names. */
  readonly frozen?: (parameter: string) => boolean;
}

/**
 * One step of stochastic gradient descent as a graph. Gradients are written with compound operators (`ops/compound`):
 * `lowerTrainingStep` turns it into one that an engine runs.
 *
 * Inputs: the network's own input, float32 [batch, C, H, W]; `label` int64 [batch]; `learning_rate` float32 scalar;
 * `parameters` and `velocity`, flat float32; `state/<name>` for each running average.
 * Outputs: `loss`, the mean over the batch, and `correct`, how many were predicted right (float32 scalars);
 * `parameters_next`, `velocity_next`, `state_next/<name>`: the inputs of the next step.
 */
export interface TrainingStep {
  readonly model: Model;
  readonly parameters: readonly ParameterSlot[];
  readonly parameterCount: number;
  readonly state: readonly StateSlot[];
}

/**
 * Writes forward pass, loss, backward pass and update of a classifier into one graph:
 * v′ = momentum · v + (gradient + decay); w′ = w − rate · v′, or with Nesterov w − rate · (gradient + momentum · v′).
 * The network has one input [N, C, H, W] (or [N, features]) and its first output is logits [N, classes].
 * @throws MissingRuleError for an operator that cannot be differentiated
 * @throws InvalidArgumentError for options out of range
 * @throws BonsaiError `unsupported` for networks of another form, `invalid_graph` where sizes are unknown
 */
export function buildTrainingStep(network: Model, options: TrainingStepOptions): TrainingStep {
  checkOptions(options);
  const model = atOwnOpset(network);
  const { graph } = model;
  const input = graph.inputs[0];
  const logits = graph.outputs[0]?.name;
  if (graph.inputs.length !== 1 || input?.type?.shape === undefined || logits === undefined) {
    throw new BonsaiError(
      'unsupported',
      `Training needs a network with one input, this has ${graph.inputs.length}.`,
    );
  }
  const imageShape = [options.batch, ...(options.inputShape ?? input.type.shape.slice(1))];
  const { types, constants } = inferTypes(model, { inputs: { [input.name]: imageShape } });
  const outputShape = types.get(logits)?.shape;
  const classes = outputShape?.[1];
  if (outputShape?.length !== 2 || outputShape[0] !== options.batch || typeof classes !== 'number') {
    throw new BonsaiError(
      'unsupported',
      `Training needs logits of shape [${options.batch}, classes] in output "${logits}", ` +
        `found [${outputShape?.map((size) => size ?? '?').join(', ') ?? 'unknown'}].`,
    );
  }

  const build = new GraphBuilder('training_step');
  build.avoid([...graph.initializers.keys(), ...graph.nodes.flatMap((node) => node.outputs)]);
  build.input(input.name, input.type.dtype, imageShape);
  const label = build.input('label', 'int64', [options.batch]);
  const learningRate = build.input('learning_rate', 'float32', []);
  const slots = slotsOf(model, options.frozen ?? (() => false));
  const parameterCount = slots.reduce((sum, slot) => sum + slot.size, 0);
  const parameters = build.input('parameters', 'float32', [parameterCount]);
  const velocity = build.input('velocity', 'float32', [parameterCount]);
  unpack(build, parameters, slots);

  const trained = new Set(slots.map((slot) => slot.name));
  const { kept, state } = addForward(build, model, types, trained);
  const { loss, correct, gradient } = addLoss(build, logits, label, {
    batch: options.batch,
    classes,
    smoothing: options.labelSmoothing ?? 0,
  });
  const opset = opsetOf(model) ?? DEFAULT_OPSET;
  const forward = { nodes: graph.nodes, opset, types, constants, kept };
  const gradients = addBackward(build, forward, new Map([[logits, gradient]]), trained);

  const scaleL1 = options.scaleL1 ?? 0;
  const scales = new Set(scaleL1 > 0 ? scalesOf(model) : []);
  const flat = slots.map(({ name, shape, size }) => {
    const raw =
      gradients.get(name) ?? build.constant(float32Tensor(shape, new Float32Array(size)), 'no_gradient');
    const decays = options.weightDecay > 0 && shape.length >= 2;
    const whole = decays
      ? build.op('Add', [raw, build.op('Mul', [name, build.scalar(options.weightDecay)])])
      : scales.has(name)
        ? build.op('Add', [raw, build.op('Mul', [build.op('Sign', [name]), build.scalar(scaleL1)])])
        : raw;
    return build.op('Reshape', [whole, build.ints([-1])]);
  });
  const all = build.op('Concat', flat, { axis: 0 });
  const faster = build.op(
    'Add',
    [build.op('Mul', [velocity, build.scalar(options.momentum)]), all],
    {},
    { outputs: ['velocity_next'] },
  );
  const direction = options.nesterov
    ? build.op('Add', [all, build.op('Mul', [faster, build.scalar(options.momentum)])])
    : faster;
  build.op(
    'Sub',
    [parameters, build.op('Mul', [direction, learningRate])],
    {},
    { outputs: ['parameters_next'] },
  );

  build.output(loss, 'float32', []);
  build.output(correct, 'float32', []);
  build.output('parameters_next', 'float32', [parameterCount]);
  build.output('velocity_next', 'float32', [parameterCount]);
  for (const { name, shape } of state) build.output(`state_next/${name}`, 'float32', shape);
  const step = modelOf(build.finish(), {
    extraOpsets: ['com.microsoft', COMPOUND_DOMAIN].map((domain) => ({ domain, version: 1 })),
  });
  return { model: step, parameters: slots, parameterCount, state };
}

function checkOptions({
  batch,
  momentum,
  weightDecay,
  labelSmoothing = 0,
  scaleL1 = 0,
}: TrainingStepOptions): void {
  if (!Number.isInteger(batch) || batch < 1) {
    throw new InvalidArgumentError(`The batch should be a whole number of at least 1, got ${batch}.`);
  }
  for (const [name, value] of Object.entries({ momentum, labelSmoothing })) {
    if (!(value >= 0 && value < 1))
      throw new InvalidArgumentError(`${name} should be in [0, 1), got ${value}.`);
  }
  for (const [name, value] of Object.entries({ weightDecay, scaleL1 })) {
    if (!(value >= 0)) throw new InvalidArgumentError(`${name} should be at least 0, got ${value}.`);
  }
}

/**
 * The step is written in Bonsai's own operator set, and so must be the network in it. Nodes mean the same there if
 * their operator was not redefined in between, or only to admit more types.
 */
function atOwnOpset(network: Model): Model {
  const opset = opsetOf(network) ?? DEFAULT_OPSET;
  if (opset === DEFAULT_OPSET) return network;
  const [low, high] = [Math.min(opset, DEFAULT_OPSET), Math.max(opset, DEFAULT_OPSET)];
  for (const node of network.graph.nodes) {
    const record = recordFor(node);
    const isRedefined = record?.schema.since.some((version) => version > low && version <= high) ?? true;
    if (isRedefined && !ONLY_WIDENED.has(node.opType)) {
      throw new BonsaiError(
        'unsupported',
        `${describeNode(node)} may mean something else in opset ${DEFAULT_OPSET}, in which training steps are written, ` +
          `than in the network's opset ${opset}. Convert the network to opset ${DEFAULT_OPSET}.`,
      );
    }
  }
  const opsets = network.opsets.map((entry) =>
    entry.domain === '' ? { domain: '', version: DEFAULT_OPSET } : entry,
  );
  return { ...network, opsets };
}

/** Operators whose later definitions, opsets 9 to 22, only admit more types, ranks or optional inputs. */
const ONLY_WIDENED: ReadonlySet<string> = new Set([
  'Add',
  'BatchNormalization',
  'Concat',
  'Conv',
  'ConvTranspose',
  'DepthToSpace',
  'Div',
  'Elu',
  'Exp',
  'Flatten',
  'Gemm',
  'GlobalAveragePool',
  'GlobalMaxPool',
  'HardSigmoid',
  'HardSwish',
  'Identity',
  'InstanceNormalization',
  'LeakyRelu',
  'Log',
  'MatMul',
  'MaxPool',
  'Mul',
  'Relu',
  'Reshape',
  'Sigmoid',
  'SpaceToDepth',
  'Sqrt',
  'Sub',
  'Tanh',
  'Transpose',
]);

function slotsOf(model: Model, frozen: (parameter: string) => boolean): ParameterSlot[] {
  let offset = 0;
  return trainableParameters(model).flatMap((name) => {
    const shape = model.graph.initializers.get(name)?.shape;
    if (shape === undefined || frozen(name)) return [];
    const size = elementCount(shape);
    const slot = { name, shape, offset, size };
    offset += size;
    return [slot];
  });
}

/** The scales of BatchNormalization, by name. */
function scalesOf(model: Model): string[] {
  return model.graph.nodes.flatMap((node) =>
    node.opType === 'BatchNormalization' && node.inputs[1] ? [node.inputs[1]] : [],
  );
}

/** Cuts the flat vector into the network's parameters, under their own names. */
function unpack(build: GraphBuilder, parameters: string, slots: readonly ParameterSlot[]): void {
  if (slots.length === 0) {
    throw new BonsaiError('invalid_argument', 'The network has no parameter that could be trained.');
  }
  const sizes = slots.map((slot) => slot.size);
  const parts = build.ops('Split', [parameters, build.ints(sizes)], { axis: 0 }, { outputs: slots.length });
  for (const [i, { name, shape }] of slots.entries()) {
    build.op('Reshape', [parts[i], build.ints(shape)], {}, { outputs: [name] });
  }
}

/**
 * Writes the network's nodes, in their training form where they have one. An initialiser that a training form
 * updates is read from the step's input `state/<name>` instead of being stored.
 */
function addForward(
  build: GraphBuilder,
  model: Model,
  types: ReturnType<typeof inferTypes>['types'],
  trained: ReadonlySet<string>,
): { kept: Map<Node, Map<string, string>>; state: StateSlot[] } {
  const { initializers, nodes } = model.graph;
  const kept = new Map<Node, Map<string, string>>();
  const updates = new Map<string, string>();
  const readByForms = new Set<string>();
  const isStored = (name: string) => initializers.has(name) && !trained.has(name);
  for (const node of nodes) {
    const isForm = recordFor(node)?.training !== undefined;
    for (const name of node.inputs) {
      const tensor = initializers.get(name);
      if (tensor === undefined || !isStored(name) || build.has(name)) continue;
      if (!isForm || tensor.dtype !== 'float32') build.initializer(name, tensor);
    }
  }
  for (const node of nodes) {
    const form = recordFor(node)?.training;
    if (form === undefined) {
      build.node(node);
      continue;
    }
    const values = new Map<string, string>();
    kept.set(node, values);
    form({
      node,
      opset: opsetOf(model) ?? DEFAULT_OPSET,
      build,
      x: (i) => {
        const name = node.inputs[i] ?? '';
        if (!isStored(name) || initializers.get(name)?.dtype !== 'float32') return name;
        readByForms.add(name);
        return `state/${name}`;
      },
      xShape: (i) => staticShape({ types }, node, node.inputs[i]),
      keep: (key, value) => values.set(key, value),
      update: (i, value) => updates.set(node.inputs[i] ?? '', value),
    });
  }
  const state: StateSlot[] = [];
  for (const name of readByForms) {
    const tensor = initializers.get(name);
    if (tensor === undefined) continue;
    const value = updates.get(name);
    if (value === undefined) {
      build.initializer(`state/${name}`, tensor);
      continue;
    }
    build.input(`state/${name}`, 'float32', tensor.shape);
    build.op('Identity', [value], {}, { outputs: [`state_next/${name}`] });
    state.push({ name, shape: tensor.shape });
  }
  return { kept, state };
}

/**
 * Cross-entropy against the target (1 − s) · onehot + s / classes, its gradient (softmax − target) / batch, and the
 * number of images whose largest logit is the label's.
 */
function addLoss(
  build: GraphBuilder,
  logits: string,
  label: string,
  { batch, classes, smoothing }: { batch: number; classes: number; smoothing: number },
): { loss: string; correct: string; gradient: string } {
  const low = smoothing / classes;
  const target = build.op(
    'OneHot',
    [label, build.ints([classes]), build.floats([low, 1 - smoothing + low])],
    { axis: -1 },
    { name: 'target' },
  );
  const logProbabilities = build.op('LogSoftmax', [logits], { axis: -1 });
  const both = build.op('ReduceSum', [build.op('Mul', [target, logProbabilities]), build.ints([0, 1])], {
    keepdims: 0,
  });
  const loss = build.op('Mul', [both, build.scalar(-1 / batch)], {}, { outputs: ['loss'] });
  const error = build.op('Sub', [build.op('Exp', [logProbabilities]), target]);
  const gradient = build.op('Mul', [error, build.scalar(1 / batch)]);
  const predicted = build.op('ArgMax', [logits], { axis: 1, keepdims: 0 });
  const isRight = build.op('Cast', [build.op('Equal', [predicted, label])], { to: 1 });
  const correct = build.op(
    'ReduceSum',
    [isRight, build.ints([0])],
    { keepdims: 0 },
    { outputs: ['correct'] },
  );
  return { loss, correct, gradient };
}
