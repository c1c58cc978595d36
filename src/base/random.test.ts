import { describe, expect, it } from 'vitest';
import { permutation, seededRandom } from './random.ts';

describe('seeded random numbers', () => {
  it('are the same for the same seed and differ for neighbouring ones from the first number on', () => {
    expect(seededRandom(7).uniform()).toBe(seededRandom(7).uniform());
    const firsts = Array.from({ length: 1000 }, (_, seed) => seededRandom(seed).uniform());
    const mean = firsts.reduce((sum, value) => sum + value) / firsts.length;
    // Uniform numbers have a standard deviation of 0.289, their mean over 1000 one of 0.0091: 5 sigma.
    expect(Math.abs(mean - 0.5)).toBeLessThan(0.046);
    expect(new Set(firsts.map((value) => Math.floor(10 * value))).size).toBe(10);
  });

  it('fork by label, whatever has been drawn', () => {
    const random = seededRandom(3);
    const before = random.fork('a').uniform();
    random.uniform();
    expect(random.fork('a').uniform()).toBe(before);
    expect(random.fork('b').uniform()).not.toBe(before);
  });

  it('have the moments that their names promise', () => {
    const random = seededRandom(1);
    const count = 20_000;
    const normals = Array.from({ length: count }, () => random.normal());
    const exponentials = Array.from({ length: count }, () => random.exponential(4));
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value) / count;
    expect(mean(normals)).toBeCloseTo(0, 1);
    expect(mean(normals.map((value) => value ** 2))).toBeCloseTo(1, 1);
    expect(mean(exponentials)).toBeCloseTo(0.25, 2);
  });

  it('permute: every index once', () => {
    expect([...permutation(50, seededRandom(5))].sort((a, b) => a - b)).toEqual(
      Array.from({ length: 50 }, (_, i) => i),
    );
  });
});
