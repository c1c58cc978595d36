import { mean, quantile } from '../../base/statistics.ts';
import type { Box } from '../../report/box-figure.ts';
import type { Measurement } from '../../repository/types.ts';

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

/** The same as profiles have it. */
export function summarizeMeasurement(values: readonly number[]): Measurement {
  return {
    count: values.length,
    mean: mean(values),
    median: quantile(values, 0.5),
    min: quantile(values, 0),
    max: quantile(values, 1),
  };
}

/** Interquartile range over median: how much repetitions of one thing differ. */
export function relativeSpread(box: Box): number {
  return (box.upperQuartile - box.lowerQuartile) / box.median;
}
