import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { NCHWC_DOMAIN } from '../../graph/domains.ts';
import { type Model, type Node, opsetOf } from '../../graph/model.ts';
import { COMPOUND_DOMAIN } from '../../ops/compound.ts';
import { compoundFor } from '../../ops/compounds.ts';
import { inferTypes } from '../../ops/infer.ts';
import { concatenate, split } from './concat.ts';
import { convolve, convolveInputGradient, sumChannels } from './convolution.ts';
import { apply, applyBinary, reluGradient } from './elementwise.ts';
import { normalize, normalizeGradient } from './normalization.ts';
import { poolGlobally, poolGloballyGradient, poolWindows, poolWindowsGradient } from './pooling.ts';
import { tidy } from './tidy.ts';
import { Values } from './values.ts';
import { convolveWeightGradient } from './weight-gradient.ts';

export interface LoweringOptions {
  /**
   * Channels that the engine's blocked layout keeps together on this machine (`engine/probe-block`); 1: it has no
   * such layout, and standard operators are used throughout.
   */
  readonly block: number;
}

/** Writes a node in blocked layout; false: not this node, and nothing was written. */
export type BlockedRule = (values: Values, node: Node) => boolean;

/**
 * Turns a training step with compound operators into one that an engine runs. Convolutions, normalisations and what
 * lies between them use ONNX Runtime's blocked layout where the block allows; everything else uses standard
 * operators, with the layout changed on the way in and out. Inputs, outputs and the meaning of the step stay the same.
 */
export function lowerTrainingStep(model: Model, { block }: LoweringOptions): Model {
  const { graph } = model;
  const build = new GraphBuilder(graph.name);
  build.avoid(graph.nodes.flatMap((node) => node.outputs));
  const values = new Values(build, block, inferTypes(model), usesIn(model));
  for (const { name, type } of graph.inputs) {
    values.setPlain(name, build.input(name, type!.dtype, type!.shape!)); // Written by buildTrainingStep, with types.
  }
  for (const [name, tensor] of graph.initializers) values.setPlain(name, build.initializer(name, tensor));

  for (const node of graph.nodes) {
    const rule = block > 1 ? BLOCKED_RULES[ruleKey(node)] : undefined;
    if (rule?.(values, node) || isRenaming(values, node)) continue;
    if (node.domain === COMPOUND_DOMAIN) expandCompound(values, node);
    else {
      build.node({ ...node, inputs: node.inputs.map((name) => values.plain(name)) });
      for (const output of node.outputs) if (output !== '') values.setPlain(output, output);
    }
  }

  for (const { name, type } of graph.outputs) {
    const value = values.plain(name);
    if (value !== name) build.op('Identity', [value], {}, { outputs: [name] });
    build.output(name, type!.dtype, type!.shape);
  }
  const domains = [
    { domain: 'com.microsoft', version: 1 },
    ...(block > 1 ? [{ domain: NCHWC_DOMAIN, version: 1 }] : []),
  ];
  return modelOf(tidy(build.finish()), { opset: opsetOf(model), extraOpsets: domains });
}

/** A Reshape to the shape that the value has already: nothing but another name. */
function isRenaming(values: Values, node: Node): boolean {
  if (node.opType !== 'Reshape' || node.domain !== '') return false;
  const [x, y] = [node.inputs[0]!, node.outputs[0]!];
  if (!values.isKnown(x) || !values.isKnown(y) || values.shape(x).join() !== values.shape(y).join())
    return false;
  values.setPlain(y, values.plain(x));
  return true;
}

/** The compound in standard operators. */
export function expandCompound(values: Values, node: Node): void {
  const results = compoundFor(node)!.expand({
    node,
    build: values.build,
    x: (input) => values.plain(node.inputs[input] ?? ''),
    xShape: (input) => values.shape(node.inputs[input] ?? ''),
    isUsed: (output) => values.uses(node.outputs[output] ?? '') > 0,
  });
  for (const [i, value] of results.entries()) if (value !== '') values.setPlain(node.outputs[i]!, value);
}

const BLOCKED_RULES: Readonly<Record<string, BlockedRule>> = {
  Conv: convolve,
  [`${COMPOUND_DOMAIN}.ConvInputGradient`]: convolveInputGradient,
  [`${COMPOUND_DOMAIN}.ConvWeightGradient`]: convolveWeightGradient,
  [`${COMPOUND_DOMAIN}.ChannelSum`]: sumChannels,
  [`${COMPOUND_DOMAIN}.BatchNormalizationTraining`]: normalize,
  [`${COMPOUND_DOMAIN}.BatchNormalizationGradient`]: normalizeGradient,
  [`${COMPOUND_DOMAIN}.ReluGradient`]: reluGradient,
  [`${COMPOUND_DOMAIN}.GlobalAveragePoolGradient`]: poolGloballyGradient,
  [`${COMPOUND_DOMAIN}.AveragePoolGradient`]: poolWindowsGradient,
  GlobalAveragePool: poolGlobally,
  MaxPool: poolWindows,
  AveragePool: poolWindows,
  Concat: concatenate,
  Split: split,
  Add: applyBinary,
  Sub: applyBinary,
  Mul: applyBinary,
  Abs: apply,
  Celu: apply,
  Elu: apply,
  Erf: apply,
  Gelu: apply,
  HardSigmoid: apply,
  HardSwish: apply,
  Identity: apply,
  LeakyRelu: apply,
  Neg: apply,
  Relu: apply,
  Selu: apply,
  Sigmoid: apply,
  Sign: apply,
  Softsign: apply,
  Tanh: apply,
};

function ruleKey(node: Node): string {
  return node.domain === '' ? node.opType : `${node.domain}.${node.opType}`;
}

function usesIn(model: Model): Map<string, number> {
  const uses = new Map<string, number>();
  const use = (name: string) => uses.set(name, (uses.get(name) ?? 0) + 1);
  for (const node of model.graph.nodes) node.inputs.forEach(use);
  for (const { name } of model.graph.outputs) use(name);
  return uses;
}
