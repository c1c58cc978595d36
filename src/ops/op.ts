import type { Tensor } from '../base/tensor.ts';
import type { GraphBuilder } from '../graph/build.ts';
import type { Node, Shape, ValueType } from '../graph/model.ts';
import type { PartialTensor } from './partial.ts';

/**
 * Everything Bonsai knows about one ONNX operator, side by side: what a node of it may look like, what shapes it
 * makes, how a gradient flows back through it, which channels live and die together, and what it costs.
 * `ops/table.ts` lists the records.
 */
export interface OpRecord {
  readonly schema: OpSchema;
  /** Types of the node's outputs. @throws ShapeError naming the input that does not fit. */
  readonly shape: (context: ShapeContext) => readonly ValueType[];
  /**
   * The type of the only output as far as a weight alone tells, where nothing is known of the input that it meets (what an
   * unknown operator made): rank and channels. Absent: such an output is unknown as well.
   */
  readonly shapeOfWeight?: (context: ShapeContext) => ValueType | undefined;
  /**
   * Adds the backward nodes; returns the gradient for each input, undefined where none is defined or needed.
   * Absent: the operator is not differentiable, and training a network through it is refused (MissingRuleError).
   */
  readonly gradient?: (context: GradientContext) => readonly (string | undefined)[];
  /**
   * How the operator computes in training where that differs from inference (BatchNormalization, Dropout):
   * adds the forward nodes under the node's own output names.
   */
  readonly training?: (context: TrainingContext) => void;
  /** Which channels of inputs, parameters and outputs are one. Absent: everything that touches the node is frozen. */
  readonly coupling?: (context: CouplingContext) => void;
  /**
   * The value of the node's only output where it follows from what is known before running: shape arithmetic.
   * Undefined: not known. Absent: never worth knowing.
   */
  readonly fold?: (context: ShapeContext) => Tensor | PartialTensor | undefined;
  /** Multiply-accumulates and elements touched. Absent: data movement only, counted as no MACs. */
  readonly cost?: (context: CostContext) => Cost;
}

export interface OpSchema {
  readonly name: string;
  /** '' is the standard domain. */
  readonly domain?: string;
  /** Versions of the operator set in which the operator's definition changed, ascending; the first introduced it. */
  readonly since: readonly number[];
  /** Fewest and most inputs and outputs. */
  readonly inputs: readonly [min: number, max: number];
  readonly outputs: readonly [min: number, max: number];
}

export interface ShapeContext {
  readonly node: Node;
  readonly opset: number;
  /** Type of each input; undefined where absent or unknown. */
  readonly inputs: readonly (ValueType | undefined)[];
  /** The value of an input where it is known before running (an initialiser or something folded), else undefined. */
  constant(input: number): Tensor | undefined;
  /** Like `constant`, for small values of which only some elements are known. Absent: nothing is half known. */
  partial?(input: number): PartialTensor | undefined;
}

/** All sizes are known numbers here: a training step is built for one batch size. */
export interface GradientContext {
  readonly node: Node;
  readonly opset: number;
  /** Where to add nodes (standard domain opset 17; `com.microsoft` version 1 is imported as well). */
  readonly build: GraphBuilder;
  /** Gradient arriving at each output; undefined where nobody uses the output. */
  readonly dy: readonly (string | undefined)[];
  /** Whether a gradient for this input is wanted (it leads to a trainable parameter). */
  needs(input: number): boolean;
  /** Name of the value at an input / output in the training graph. */
  x(input: number): string;
  y(output: number): string;
  xShape(input: number): readonly number[];
  yShape(output: number): readonly number[];
  constant(input: number): Tensor | undefined;
  /** A value that the training form left for the gradient (`TrainingContext.keep`). */
  kept(key: string): string;
}

export interface TrainingContext {
  readonly node: Node;
  readonly opset: number;
  readonly build: GraphBuilder;
  x(input: number): string;
  xShape(input: number): readonly number[];
  constant(input: number): Tensor | undefined;
  /** Leaves a value for the gradient rule of the same node. */
  keep(key: string, value: string): void;
  /**
   * Says that after the step the (non-trained) initialiser at an input becomes `value`: running averages.
   * The node's own parameter keeps its name; the training step carries it as state.
   */
  update(input: number, value: string): void;
  /** Name of a fresh per-step int64 scalar that a seeded random operator may derive from; undefined: none offered. */
  readonly stepSeed?: string;
}

export interface CostContext {
  readonly node: Node;
  readonly inputs: readonly (readonly number[] | undefined)[];
  readonly outputs: readonly (readonly number[])[];
}

