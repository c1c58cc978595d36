import type { AttributeValues, GraphBuilder } from '../graph/build.ts';
import type { Node, ValueType } from '../graph/model.ts';
import type { ShapeContext } from './op.ts';

/**
 * A compound operator: one node for what takes many standard ones. Gradient rules and training forms write compounds,
 * so that whoever lowers a training step sees "the gradient of this convolution" and not its twenty nodes.
 * No engine runs them: a lowering (`transform/lower`) replaces each, in the last resort by its own `expand`.
 * `ops/compounds.ts` lists the records.
 */
export interface CompoundRecord {
  readonly schema: { readonly name: string; readonly inputs: number; readonly outputs: number };
  readonly shape: (context: ShapeContext) => readonly ValueType[];
  /** Writes the compound in standard operators; returns the values that take the place of the node's outputs. */
  readonly expand: (context: ExpandContext) => readonly string[];
}

/** All sizes are known numbers. */
export interface ExpandContext {
  readonly node: Node;
  /** Where to add nodes (standard domain opset 17; `com.microsoft` version 1). */
  readonly build: GraphBuilder;
  x(input: number): string;
  xShape(input: number): readonly number[];
  /** Whether anybody uses the output; of one that nobody uses the value may be ''. */
  isUsed(output: number): boolean;
}

/** The operator domain of compounds. */
export const COMPOUND_DOMAIN = 'bonsai';

export function defineCompound<const R extends CompoundRecord>(record: R): R {
  return record;
}

/** Adds a compound node of one output; returns its value. */
export function compound(
  build: GraphBuilder,
  opType: string,
  inputs: readonly string[],
  attributes: AttributeValues = {},
): string {
  return build.op(opType, inputs, attributes, { domain: COMPOUND_DOMAIN });
}
