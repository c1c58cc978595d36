import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { elementCount, float32Tensor } from '../../base/tensor.ts';
import { DEFAULT_OPSET, GraphBuilder, modelOf } from '../../graph/build.ts';
import { type Model, type Node, opsetOf } from '../../graph/model.ts';
import { COMPOUND_DOMAIN } from '../../ops/compound.ts';
import type { InferredTypes } from '../../ops/infer.ts';
import { recordFor } from '../../ops/table.ts';
import { addBackward, staticShape } from './backward.ts';
import { addLoss, checkDistillation, type Distillation, type Loss } from './loss.ts';
import { trainableForm } from './opset.ts';
import { addUpdate, checkOptimizer, MOMENTS, type Optimizer, STEP_NUMBER } from './optimizer.ts';
import { nothingToTrain, type ParameterSlot, type StateSlot, trainableParameters } from './parameters.ts';

export { readParameters, trainableParameters, writeParameters } from './parameters.ts';

export interface TrainingStepOptions {
  /** Images per step; fixed, because gradients are written for known sizes. */
  readonly batch: number;
  /** [C, H, W] other than the network's own: one with global pooling trains at any resolution. */
  readonly inputShape?: readonly number[];
  /** Default `cross-entropy`. */
  readonly loss?: Loss;
  /** Share of the target that is spread evenly over all classes. Default 0; not for `regression`. */
  readonly labelSmoothing?: number;
  /** Learn from `teacher_logits` as well; not for `regression`. Default off. */
  readonly distillation?: Distillation;
  readonly optimizer: Optimizer;
  /**
   * The largest Euclidean norm of the gradient over all parameters, above 0: a longer one is shortened to it before the
   * optimiser sees it and before weights decay (Pascanu, Mikolov and Bengio 2013, algorithm 1). Default: any.
   */
  readonly clipNorm?: number;
  /**
   * λ of λ·Σ|γ| over the scales of BatchNormalization, which the objective gains (network slimming, Liu et al. 2017):
   * their gradient gains λ·sign(γ). Default 0.
   */
  readonly scaleL1?: number;
  /** Parameters to leave as they are, besides those that the network's metadata names. */
  readonly frozen?: (parameter: string) => boolean;
}

/**
 * One step of gradient descent as a graph. Gradients are written with compound operators (`ops/compound`):
 * `lowerTrainingStep` turns it into one that an engine runs.
 *
 * Inputs: the network's own input, float32 [batch, C, H, W]; `label` int64 [batch], for `regression` `target` float32
 * [batch, k] instead; with distillation `teacher_logits` float32 [batch, classes]; `learning_rate` float32 scalar;
 * `parameters` and the optimiser's `moments`, flat float32; with AdamW `step_number`, a float32 scalar that counts from
 * 1; `state/<name>` for each running average.
 * Outputs: `loss`, the mean over the batch; `correct`, how many were predicted right (not for `regression`);
 * `gradient_norm`, the Euclidean norm over all parameters before clipping and decay (float32 scalars; not finite where
 * a gradient is not, or too long for float32); `parameters_next`, `<moment>_next`, `state_next/<name>`: the inputs of
 * the next step.
 */
export interface TrainingStep {
  readonly model: Model;
  /** The length k of one example's answer. */
  readonly classes: number;
  /** Names of the optimiser's vectors: `velocity` of SGD, `first_moment` and `second_moment` of AdamW. */
  readonly moments: readonly string[];
  /** Whether there is an input `step_number`. */
  readonly countsSteps: boolean;
  readonly parameters: readonly ParameterSlot[];
  readonly parameterCount: number;
  readonly state: readonly StateSlot[];
}

/**
 * Writes forward pass, loss (`loss.ts`), backward pass and update (`optimizer.ts`) of a network into one graph.
 * The network has one input [N, C, H, W] (or [N, features]) and its first output is logits [N, classes].
 * @throws MissingRuleError for an operator that cannot be differentiated
 * @throws InvalidArgumentError for options out of range
 * @throws BonsaiError `unsupported` for networks of another form, `invalid_graph` where sizes are unknown
 */
export function buildTrainingStep(network: Model, options: TrainingStepOptions): TrainingStep {
  checkOptions(options);
  const [input, ...others] = network.graph.inputs;
  const logits = network.graph.outputs[0]?.name;
  if (others.length > 0 || input?.type?.shape === undefined || logits === undefined) {
    throw new BonsaiError(
      'unsupported',
      `Training needs a network with one input, this has ${network.graph.inputs.length}.`,
    );
  }
  const imageShape = [options.batch, ...(options.inputShape ?? input.type.shape.slice(1))];
  const { model, inferred } = trainableForm(network, { [input.name]: imageShape });
  const { graph } = model;
  const { types, constants } = inferred;
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
  const learningRate = build.input('learning_rate', 'float32', []);
  const slots = slotsOf(model, options.frozen ?? (() => false));
  if (slots.length === 0) throw nothingToTrain(model);
  const parameterCount = slots.reduce((sum, slot) => sum + slot.size, 0);
  const parameters = build.input('parameters', 'float32', [parameterCount]);
  const flat = unpack(build, parameters, slots);

  const trained = new Set(slots.map((slot) => slot.name));
  const { kept, state } = addForward(build, model, { types, constants }, trained);
  const { gradient: seed } = addLoss(build, logits, {
    loss: options.loss ?? 'cross-entropy',
    batch: options.batch,
    classes,
    labelSmoothing: options.labelSmoothing ?? 0,
    distillation: options.distillation,
  });
  const opset = opsetOf(model) ?? DEFAULT_OPSET;
  const forward = { nodes: graph.nodes, opset, types, constants, kept };
  const gradients = addBackward(build, forward, new Map([[logits, seed]]), trained);
  const gradient = flatGradient(build, model, slots, gradients, options.scaleL1 ?? 0);
  const norm = addNorm(build, gradient);
  const { optimizer, clipNorm } = options;
  addUpdate(build, optimizer, parameterCount, {
    parameters,
    learningRate,
    gradient: clipNorm === undefined ? gradient : clipped(build, gradient, norm, clipNorm),
    decay: optimizer.weightDecay > 0 ? flatDecay(build, slots, flat, optimizer.weightDecay) : undefined,
  });

  for (const { name, shape } of state) build.output(`state_next/${name}`, 'float32', shape);
  const step = modelOf(build.finish(), {
    extraOpsets: ['com.microsoft', COMPOUND_DOMAIN].map((domain) => ({ domain, version: 1 })),
  });
  return {
    model: step,
    classes,
    moments: MOMENTS[optimizer.name],
    countsSteps: step.graph.inputs.some(({ name }) => name === STEP_NUMBER),
    parameters: slots,
    parameterCount,
    state,
  };
}