export interface Cost {
  /** Multiply-accumulate operations of one run at the given shapes. */
  readonly macs: number;
}

/**
 * Channel labels of an activation: a tensor of integers that broadcasts to the value's shape (size 1 along axes
 * where the label does not depend on the position). A convolution's output has labels of shape [1, C, 1, 1];
 * after Flatten they have shape [1, C·H·W] with each channel's label repeated. Two positions with the same label,
 * or with labels that were united, are pruned together. Negative: a position that belongs to no channel (padding).
 */
export interface Labels {
  readonly shape: readonly number[];
  readonly data: Int32Array;
}

export interface CouplingContext {
  readonly node: Node;
  readonly opset: number;
  /** Static shapes, null or a name for sizes that are unknown (batch). Undefined: rank unknown. */
  xShape(input: number): Shape | undefined;
  yShape(output: number): Shape | undefined;
  /** The value of a constant input (initialiser or folded), else undefined. */
  constant(input: number): Tensor | undefined;
  /** Like `constant`, for small values of which only some elements are known ([batch, 64, 7, 7]). */
  partial(input: number): PartialTensor | undefined;
  /** The value of any name of the graph where it is constant: for operands of neighbouring nodes. */
  constantNamed(name: string): Tensor | undefined;
  /** The node that computes an input; undefined for inputs of the graph and initialisers. */
  producer(input: number): Node | undefined;
  /** The node that computes a value of any name: for operands of neighbouring nodes. */
  producerOf(name: string): Node | undefined;
  /** The nodes that use an output. */
  consumers(output: number): readonly Node[];
  /** Who reads a value of any name; exposed: as an output of the graph or inside a subgraph as well. */
  readers(name: string): { readonly nodes: readonly Node[]; readonly isExposed: boolean };
  /** The length of a vector of any name, where it is known. */
  lengthOf(name: string): number | undefined;
  /** Whether an input is a parameter stored in the graph (initialiser or Constant node) that pruning may slice. */
  isParameter(input: number): boolean;
  /** Labels of an activation input; undefined: nothing prunable flows in here. */
  labels(input: number): Labels | undefined;
  /** `count` new labels: this node is the producer of as many channels. */
  fresh(count: number): Int32Array;
  /**
   * Says that this node could make channels along another axis than that of the channels which pass through it (the hidden
   * width of a network over positions). A position has one label, so these are labelled in a second walk, in which the rule
   * sees such channels alone; it should make none of them in this one.
   */
  makesCrossing(): void;
  /** Unites labels pairwise: a[i] and b[i] live and die together. Lengths must agree. */
  unite(a: Int32Array, b: Int32Array): void;
  /**
   * Says that the parameter at an input has one slice along `axis` for each label: slice i goes when label i goes.
   * A parameter may be bound along several axes.
   */
  bind(input: number, axis: number, labels: Int32Array): void;
  /** Sets the labels of an output. Outputs that are not set carry none. */
  produce(output: number, labels: Labels): void;
  /**
   * Says that the channels of an input pass, but each made of all of them (divided by their norm): exact where those that
   * go are zeros before, as the masked network then makes them.
   */
  mixes(input: number): void;
  /**
   * Says that these labels may go, but that what stays then computes something else (a mean over the channels has
   * fewer terms): such groups are pruned, and left out of the comparison with the masked network.
   */
  inexact(labels: Int32Array, reason: string): void;
  /**
   * Where this node splits an axis of channels into several: the axis of its output along which channels are pruned,
   * as far as the rest of the network says (the axis of the heads in attention); undefined: the last one.
   */
  factorAxis(): number | undefined;
  /** Never prune these labels; the reason is shown to the user. */
  freeze(labels: Int32Array, reason: string): void;
  /**
   * Registers how the node itself changes once the removed channels are known (attributes such as `group`,
   * constants such as a Reshape's target shape). `kept(labels)` tells how many of the labels remain.
   * @param node the one that changes, where it is another: one that computes an input for this node alone
   */
  rewrite(change: (pruned: PrunedContext) => NodeChange, node?: Node): void;
}

export interface PrunedContext {
  /** How many of the labels are kept. */
  kept(labels: Int32Array): number;
  /** Indices i of the labels that are kept, ascending. */
  keptIndices(labels: Int32Array): number[];
}

export interface NodeChange {
  readonly attributes?: Node['attributes'];
  /** New values for constant inputs, by input index; each gets an initialiser of its own. */
  readonly constants?: ReadonlyMap<number, Tensor>;
}

/** The record as given; the type parameter keeps the literal types for the table. */
export function defineOp<const R extends OpRecord>(record: R): R {
  return record;
}
