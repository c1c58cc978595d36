import { frontierOf } from '../../repository/frontier.ts';
import { profileOf, type Variant } from '../../repository/types.ts';
import type { Lab, LabTask } from '../lab.ts';
import { spread } from '../scale.ts';

/** The versions that are measured: all, or as many as the scale allows, evenly over the family; fastest last. */
export function measuredVersions({ scale }: Pick<Lab, 'scale'>, { manifest }: LabTask): Variant[] {
  const all = manifest.variants.toSorted((a, b) => maximumOf(a) - maximumOf(b));
  if (all.length <= scale.versions) return all;
  const frontier = frontierOf(all, 'inverseThroughput');
  return spread(frontier.length >= scale.versions ? frontier : all, scale.versions);
}

/** Maximal throughput by the profile of this machine, in requests per second. */
export function maximumOf(variant: Variant): number {
  return profileOf(variant)!.throughputRps.median; // Tasks of the lab are profiled.
}
