import { createHash } from 'node:crypto';
import { cpus as listCpus } from 'node:os';
import { InvalidArgumentError } from '../base/errors.ts';
import { ENGINE_VERSION } from './session.ts';

/**
 * This machine as a target of profiles, with a budget of CPUs (may be a fraction).
 * @param options.isPinned whether what is measured is bound to these CPUs; default true. A server that is not may use
 *   others for its sockets, so it is another target.
 * @throws InvalidArgumentError for a budget that is not positive
 */
export function describeTarget(options: {
  readonly cpus: number;
  readonly isPinned?: boolean;
}): TargetDescription {
  return identified({
    cpuModel: listCpus()[0]?.model.trim() || UNKNOWN_CPU,
    architecture: process.arch,
    cpus: checkBudget(options.cpus),
    runtime: 'onnxruntime',
    runtimeVersion: ENGINE_VERSION,
    ...(options.isPinned === false && { unpinned: true }),
  });
}

/**
 * A machine that nothing is known of but its name: the target of a server that does not describe its own.
 * @param options.name tells apart what one host runs one after the other, such as `edge-box, 2 cores`
 * @throws InvalidArgumentError for a budget that is not positive
 */
export function describeForeignTarget(options: {
  readonly host: string;
  readonly name?: string;
  readonly cpus: number;
  readonly runtime: string;
  readonly runtimeVersion: string;
}): TargetDescription {
  const { host, name, cpus, runtime, runtimeVersion } = options;
  return identified({
    cpuModel: UNKNOWN_CPU,
    architecture: 'unknown',
    cpus: checkBudget(cpus),
    runtime,
    runtimeVersion,
    host,
    ...(name !== undefined && { name }),
  });
}

/**
 * The target that a server sent in its metadata; undefined where it is none. The fingerprint is computed anew, so that
 * it is always one of the fields.
 */
export function parseTarget(value: unknown): TargetDescription | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { cpuModel, architecture, cpus, runtime, runtimeVersion, unpinned } = value as Record<
    string,
    unknown
  >; // Each is checked next.
  const texts = [cpuModel, architecture, runtime, runtimeVersion];
  if (!texts.every((text): text is string => typeof text === 'string')) return undefined;
  if (typeof cpus !== 'number' || !(cpus > 0 && Number.isFinite(cpus))) return undefined;
  return identified({
    cpuModel: String(cpuModel),
    architecture: String(architecture),
    cpus,
    runtime: String(runtime),
    runtimeVersion: String(runtimeVersion),
    ...(unpinned === true && { unpinned: true }),
  });
}

/** Structurally the `Target` of the repository, which the engine does not import. */
export interface TargetDescription {
  /** The first digits of a SHA-256 over the other fields. */
  readonly fingerprint: string;
  readonly cpuModel: string;
  readonly architecture: string;
  readonly cpus: number;
  readonly runtime: string;
  readonly runtimeVersion: string;
  /** The server is not bound to its CPUs. */
  readonly unpinned?: true;
  /** Of a server that does not describe its machine: the machine's name, and what its owner calls it. */
  readonly host?: string;
  readonly name?: string;
}

/** Where neither the system nor a server tells. */
export const UNKNOWN_CPU = 'unknown CPU';

/** 48 bits: two of a thousand targets meet with probability below 2e-9, and people can still read it aloud. */
export const FINGERPRINT_DIGITS = 12;

/** A pure function of the fields, in a fixed order; fields that are absent leave no trace. */
export function fingerprintOf(fields: Omit<TargetDescription, 'fingerprint'>): string {
  const { cpuModel, architecture, cpus, runtime, runtimeVersion, unpinned, host, name } = fields;
  const rare = { unpinned, host, name };
  const isPlain = Object.values(rare).every((field) => field === undefined);
  const text = JSON.stringify([
    cpuModel,
    architecture,
    cpus,
    runtime,
    runtimeVersion,
    ...(isPlain ? [] : [rare]),
  ]);
  return createHash('sha256').update(text).digest('hex').slice(0, FINGERPRINT_DIGITS);
}

function identified(fields: Omit<TargetDescription, 'fingerprint'>): TargetDescription {
  return { fingerprint: fingerprintOf(fields), ...fields };
}

function checkBudget(cpus: number): number {
  if (cpus > 0 && Number.isFinite(cpus)) return cpus;
  throw new InvalidArgumentError(`A target has ${cpus} CPUs; the budget should be a positive number.`);
}
