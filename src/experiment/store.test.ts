import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  folderOf,
  RESULTS_SCHEMA_VERSION,
  readResults,
  type StoredResults,
  storedPart,
  writeResults,
  writeText,
} from './store.ts';

let out: string;
beforeAll(async () => {
  out = await mkdtemp(join(tmpdir(), 'bonsai-store-'));
});
afterAll(() => rm(out, { recursive: true }));

const makeResults = (experiment: string, more: Partial<StoredResults> = {}): StoredResults => ({
  schemaVersion: RESULTS_SCHEMA_VERSION,
  experiment,
  identity: 'a',
  measuredAt: '2026-01-02T03:04:05.000Z',
  tookMs: 12,
  made: [['Seed', '1']],
  results: { figure: 3 },
  ...more,
});

describe('results on disk', () => {
  it('come back as they were written, and are none before', async () => {
    expect(await readResults(out, 'none')).toBeUndefined();
    await writeResults(out, makeResults('one'));
    expect(await readResults(out, 'one')).toEqual(makeResults('one'));
  });

  it('are refused where they are no results, somebody else’s, or of a later layout', async () => {
    await writeText(folderOf(out, 'broken'), 'results.json', '{"schemaVersion":');
    await expect(readResults(out, 'broken')).rejects.toThrow(/broken.results\.json is no JSON/);
    await writeText(folderOf(out, 'other'), 'results.json', JSON.stringify(makeResults('one')));
    await expect(readResults(out, 'other')).rejects.toThrow(/holds no results of "other"/);
    const later = makeResults('later', { schemaVersion: RESULTS_SCHEMA_VERSION + 1 });
    await writeText(folderOf(out, 'later'), 'results.json', JSON.stringify(later));
    await expect(readResults(out, 'later')).rejects.toThrow(/Use a newer Bonsai/);
  });

  it('are compressed where their name says so', async () => {
    await writeText(out, 'requests.csv.gz', 'a,b\n');
    expect(gunzipSync(await readFile(join(out, 'requests.csv.gz'))).toString()).toBe('a,b\n');
  });
});

describe('parts of an experiment', () => {
  it('are measured once under one identity, and again under another', async () => {
    const folder = folderOf(out, 'parted');
    let measured = 0;
    const part = (identity: string) =>
      storedPart(folder, 'run 1: trivial', identity, async () => ({ count: ++measured }));
    expect([await part('a'), await part('a'), await part('b')]).toEqual([
      { count: 1 },
      { count: 1 },
      { count: 2 },
    ]);
  });

  it('are measured again where their file was cut off', async () => {
    const folder = folderOf(out, 'cut');
    await storedPart(folder, 'x', 'a', async () => 1);
    const [file] = await readdir(join(folder, 'parts'));
    await writeFile(join(folder, 'parts', file!), '{"identity":"a"}');
    expect(await storedPart(folder, 'x', 'a', async () => 2)).toBe(2);
  });

  it('go when the whole is there, and stay for the next try where it failed', async () => {
    const folder = folderOf(out, 'whole');
    await storedPart(folder, 'x', 'a', async () => 1);
    await writeResults(out, makeResults('whole', { results: undefined, absent: 'It failed.' }));
    expect(await storedPart(folder, 'x', 'a', async () => 2)).toBe(1);
    await writeResults(out, makeResults('whole'));
    expect(await readdir(folder)).toEqual(['results.json']);
  });
});
