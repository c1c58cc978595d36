import { expect, it } from 'vitest';
import { fuzz } from '../bench/fuzz.ts';

it('answers every malformed REST request by a 4xx and goes on serving', async () => {
  const { statuses, failures } = await fuzz(1_000, 7);
  expect(failures).toEqual([]);
  expect([...statuses.keys()].sort()).toEqual(expect.arrayContaining([400, 404, 413, 431]));
});
