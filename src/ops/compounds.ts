import type { Node } from '../graph/model.ts';
import { BatchNormalizationGradient, BatchNormalizationTraining } from './batch-normalization.ts';
import { ChannelSum } from './channel-sum.ts';
import { COMPOUND_DOMAIN, type CompoundRecord } from './compound.ts';
import { ConvInputGradient, ConvWeightGradient } from './conv-gradients.ts';
import { GlobalAveragePoolGradient } from './global-average-pool.ts';
import { AveragePoolGradient } from './pooling.ts';
import { ReluGradient } from './relu-gradient.ts';

/** Every compound operator. */
const COMPOUNDS: readonly CompoundRecord[] = [
  AveragePoolGradient,
  BatchNormalizationGradient,
  BatchNormalizationTraining,
  ChannelSum,
  ConvInputGradient,
  ConvWeightGradient,
  GlobalAveragePoolGradient,
  ReluGradient,
];

/** The record of a compound node, or undefined for nodes of other domains. */
export function compoundFor(node: Node): CompoundRecord | undefined {
  return node.domain === COMPOUND_DOMAIN ? BY_NAME.get(node.opType) : undefined;
}

const BY_NAME: ReadonlyMap<string, CompoundRecord> = new Map(
  COMPOUNDS.map((record) => [record.schema.name, record]),
);
