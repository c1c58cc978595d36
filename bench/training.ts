import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { seededRandom } from '../src/base/random.ts';
import {
  elementCount,
  float32Tensor,
  floatsOf,
  int64Tensor,
  scalarTensor,
  type Tensor,
} from '../src/base/tensor.ts';
import { probeBlockSize } from '../src/engine/probe-block.ts';
import type { Session } from '../src/engine/session.ts';
import type { Model } from '../src/graph/model.ts';
import { readModel } from '../src/graph/onnx/read.ts';
import { writeModel } from '../src/graph/onnx/write.ts';
import { openStepSession } from '../src/port/train/step-session.ts';
import { buildTrainingStep, readParameters } from '../src/transform/autodiff/training-step.ts';
import { lowerTrainingStep } from '../src/transform/lower/lower.ts';
import { CLASSES, NETS, SIZE } from './training-nets.ts';

/**
 * How fast is a training step (forward, backward, SGD with momentum), and how much memory does it take, beside
 * PyTorch's on the same network, weights and images? Each side has a process of its own; they take turns of two steps,
 * so that whatever else the machine does meets all of them. PyTorch runs in its default layout and with channels last.
 * Prints milliseconds (minimum and median over rounds), images per second, the ratios of medians, and peak memory. Run:
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/training.js [options] [net…]
 *   --rounds 12   --batch 64   --threads 2   --python python3 (with torch; 'none' leaves PyTorch out)   --standard
 *   (also: standard operators)
 */
interface Turn {
  readonly ms: readonly number[];
  /** Of all threads; waiting busily counts. */
  readonly cpuMs: readonly number[];
  readonly losses: readonly number[];
  readonly rssMiB: number;
}

const STEPS_PER_TURN = 2;
/** Threads of one side may wait busily for some milliseconds after its turn. */
const PAUSE_MS = 30;

const RECIPE = { optimizer: { name: 'sgd', momentum: 0.9, nesterov: false, weightDecay: 1e-4 } } as const;

async function compare(given: string[]): Promise<void> {
  const options = { rounds: '12', batch: '64', threads: '2', python: 'python3' };
  const names: string[] = [];
  let isStandardAsked = false;
  for (let i = 0; i < given.length; i++) {
    const key = given[i]!.replace(/^--/, '');
    if (key === 'standard') isStandardAsked = true;
    else if (key in options) options[key as keyof typeof options] = given[++i]!;
    else names.push(given[i]!);
  }
  const block = await probeBlockSize();
  for (const [name, make] of Object.entries(NETS)) {
    if (names.length > 0 && !names.includes(name)) continue;
    const folder = mkdtempSync(join(tmpdir(), 'bonsai-bench-'));
    const file = describe(make(), Number(options.batch), folder);
    const self = fileURLToPath(import.meta.url);
    const python = join(process.cwd(), 'bench/training.py');
    // PyTorch's first: by the time it has answered, the machine is as quiet as a training of ours would find it.
    const sides: Record<string, Side> = {
      ...(options.python !== 'none' && {
        torch: new Side(options.python, [python, file, 'contiguous', options.threads]),
        'torch, channels last': new Side(options.python, [python, file, 'channels_last', options.threads]),
      }),
      ours: new Side(process.execPath, [self, '--worker', file, `${block}`, options.threads]),
      ...(isStandardAsked && {
        standard: new Side(process.execPath, [self, '--worker', file, '1', options.threads]),
      }),
    };
    try {
      for (let round = -1; round < Number(options.rounds); round++) {
        for (const side of Object.values(sides)) {
          await side.turn(STEPS_PER_TURN, round >= 0);
          await setTimeout(PAUSE_MS);
        }
      }
      report(name, sides, Number(options.batch));
    } finally {
      for (const side of Object.values(sides)) side.end();
      rmSync(folder, { recursive: true });
    }
  }
}

