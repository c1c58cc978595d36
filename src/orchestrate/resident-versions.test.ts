import { expect, test } from 'vitest';
import { wantedVersions } from './resident-versions.ts';

const residents: Readonly<Record<string, readonly number[]>> = { digits: [3, 5], signs: [2] };
const residentOf = (task: string) => residents[task] ?? [];

test('a load and an unload of one task become one change', () => {
  const wanted = wantedVersions(
    [
      { kind: 'unload', task: 'digits', version: 3 },
      { kind: 'load', task: 'digits', version: 1 },
      { kind: 'load', task: 'signs', version: 1 },
    ],
    residentOf,
  );
  expect([...wanted]).toEqual([
    ['digits', [1, 5]],
    ['signs', [1, 2]],
  ]);
});

test('what changes nothing, or would leave a task without any version, is left out', () => {
  const wanted = wantedVersions(
    [
      { kind: 'load', task: 'digits', version: 3 },
      { kind: 'unload', task: 'digits', version: 4 },
      { kind: 'unload', task: 'signs', version: 2 },
    ],
    residentOf,
  );
  expect([...wanted]).toEqual([]);
});
