import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type FleetRecord, readFleetRecord, writeFleetRecord } from './record.ts';

let folder: string;
let path: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-record-'));
  path = join(folder, 'fleet.state.json');
});
afterEach(() => rm(folder, { recursive: true, force: true }));

test('a state is read as it was written, and one that is not there is none', async () => {
  expect(await readFleetRecord(path)).toBeUndefined();
  const record = { schemaVersion: 1, servers: [], tasks: [], decisions: [] } as unknown as FleetRecord;
  await writeFleetRecord(path, record);
  expect(await readFleetRecord(path)).toEqual(record);
});

test.each(['', '\0\0\0', '{"schemaVersion":1,"term":3,"servers":[{"na'])(
  'a state that a power loss left as %j is known for one',
  async (text) => {
    await writeFile(path, text);
    await expect(readFleetRecord(path)).rejects.toMatchObject({ code: 'corrupt_checkpoint' });
  },
);

test.each(['repository: zoo\n', '[1, 2', '{"servers":[]}', '{"schemaVersion":99,"servers":[]}'])(
  'a file %j is not taken for a damaged state',
  async (text) => {
    await writeFile(path, text);
    await expect(readFleetRecord(path)).rejects.toMatchObject({ code: 'invalid_config' });
  },
);
