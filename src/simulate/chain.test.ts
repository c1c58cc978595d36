import { expect, test } from 'vitest';
import { geometricChain } from './chain.ts';

test('a chain falls from accuracy 1 along its power while throughput rises in equal factors', () => {
  const chain = geometricChain({
    versions: 3,
    slowestRps: 10,
    fastestRps: 1000,
    lowestAccuracy: 0.6,
    exponent: 2,
  });
  expect(chain.map(({ version }) => version)).toEqual([1, 2, 3]);
  expect(chain.map(({ accuracy }) => accuracy.test)).toEqual([1, 0.9, 0.6]);
  const rates = chain.map(({ profiles }) => Object.values(profiles)[0]!.throughputRps.median);
  expect(rates[1]! / rates[0]!).toBeCloseTo(10);
  expect(rates[2]).toBeCloseTo(1000);
});

test.each([
  { versions: 0 },
  { versions: 1.5 },
  { versions: 257 },
  { slowestRps: 0 },
  { slowestRps: 10, fastestRps: 9 },
  { lowestAccuracy: 1.1 },
  { exponent: 0 },
])('a chain of %o is refused, with what there may be', (options) => {
  expect(() => geometricChain(options)).toThrow(/A chain needs 1 to 256 versions/);
});
