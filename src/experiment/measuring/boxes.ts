import { quantile } from '../../base/statistics.ts';
import type { Box } from '../../report/box-figure.ts';

/** Location and spread of repeated measurements, as figures draw them. */
export function boxOf(values: readonly number[]): Box {
  return {
    min: quantile(values, 0),
    lowerQuartile: quantile(values, 0.25),
    median: quantile(values, 0.5),
    upperQuartile: quantile(values, 0.75),
    max: quantile(values, 1),
  };
}

/** Interquartile range over median: how much repetitions of one thing differ. */
export function relativeSpread(box: Box): number {
  return (box.upperQuartile - box.lowerQuartile) / box.median;
}
