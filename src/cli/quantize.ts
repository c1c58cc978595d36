import { readFile } from 'node:fs/promises';
import { Command, Option } from 'commander';
import type { Model } from '../graph/model.ts';
import { writeModel, writeModelFile } from '../graph/onnx/write.ts';
import {
  CALIBRATION_METHODS,
  type CalibrationMethod,
  calibrationDefaults,
} from '../port/calibrate/calibrate.ts';
import { type QuantizationRecord, quantizeNetwork } from '../port/calibrate/quantize-network.ts';
import type { Dataset } from '../port/data/data-module.ts';
import { evaluate } from '../port/evaluate/evaluate.ts';
import { withImageInput } from '../port/image-input.ts';
import {
  normalizationExamples,
  normalizationNotice,
  normalizesItself,
  scoreNormalization,
} from '../port/input-normalization.ts';
import { compareLatency, comparisonDefaults } from '../port/profile/compare-latency.ts';
import { alignedTable } from '../report/table.ts';
import { digestOf } from '../repository/digest.ts';
import type { Measurement } from '../repository/types.ts';
import { checkQuantizable } from '../transform/quantize/quantize.ts';
import { type Context, interruptible, processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { checkIdleOptions, isChosen } from './idle-options.ts';
import { readNetworkFiles } from './network.ts';
import {
  dataOption,
  filesOfData,
  jsonOption,
  loadData,
  seedOption,
  threadsOption,
  workOption,
} from './options.ts';
import { parseInteger, parseNumberWithin } from './parse.ts';
import { checkWritableFile, forceOption } from './writable.ts';

interface QuantizeCommandOptions {
  readonly data: string;
  readonly out: string;
  readonly force?: boolean;
  readonly method: CalibrationMethod;
  readonly percentile: number;
  readonly samples: number;
  readonly exclude?: string[];
  readonly reduceRange?: boolean;
  readonly normalizeInput?: boolean;
  readonly runs: number;
  readonly threads: number;
  readonly seed: number;
  readonly work: string;
  readonly json?: boolean;
}

export function quantizeCommand(): Command {
  return new Command('quantize')
    .description('Turn a network into 8-bit integers (static, QDQ form), calibrated on data.')
    .argument('<model>', 'a trained ONNX network that classifies the images of --data')
    .addOption(dataOption())
    .requiredOption('--out <file>', 'the ONNX file to write')
    .addOption(forceOption())
    .addOption(
      new Option(
        '--method <name>',
        'how ranges are found: all values seen, all but the outermost, or those that lose least information',
      )
        .choices(CALIBRATION_METHODS)
        .default(calibrationDefaults.method),
    )
    .addOption(
      new Option('--percentile <p>', 'percentage of values kept by --method percentile, above 50, up to 100')
        .argParser(parsePercentile)
        .default(calibrationDefaults.percentile),
    )
    .addOption(
      new Option('--samples <n>', 'training examples to calibrate on')
        .argParser(parseInteger(1))
        .default(calibrationDefaults.samples),
    )
    .option('--exclude <node...>', 'nodes that stay in floating point, by name')
    .option(
      '--reduce-range',
      'weights in 7 bits, for CPUs whose kernels overflow on 8 (default: whether this CPU does, which is tried)',
    )
    .option(
      '--normalize-input',
      "the network expects pixels normalised by the data's mean and deviation, as many exporters' do (default: as it answers better)",
    )
    .option('--no-normalize-input', 'it does not')
    .addOption(
      new Option('--runs <n>', 'single inferences of each network for the latency')
        .argParser(parseInteger(10))
        .default(comparisonDefaults.runs),
    )
    .addOption(threadsOption())
    .addOption(seedOption())
    .addOption(workOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai quantize digits.onnx --data mnist --out digits-int8.onnx
  $ bonsai quantize resnet.onnx --data cifar10:data --normalize-input --exclude conv1 fc --out resnet-int8.onnx

Both networks are scored on the test split and timed in turns, with one thread.
${EXIT_CODE_HELP}`,
    )
    .action(async (file: string, options: QuantizeCommandOptions, command: Command) => {
      const context = processContext(options);
      checkIdleOptions([
        {
          flag: '--percentile',
          isGiven: isChosen(command, 'percentile'),
          need: '--method percentile',
          isMet: options.method === 'percentile',
        },
      ]);
      const { model, reads } = await readNetworkFiles(file);
      checkQuantizable(model, { exclude: options.exclude });
      const parent = digestOf(await readFile(file));
      await checkWritableFile(options.out, {
        reads: [...reads, ...filesOfData(options.data)],
        force: options.force,
      });
      const dataset = await loadData(context, options);
      const result = await interruptible(context.signal, `${options.out} was not written.`, () =>
        quantizeAndCompare(context, { ...options, model, parent, file, dataset }),
      );
      await writeModelFile(result.model, options.out);
      context.result({ ...result, model: undefined }, textOf(result), options.out);
    });
}

const parsePercentile = parseNumberWithin(
  (percentile) => percentile > 50 && percentile <= 100,
  'a percentage above 50, up to 100, such as 99.99',
  'At 50 nothing is left of the values.',
);

/** What is known about a network before and after. */
interface Compared<T> {
  readonly before: T;
  readonly after: T;
}

interface QuantizeResult {
  readonly model: Model;
  readonly file: string;
  readonly out: string;
  readonly accuracy: Compared<number> & { readonly count: number };
  readonly latencyMs: Compared<Measurement>;
  readonly sizeBytes: Compared<number>;
  /** Median latency before, divided by that after. */
  readonly speedup: number;
  readonly quantization: QuantizationRecord;
}

async function quantizeAndCompare(
  context: Context,
  options: QuantizeCommandOptions & {
    readonly model: Model;
    /** Digest of the file. */
    readonly parent: string;
    readonly file: string;
    readonly dataset: Dataset;
  },
): Promise<QuantizeResult> {
  const { model, dataset, threads, seed, runs } = options;
  const { signal } = context;
  const input = { normalize: await isNormalized(context, options) };
  const calibration = context.progress.task(`Calibrating (${options.method})`, 1);
  const { model: quantized, record } = await quantizeNetwork(model, dataset, {
    method: options.method,
    percentile: options.percentile,
    samples: options.samples,
    exclude: options.exclude,
    // Without the flag the engine is asked.
    ...(options.reduceRange && { reduceRange: true }),
    parent: options.parent,
    input,
    threads,
    seed,
    signal,
    onProgress: (done, total) => calibration.update(done / total),
  });
  calibration.done(
    `on ${record.samples} training examples${record.reduceRange ? ', weights in 7 bits' : ''}`,
  );

  const score = async (network: Model) =>
    (await evaluate(withImageInput(network, dataset, input), dataset.test, { threads, signal })).accuracy;
  const scoring = context.progress.task('Scoring', 2);
  const before = await score(model);
  scoring.update(1);
  const after = await score(quantized);
  scoring.done(`${percent(before)} before, ${percent(after)} after`);

  const timing = context.progress.task('Measuring latency', 1);
  const [bytes, written] = [writeModel(model), writeModel(quantized)];
  const [float, integer] = await compareLatency([bytes, written], { runs, seed, signal });
  timing.done(`${milliseconds(float!)} before, ${milliseconds(integer!)} after`);
  return {
    model: quantized,
    file: options.file,
    out: options.out,
    accuracy: { before, after, count: dataset.test.count },
    latencyMs: { before: float!, after: integer! },
    sizeBytes: { before: bytes.byteLength, after: written.byteLength },
    speedup: float!.median / integer!.median,
    quantization: record,
  };
}

/** As the flag says, else as the network answers more examples right. */
async function isNormalized(
  { progress, signal }: Context,
  {
    model,
    file,
    dataset,
    normalizeInput,
    threads,
  }: Pick<QuantizeCommandOptions, 'normalizeInput' | 'threads'> & {
    readonly model: Model;
    readonly file: string;
    readonly dataset: Dataset;
  },
): Promise<boolean> {
  if (normalizeInput !== undefined) return normalizeInput;
  if (normalizesItself(model)) return false;
  const examples = normalizationExamples(dataset);
  const scores = await scoreNormalization(async (normalize) => {
    const network = withImageInput(model, dataset, { normalize });
    return (await evaluate(network, examples, { threads, signal })).accuracy;
  });
  progress.say(normalizationNotice(file, scores, examples.count));
  return scores.normalized > scores.plain;
}

function textOf({ out, accuracy, latencyMs, sizeBytes, speedup }: QuantizeResult): string {
  const table = alignedTable([
    ['', 'float32', 'int8'],
    ['accuracy', percent(accuracy.before), percent(accuracy.after)],
    ['latency', milliseconds(latencyMs.before), milliseconds(latencyMs.after)],
    ['size', kilobytes(sizeBytes.before), kilobytes(sizeBytes.after)],
  ]);
  const verdict =
    speedup > 1
      ? `${out}: ${speedup.toFixed(2)} times as fast as its float parent on this machine.`
      : `${out}: kept, but slower than its float parent: ${milliseconds(latencyMs.after)} against ` +
        `${milliseconds(latencyMs.before)} on this machine.`;
  return `${table}${verdict}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(2)} %`;
}

function milliseconds({ median }: Measurement): string {
  return `${median.toPrecision(3)} ms`;
}

function kilobytes(bytes: number): string {
  return `${(bytes / 1000).toFixed(1)} kB`;
}
