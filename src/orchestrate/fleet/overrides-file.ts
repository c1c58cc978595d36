import { open, readFile, rm, stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../../base/clock.ts';
import { BonsaiError, systemCodeOf, systemReason } from '../../base/errors.ts';
import { replaceFile } from '../../base/replace-file.ts';
import type { TaskOverride } from '../watch.ts';
import { type FleetOverrides, NO_OVERRIDES } from './overrides.ts';

export const overridesFileDefaults = {
  /** Between looks for the end of another change, which takes a millisecond. */
  pollMs: 20,
  /** After so long the other one is told instead. */
  patienceMs: 2_000,
  /** A lock that is older was left by a crash. */
  staleMs: 10_000,
} as const;

/**
 * What people have set by hand, in the file beside a fleet's state. The file and not an orchestrator has it: it counts
 * whoever orchestrates, and also where nobody does yet.
 * @returns nothing set where there is no file
 * @throws BonsaiError `invalid_config` for one that is not understood
 */
export async function readFleetOverrides(path: string): Promise<FleetOverrides> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (systemCodeOf(cause) === 'ENOENT') return NO_OVERRIDES;
    throw new BonsaiError('invalid_config', `${path} cannot be read: ${systemReason(cause)}.`, { cause });
  }
  const overrides = parsed(text);
  if (overrides === undefined) {
    throw new BonsaiError(
      'invalid_config',
      `${path} is not what people set by hand for a fleet. Remove it: then nothing is set, and drained servers are taken back.`,
    );
  }
  return overrides;
}

/**
 * Changes them; of several who do so at once, one after another.
 * @throws BonsaiError `unwritable_path`, `already_running` (somebody else does not end), `invalid_config`
 */
export async function changeFleetOverrides(
  path: string,
  change: (before: FleetOverrides) => FleetOverrides,
  clock: Clock,
): Promise<FleetOverrides> {
  const lock = `${path}.lock`;
  const handle = await lockAt(lock, clock);
  try {
    const after = change(await readFleetOverrides(path));
    await replaceFile(path, Buffer.from(`${JSON.stringify(after)}\n`)).catch((cause: unknown) => {
      throw unwritable(path, cause);
    });
    return after;
  } finally {
    await handle.close();
    await rm(lock, { force: true });
  }
}

/** Reads them anew when the file has changed, which costs next to nothing while it has not. */
export function followFleetOverrides(path: string): () => Promise<FleetOverrides> {
  let seen: string | undefined;
  let latest = NO_OVERRIDES;
  return async () => {
    const status = await stat(path).catch(() => undefined);
    const version = status === undefined ? 'none' : `${status.ino}/${status.mtimeMs}/${status.size}`;
    if (version !== seen) latest = await readFleetOverrides(path);
    seen = version;
    return latest;
  };
}

async function lockAt(lock: string, clock: Clock): Promise<Awaited<ReturnType<typeof open>>> {
  const { pollMs, patienceMs, staleMs } = overridesFileDefaults;
  for (let waitedMs = 0; ; waitedMs += pollMs) {
    try {
      return await open(lock, 'wx');
    } catch (cause) {
      if (systemCodeOf(cause) !== 'EEXIST') throw unwritable(lock, cause);
    }
    const mtimeMs = (await stat(lock).catch(() => undefined))?.mtimeMs;
    if (mtimeMs !== undefined && clock.epochMs() - mtimeMs > staleMs) await rm(lock, { force: true });
    else if (waitedMs >= patienceMs) {
      throw new BonsaiError(
        'already_running',
        `Another program changes ${lock.slice(0, -'.lock'.length)} and does not end. Try again; if nobody does, remove ${lock}.`,
      );
    } else await delay(pollMs);
  }
}

function unwritable(path: string, cause: unknown): BonsaiError {
  return new BonsaiError(
    'unwritable_path',
    `${path} cannot be written: ${systemReason(cause)}. What is set by hand is kept beside the state of the fleet.`,
    { cause },
  );
}

function parsed(text: string): FleetOverrides | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isRecord(value) || !isRecord(value.tasks) || !Array.isArray(value.drained)) return undefined;
  if (!value.drained.every((name) => typeof name === 'string')) return undefined;
  const tasks: Record<string, TaskOverride> = Object.create(null);
  for (const [task, override] of Object.entries(value.tasks)) {
    if (!isRecord(override)) return undefined;
    const { version, sloMs } = override;
    if (version !== undefined && !(Number.isInteger(version) && Number(version) > 0)) return undefined;
    if (sloMs !== undefined && !(typeof sloMs === 'number' && sloMs > 0)) return undefined;
    tasks[task] = { version: version as number | undefined, sloMs }; // An integer, as was just checked.
  }
  return { tasks: { ...tasks }, drained: value.drained };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
