import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { writeConstantFamily } from '../../test/constant-family.fixture.ts';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** [accuracy, throughput] of versions 1, 2, … */
const FAMILY = [
  [0.95, 100],
  [0.93, 300],
  [0.9, 900],
  [0.82, 2500],
] as const;

/** Writes tasks of four tiny networks each, whose answer is their version. */
export async function writeTasks(root: string, tasks: readonly string[]): Promise<void> {
  for (const task of tasks) await writeConstantFamily(root, task, FAMILY);
}

export interface Served {
  readonly http: string;
  readonly metrics: string;
  readonly control: string;
  /** As a crash would. */
  kill(): Promise<void>;
}

/** Starts `bonsai serve` in a process of its own. @param controlPort 0: any free one; `off`: none */
export async function serve(
  root: string,
  controlPort: number | 'off',
  args: readonly string[],
): Promise<Served> {
  const ports = ['--port', '0', '--grpc-port', 'off', '--metrics-port', '0'];
  const control = ['--control-port', String(controlPort)];
  const child = spawn(
    process.execPath,
    [
      main,
      'serve',
      root,
      '--json',
      '--exit-with-parent',
      '--log-level',
      'error',
      ...ports,
      ...control,
      ...args,
    ],
    { cwd: root, stdio: ['pipe', 'pipe', 'inherit'] },
  );
  const [line] = await once(createInterface(child.stdout!), 'line');
  return { ...JSON.parse(line), kill: () => kill(child) };
}

/**
 * Starts `bonsai orchestrate`, with its page at a port.
 * @param target a repository, or the file of a fleet
 * @returns ends it
 */
export function orchestrate(
  root: string,
  controlPort: number,
  args: readonly string[],
  target: string = root,
): () => Promise<void> {
  const child = spawn(
    process.execPath,
    [main, 'orchestrate', target, '--control-port', String(controlPort), ...args],
    { cwd: root, stdio: ['ignore', 'ignore', 'ignore'] },
  );
  return () => kill(child);
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

/** A port that was free a moment ago, for a server that is to come back at the same address. */
export async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const address = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('A TCP server has a port.');
  return address.port;
}

/** Asks a task so many times. @returns how many answers each version gave; requests that are refused count as version 0 */
export async function ask(
  http: string,
  task: string,
  count: number,
  parameters: Record<string, unknown> = {},
): Promise<ReadonlyMap<number, number>> {
  const inputs = [{ name: 'image', datatype: 'FP32', shape: [1, 1], data: [0.5] }];
  const answers = new Map<number, number>();
  for (let i = 0; i < count; i++) {
    const response = await fetch(`${http}/v2/models/${task}/infer`, {
      method: 'POST',
      body: JSON.stringify({ inputs, parameters }),
    });
    const body = (await response.json()) as { readonly model_version?: string };
    const version = Number(body.model_version ?? 0);
    answers.set(version, (answers.get(version) ?? 0) + 1);
  }
  return answers;
}

/** A counter or gauge of the metrics, summed over the labels that are not named. */
export async function metric(
  metrics: string,
  name: string,
  labels: Record<string, string> = {},
): Promise<number> {
  const page = await (await fetch(metrics)).text();
  let sum = 0;
  for (const line of page.split('\n')) {
    if (!line.startsWith(`${name}{`) && !line.startsWith(`${name} `)) continue;
    if (Object.entries(labels).every(([label, value]) => line.includes(`${label}="${value}"`)))
      sum += Number(line.slice(line.lastIndexOf(' ') + 1));
  }
  return sum;
}