function checkOptions({
  batch,
  loss,
  optimizer,
  clipNorm = 1,
  distillation,
  labelSmoothing = 0,
  scaleL1 = 0,
}: TrainingStepOptions): void {
  if (!Number.isInteger(batch) || batch < 1) {
    throw new InvalidArgumentError(`The batch should be a whole number of at least 1, got ${batch}.`);
  }
  if (!(labelSmoothing >= 0 && labelSmoothing < 1)) {
    throw new InvalidArgumentError(`labelSmoothing should be in [0, 1), got ${labelSmoothing}.`);
  }
  if (!(scaleL1 >= 0)) throw new InvalidArgumentError(`scaleL1 should be at least 0, got ${scaleL1}.`);
  if (!(clipNorm > 0 && Number.isFinite(clipNorm))) {
    throw new InvalidArgumentError(`clipNorm should be a number above 0, got ${clipNorm}.`);
  }
  checkOptimizer(optimizer);
  if (distillation !== undefined) checkDistillation(distillation);
  if (loss === 'regression' && (distillation !== undefined || labelSmoothing > 0)) {
    throw new InvalidArgumentError(
      'Distillation and label smoothing need classes; leave them out with the loss "regression".',
    );
  }
}

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

/** Cuts the flat vector into the network's parameters, under their own names; returns the flat pieces. */
function unpack(build: GraphBuilder, parameters: string, slots: readonly ParameterSlot[]): readonly string[] {
  const sizes = slots.map((slot) => slot.size);
  const parts = build.ops('Split', [parameters, build.ints(sizes)], { axis: 0 }, { outputs: slots.length });
  for (const [i, { name, shape }] of slots.entries()) {
    build.op('Reshape', [parts[i], build.ints(shape)], {}, { outputs: [name] });
  }
  return parts;
}

/** The gradients of all parameters as one vector, with that of scaleL1 · Σ|γ|. */
function flatGradient(
  build: GraphBuilder,
  model: Model,
  slots: readonly ParameterSlot[],
  gradients: ReadonlyMap<string, string>,
  scaleL1: number,
): string {
  const scales = new Set(scaleL1 > 0 ? scalesOf(model) : []);
  const parts = slots.map(({ name, size }) => {
    const gradient = gradients.get(name);
    const flat =
      gradient === undefined ? zeros(build, size) : build.op('Reshape', [gradient, build.ints([-1])]);
    if (!scales.has(name)) return flat;
    const pull = build.op('Mul', [build.op('Sign', [name]), build.scalar(scaleL1)]);
    return build.op('Add', [flat, pull]);
  });
  return build.op('Concat', parts, { axis: 0 });
}

/** weightDecay · w for tensors of rank 2 and more, 0 for the others. */
function flatDecay(
  build: GraphBuilder,
  slots: readonly ParameterSlot[],
  flat: readonly string[],
  weightDecay: number,
): string {
  const parts = slots.map(({ shape, size }, i) =>
    shape.length >= 2 ? build.op('Mul', [flat[i], build.scalar(weightDecay)]) : zeros(build, size),
  );
  return build.op('Concat', parts, { axis: 0 });
}

function zeros(build: GraphBuilder, size: number): string {
  return build.constant(float32Tensor([size], new Float32Array(size)), 'zeros');
}

function addNorm(build: GraphBuilder, gradient: string): string {
  const squares = build.op('ReduceSum', [build.op('Mul', [gradient, gradient]), build.ints([0])], {
    keepdims: 0,
  });
  const norm = build.op('Sqrt', [squares], {}, { outputs: ['gradient_norm'] });
  build.output(norm, 'float32', []);
  return norm;
}

/** gradient · limit / max(norm, limit): a gradient within the limit stays as it is, bit by bit. */
function clipped(build: GraphBuilder, gradient: string, norm: string, limit: number): string {
  const longest = build.op('Max', [norm, build.scalar(limit)]);
  return build.op('Mul', [gradient, build.op('Div', [build.scalar(limit), longest])]);
}

/**
 * Writes the network's nodes, in their training form where they have one. An initialiser that a training form
 * updates is read from the step's input `state/<name>` instead of being stored.
 */
function addForward(
  build: GraphBuilder,
  model: Model,
  { types, constants }: Pick<InferredTypes, 'types' | 'constants'>,
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
      constant: (i) => constants.get(node.inputs[i] ?? ''),
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
