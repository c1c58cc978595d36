import { createHash } from 'node:crypto';
import { cpus as listCpus } from 'node:os';
import { InvalidArgumentError } from '../base/errors.ts';
import { ENGINE_VERSION } from './session.ts';

/** This machine as a target of profiles, with a budget of CPUs (may be a fraction). @throws InvalidArgumentError for a budget that is not positive */
export function describeTarget(options: { readonly cpus: number }): TargetDescription {
  if (!(options.cpus > 0 && Number.isFinite(options.cpus))) {
    throw new InvalidArgumentError(
      `A target has ${options.cpus} CPUs; the budget should be a positive number.`,
    );
  }
  const fields = {
    cpuModel: listCpus()[0]?.model.trim() || 'unknown CPU',
    architecture: process.arch,
    cpus: options.cpus,
    runtime: 'onnxruntime',
    runtimeVersion: ENGINE_VERSION,
  };
  return { fingerprint: fingerprintOf(fields), ...fields };
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
}

/** 48 bits: two of a thousand targets meet with probability below 2e-9, and people can still read it aloud. */
export const FINGERPRINT_DIGITS = 12;

/** A pure function of the fields, in a fixed order. */
export function fingerprintOf(fields: Omit<TargetDescription, 'fingerprint'>): string {
  const { cpuModel, architecture, cpus, runtime, runtimeVersion } = fields;
  const text = JSON.stringify([cpuModel, architecture, cpus, runtime, runtimeVersion]);
  return createHash('sha256').update(text).digest('hex').slice(0, FINGERPRINT_DIGITS);
}
