import { BonsaiError } from '../src/base/errors.ts';
import { seededRandom } from '../src/base/random.ts';
import type { Model } from '../src/graph/model.ts';
import { readModelFile } from '../src/graph/onnx/read.ts';
import { reestimateBatchNorm } from '../src/port/batch-norm/batch-norm.ts';
import { cifarBinary } from '../src/port/data/cifar-binary.ts';
import { drawExamples } from '../src/port/data/split.ts';
import { evaluate } from '../src/port/evaluate/evaluate.ts';
import { withImageInput } from '../src/port/image-input.ts';
import { gatherCriterion, gatherMeans } from '../src/port/importance/gather.ts';
import { foldConstants } from '../src/transform/passes/fold-constants.ts';
import { freeBatch } from '../src/transform/passes/free-batch.ts';
import type { ChannelMeans } from '../src/transform/prune/compensate.ts';
import { CRITERIA } from '../src/transform/prune/importance/table.ts';
import { prune } from '../src/transform/prune/prune.ts';
import { wholeGroups } from '../src/transform/prune/whole-groups.ts';

/**
 * What is left of the accuracy of trained third-party networks right after pruning, without any fine-tuning, for every
 * criterion and ratio: a table in Markdown. Where it says "means", what the removed channels gave on average went into
 * the biases of the layers that read them (`gatherMeans`).
 * A model may also be a file that `bonsai train` made; that one has BatchNormalization, for `slim` and `taylor-gate`.
 * Run with the shared models and the unpacked binary version of CIFAR-10:
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/criteria.js DATA [IMAGES] [model…]
 */
const MODELS = ['resnet20-cifar10-torch2', 'resnet56-cifar10-torch2'];
/** Random pruning differs from seed to seed: the mean of these. */
const RANDOM_SEEDS = [1, 2];
const SEED = 1;
/** Of scoring; the gathered figures do not depend on it beyond rounding. */
const THREADS = 2;
/** Per channel, as the networks' training recipe normalised its images. */
const MEAN = [0.4914, 0.4822, 0.4465];
const STD = [0.2023, 0.1994, 0.201];

const [folder, imagesText = '10000', ...wanted] = process.argv.slice(2);
if (folder === undefined) throw new Error('Give the folder of the unpacked binary version of CIFAR-10.');
const print = (line: string) => process.stdout.write(`${line}\n`);
const percent = (share: number) => `${(100 * share).toFixed(1)}`;

const dataset = await cifarBinary(folder).load({ seed: SEED });
const test = drawExamples(dataset.test, Number(imagesText), seededRandom(SEED));
for (const name of wanted.length > 0 ? wanted : MODELS) {
  const isOurs = name.endsWith('.onnx');
  const file = isOurs ? name : `${process.env.BONSAI_SHARED ?? '../shared'}/models/${name}.onnx`;
  const base = withImageInput(
    freeBatch(foldConstants(await readModelFile(file)))!,
    { shape: dataset.shape, normalization: { mean: MEAN, std: STD } },
    { normalize: !isOurs },
  );
  const scored = async (model: Model) => (await evaluate(model, test, { threads: THREADS })).accuracy;
  print(`\n${name}: ${percent(await scored(base))} % of ${test.count} test images before pruning.\n`);
  const means = await gatherMeans(base, dataset.train, { seed: SEED, threads: THREADS });
  const columns: readonly Column[] = [
    ...[0.1, 0.2, 0.3, 0.5].map((ratio): Column => ({ where: 'all', ratio })),
    { where: 'global', ratio: 0.1 },
    { where: 'all', ratio: 0.1, means },
    { where: 'global', ratio: 0.1, means },
    { where: 'inner', ratio: 0.3 },
    { where: 'inner', ratio: 0.3, means },
  ];
  print(`| criterion | ${columns.map(titleOf).join(' | ')} |`);
  print(`| --- |${columns.map(() => ' ---: |').join('')}`);
  for (const criterion of CRITERIA) {
    const cells: string[] = [];
    try {
      const seeds = criterion === 'random' ? RANDOM_SEEDS : [SEED];
      const gathered = await Promise.all(
        seeds.map((seed) => gatherCriterion(criterion, base, dataset.train, { seed, threads: THREADS })),
      );
      for (const { where, ratio, means: given } of columns) {
        let sum = 0;
        for (const each of gathered) {
          const { model } = prune(base, {
            ratio,
            criterion: each,
            align: 1,
            means: given,
            scope: where === 'global' ? 'global' : 'uniform',
            kept: where === 'inner' ? wholeGroups(base, { inner: true }) : undefined,
          });
          const { train } = dataset;
          // Where BatchNormalization is left, its statistics are measured anew instead of compensating means.
          const settled =
            given && (await reestimateBatchNorm(model, train, { seed: SEED, threads: THREADS }));
          sum += await scored(settled ?? model);
        }
        cells.push(percent(sum / gathered.length));
      }
    } catch (error) {
      if (!(error instanceof BonsaiError)) throw error;
      cells.push(...columns.map(() => '–'));
      process.stderr.write(`${criterion}: ${error.message}\n`);
    }
    print(`| ${criterion} | ${cells.join(' | ')} |`);
  }
}

interface Column {
  /** 'all': every group loses the ratio; 'global': the lowest scores of the network; 'inner': only groups of one layer. */
  readonly where: 'all' | 'global' | 'inner';
  readonly ratio: number;
  readonly means?: ChannelMeans;
}

function titleOf({ where, ratio, means }: Column): string {
  return `${where} ${ratio}${means === undefined ? '' : ' + means'}`;
}