class Side {
  readonly times: number[] = [];
  readonly cpuTimes: number[] = [];
  readonly losses: number[] = [];
  rssMiB = 0;
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(command: string, args: readonly string[]) {
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  async turn(steps: number, counts: boolean): Promise<void> {
    this.#child.stdin!.write(`${steps}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error('A side of the comparison ended early; its message is above.');
    const turn: Turn = JSON.parse(value);
    this.losses.push(...turn.losses);
    this.rssMiB = turn.rssMiB;
    if (!counts) return;
    this.times.push(...turn.ms);
    this.cpuTimes.push(...turn.cpuMs);
  }

  end(): void {
    this.#child.stdin!.end();
  }
}

function report(name: string, sides: Readonly<Record<string, Side>>, batch: number): void {
  const sorted = (side: Side) => [...side.times].sort((a, b) => a - b);
  const median = (side: Side) => sorted(side)[side.times.length >> 1]!;
  const peers = Object.entries(sides).filter(([key]) => key.startsWith('torch'));
  for (const [key, side] of Object.entries(sides)) {
    const ms = median(side);
    const columns = [
      name.padEnd(26),
      key.padEnd(21),
      `${sorted(side)[0]!.toFixed(1).padStart(6)} ms min`,
      `${ms.toFixed(1).padStart(6)} ms median`,
      `${Math.min(...side.cpuTimes)
        .toFixed(0)
        .padStart(4)} ms CPU`,
      `${((batch / ms) * 1e3).toFixed(0).padStart(5)} img/s`,
      `${side.rssMiB.toFixed(0).padStart(5)} MiB`,
      `loss ${side.losses[0]!.toFixed(4)} … ${side.losses.at(-1)!.toFixed(4)}`,
    ];
    if (!key.startsWith('torch'))
      columns.push(...peers.map(([peer, other]) => `${(median(other) / ms).toFixed(2)} × ${peer}`));
    process.stdout.write(`${columns.join('  ')}\n`);
  }
}

/** Writes what both sides need: the network as a list of nodes for PyTorch, as ONNX for Bonsai, images and labels. */
function describe(model: Model, batch: number, folder: string): string {
  const random = seededRandom(2);
  const step = buildTrainingStep(model, { batch, ...RECIPE });
  const trained = new Set(step.parameters.map((slot) => slot.name));
  const image = float32Tensor(
    [batch, 3, SIZE, SIZE],
    Float32Array.from({ length: batch * 3 * SIZE * SIZE }, () => random.normal()),
  );
  const label = Array.from({ length: batch }, () => random.integer(CLASSES));
  const tensors: [string, readonly number[], number, boolean][] = [];
  const parts: Float32Array[] = [];
  let offset = 0;
  for (const [name, tensor] of [['image', image] as const, ...model.graph.initializers]) {
    if (tensor.dtype !== 'float32') continue;
    tensors.push([name, tensor.shape, offset, trained.has(name)]);
    parts.push(floatsOf(tensor));
    offset += elementCount(tensor.shape);
  }
  const flat = new Float32Array(offset);
  parts.forEach((part, i) => {
    flat.set(part, tensors[i]![2]);
  });
  const weights = join(folder, 'weights.bin');
  writeFileSync(weights, new Uint8Array(flat.buffer));
  const network = join(folder, 'net.onnx');
  writeFileSync(network, writeModel(model));
  const nodes = model.graph.nodes.map((node) => ({
    opType: node.opType,
    inputs: node.inputs,
    output: node.outputs[0],
    attributes: Object.fromEntries([...node.attributes].map(([key, attribute]) => [key, attribute.value])),
  }));
  const file = join(folder, 'net.json');
  writeFileSync(
    file,
    JSON.stringify({ tensors, weights, network, nodes, label, batch }, (_, value) =>
      typeof value === 'bigint' ? Number(value) : value,
    ),
  );
  return file;
}

/** One side's process: a turn of as many steps as each line of the standard input says. */
async function work(file: string, block: number, threads: number): Promise<void> {
  const { network, tensors, weights, label, batch } = JSON.parse(readFileSync(file, 'utf8'));
  const model = readModel(readFileSync(network));
  const step = buildTrainingStep(model, { batch, ...RECIPE });
  const { parameters, state } = readParameters(model, step);
  const [, shape, ,] = tensors[0];
  const bytes = readFileSync(weights).subarray(0, 4 * elementCount(shape));
  const feeds: Record<string, Tensor> = {
    image: float32Tensor(shape, new Float32Array(new Uint8Array(bytes).buffer)),
    label: int64Tensor(label),
    learning_rate: scalarTensor(0.01),
    parameters: float32Tensor([step.parameterCount], parameters),
    velocity: float32Tensor([step.parameterCount], new Float32Array(step.parameterCount)),
  };
  for (const { name, shape } of step.state) feeds[`state/${name}`] = float32Tensor(shape, state[name]!);
  const lowered = writeModel(lowerTrainingStep(step.model, { block }));
  let session: Session | undefined;
  for await (const line of createInterface({ input: process.stdin })) {
    session ??= await openStepSession(lowered, threads);
    const turn = { ms: [] as number[], cpuMs: [] as number[], losses: [] as number[], rssMiB: 0 };
    for (let i = 0; i < Number(line); i++) {
      const [start, cpu] = [performance.now(), process.cpuUsage()];
      const results = await session.run(feeds);
      for (const [name, value] of Object.entries(results)) {
        if (name.includes('_next')) feeds[name.replace('_next', '')] = value;
      }
      turn.ms.push(performance.now() - start);
      const { user, system } = process.cpuUsage(cpu);
      turn.cpuMs.push((user + system) / 1e3);
      turn.losses.push(floatsOf(results.loss!)[0]!);
    }
    turn.rssMiB = process.resourceUsage().maxRSS / 1024;
    process.stdout.write(`${JSON.stringify(turn)}\n`);
  }
  await session?.release();
}

const args = process.argv.slice(2);
if (args[0] === '--worker') await work(args[1]!, Number(args[2]), Number(args[3]));
else await compare(args);
