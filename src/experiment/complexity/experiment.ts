import { frontierOf } from '../../repository/frontier.ts';
import type { Experiment } from '../experiment.ts';
import { describeVariant } from '../wording.ts';
import { drawComplexity } from './draw.ts';

export interface ComplexityResults {
  readonly tasks: readonly {
    readonly task: string;
    readonly variants: readonly ComplexityPoint[];
  }[];
}

export interface ComplexityPoint {
  readonly version: number;
  readonly description: string;
  /** Of the architecture, without its sizes. */
  readonly backbone: string;
  readonly accuracy: number;
  readonly macs: number;
  readonly parameters: number;
  readonly isPruned: boolean;
  readonly isQuantized: boolean;
  /** In accuracy and multiply-accumulates. */
  readonly isOnFrontier: boolean;
}

/** Figure 3.5: below a threshold of complexity, accuracy falls ever faster. */
export const complexity: Experiment<ComplexityResults> = {
  name: 'complexity',
  thesis: 'Fig. 3.5',
  readsOnly: true,
  question: 'How does accuracy fall with the complexity of a network, and where does it begin to?',
  estimateMs: () => 100,
  async run({ families }) {
    return {
      tasks: families.map(({ task, variants }) => {
        const frontier = new Set(frontierOf(variants, 'flops').map(({ version }) => version));
        return {
          task,
          variants: variants.map((variant) => ({
            version: variant.version,
            description: describeVariant(variant),
            backbone: variant.lineage.backbone?.split(':')[0] ?? 'network',
            accuracy: variant.accuracy.test,
            macs: variant.macs,
            parameters: variant.parameters,
            isPruned: variant.lineage.pruning !== undefined,
            isQuantized: variant.lineage.quantization !== undefined,
            isOnFrontier: frontier.has(variant.version),
          })),
        };
      }),
    };
  },
  draw: drawComplexity,
};
