import type { Member } from '../groups.ts';
import {
  type Criterion,
  type GroupOptions,
  type MemberScore,
  memberCriterion,
  stridesOf,
  weightsOf,
} from './criterion.ts';

/**
 * Filter pruning via geometric median: a channel's score in a member is the sum of Euclidean distances from its
 * slices to those of all other channels. The smallest sum lies closest to the geometric median, so that the others
 * can best stand in for it. Distances are those between the weights themselves, not their squares.
 * Source: He et al. 2019, "Filter Pruning via Geometric Median", equation 4.
 * @param sums the sums of distances of each member, where they are known already (`fpgmByEngine`)
 */
export function fpgmCriterion(options: GroupOptions = {}, sums: MemberScore = distanceSums): Criterion {
  return memberCriterion('fpgm', sums, options);
}

/**
 * The weights of each channel as rows of float32, less their mean row. That changes no distance, and keeps
 * ‖a‖² + ‖b‖² − 2 a·b from cancelling where all rows lie far from 0.
 */
export function centredRows(member: Member, channels: number): { rows: Float32Array; length: number } {
  const weights = rowsByChannel(member, channels);
  const length = weights.length / channels;
  const centre = new Float64Array(length);
  for (let start = 0; start < weights.length; start += length)
    for (let i = 0; i < length; i++) centre[i]! += weights[start + i]! / channels;
  const rows = new Float32Array(weights.length);
  for (let start = 0; start < weights.length; start += length)
    for (let i = 0; i < length; i++) rows[start + i] = weights[start + i]! - centre[i]!;
  return { rows, length };
}

/**
 * Adds to `sums` the distances of the rows `from` … `to` - 1 to all rows, from their products.
 * @param products of these rows with all, [to - from, channels]
 */
export function distanceSumsFrom(
  products: Float32Array,
  { rows, length, from, to }: RowRange,
  sums: Float64Array,
): void {
  const channels = rows.length / length;
  const squares = new Float64Array(channels);
  for (let channel = 0; channel < channels; channel++) {
    let sum = 0;
    for (let at = channel * length; at < (channel + 1) * length; at++) sum += rows[at]! * rows[at]!;
    squares[channel] = sum;
  }
  for (let a = from; a < to; a++) {
    const start = (a - from) * channels;
    let sum = 0;
    for (let b = 0; b < channels; b++) {
      if (b !== a) sum += Math.sqrt(Math.max(0, squares[a]! + squares[b]! - 2 * products[start + b]!));
    }
    sums[a]! += sum;
  }
}

export interface RowRange {
  readonly rows: Float32Array;
  readonly length: number;
  readonly from: number;
  readonly to: number;
}

/**
 * For each channel, Σ over the other channels j of ‖w_c − w_j‖, for C channels of D weights in C² · D / 2 steps. Four
 * rows at a time, so that a row is read from memory once for four distances.
 */
function distanceSums(member: Member, channels: number): Float64Array {
  const rows = rowsByChannel(member, channels);
  const length = rows.length / channels;
  const sums = new Float64Array(channels);
  const add = (a: number, b: number, squares: number) => {
    const distance = Math.sqrt(squares);
    sums[a]! += distance;
    sums[b]! += distance;
  };
  for (let b = 1; b < channels; b++) {
    const right = b * length;
    let a = 0;
    for (; a + 4 <= b; a += 4) {
      const [r0, r1, r2, r3] = [a * length, (a + 1) * length, (a + 2) * length, (a + 3) * length];
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      for (let i = 0; i < length; i++) {
        const w = rows[right + i]!;
        const d0 = rows[r0 + i]! - w;
        const d1 = rows[r1 + i]! - w;
        const d2 = rows[r2 + i]! - w;
        const d3 = rows[r3 + i]! - w;
        s0 += d0 * d0;
        s1 += d1 * d1;
        s2 += d2 * d2;
        s3 += d3 * d3;
      }
      add(a, b, s0);
      add(a + 1, b, s1);
      add(a + 2, b, s2);
      add(a + 3, b, s3);
    }
    for (; a < b; a++) {
      let squares = 0;
      for (let i = 0; i < length; i++) {
        const difference = rows[a * length + i]! - rows[right + i]!;
        squares += difference * difference;
      }
      add(a, b, squares);
    }
  }
  return sums;
}

/**
 * All weights of each channel in a row of its own. A channel with fewer slices than another (they differ only where
 * slices of the parameter belong to channels of several kinds) is filled up with zeros.
 */
function rowsByChannel(member: Member, channels: number): Float32Array | Float64Array {
  const values = weightsOf(member);
  const { size, inner, outer } = stridesOf(member);
  const { indices, units } = member;
  const counts = new Int32Array(channels);
  for (const unit of units) counts[unit]!++;
  const slices = counts.reduce((most, count) => Math.max(most, count), 0);
  const length = slices * outer * inner;
  const rows =
    values instanceof Float32Array
      ? new Float32Array(channels * length)
      : new Float64Array(channels * length);
  const filled = new Int32Array(channels);
  for (let i = 0; i < indices.length; i++) {
    const unit = units[i]!;
    let to = unit * length + filled[unit]! * outer * inner;
    filled[unit]!++;
    for (let block = 0; block < outer; block++) {
      const from = (block * size + indices[i]!) * inner;
      for (let at = from; at < from + inner; at++) rows[to++] = values[at]!;
    }
  }
  return rows;
}
