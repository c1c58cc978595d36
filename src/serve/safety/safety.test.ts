import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deflateSync, gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { inflateBounded, MAX_RATIO, UNSUSPICIOUS_BYTES } from './inflate.ts';
import { Access, readTokens } from './tokens.ts';

describe('tokens', () => {
  it('keep inference and administration apart, the latter including the former', () => {
    const access = new Access({ inference: ['user', 'user2'], administration: ['root'] });
    const allowed = (authorization: string | undefined) => [
      access.allows('inference', authorization),
      access.allows('administration', authorization),
    ];
    expect(allowed('Bearer user')).toEqual([true, false]);
    expect(allowed('bearer user2')).toEqual([true, false]);
    expect(allowed('Bearer root')).toEqual([true, true]);
    for (const wrong of [
      undefined,
      '',
      'Bearer',
      'Bearer ',
      'Basic root',
      'Bearer roo',
      'Bearer root x',
      'root',
    ])
      expect(allowed(wrong)).toEqual([false, false]);
  });

  it('guard administration by those of inference where it has none, and nothing where there are none', () => {
    const guarded = new Access({ inference: ['user'] });
    expect(guarded.allows('administration', undefined)).toBe(false);
    expect(guarded.allows('administration', 'Bearer user')).toBe(true);
    expect(guarded.guardsAdministration).toBe(false);
    const half = new Access({ administration: ['root'] });
    expect([half.allows('inference', undefined), half.allows('administration', undefined)]).toEqual([
      true,
      false,
    ]);
    half.replace({});
    expect(half.allows('administration', undefined)).toBe(true);
  });

  it('come one a line from a file that is refused where it cannot be meant', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'bonsai-tokens-'));
    const file = join(folder, 'tokens');
    try {
      await writeFile(file, ' one \r\n\ntwo\n');
      expect(await readTokens(file)).toEqual(['one', 'two']);
      await writeFile(file, '\n');
      await expect(readTokens(file)).rejects.toThrow(/is empty/);
      await writeFile(file, 'two words\n');
      await expect(readTokens(file)).rejects.toThrow(/without spaces/);
      await expect(readTokens(join(folder, 'nowhere'))).rejects.toThrow(/cannot be read/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe('decompression', () => {
  const text = Buffer.from('a body, a body, a body');

  it('gives back what was compressed, and tells how much as it comes', async () => {
    let total = 0;
    const grow = (bytes: number) => {
      total += bytes;
    };
    expect(await inflateBounded(gzipSync(text), 'gzip', 100, grow)).toEqual(text);
    expect(await inflateBounded(deflateSync(text), 'deflate', 100, grow)).toEqual(text);
    expect(total).toBe(2 * text.length);
  });

  it('stops at the limit, at a suspicious ratio, at the will of the caller, and at damage', async () => {
    await expect(inflateBounded(gzipSync(text), 'gzip', text.length - 1)).rejects.toMatchObject({
      code: 'body_too_large',
    });
    const zeros = gzipSync(Buffer.alloc(2 * UNSUSPICIOUS_BYTES));
    expect(zeros.length * MAX_RATIO).toBeLessThan(2 * UNSUSPICIOUS_BYTES);
    await expect(inflateBounded(zeros, 'gzip', 2 ** 30)).rejects.toThrow(/unfolds to more than/);
    const small = gzipSync(Buffer.alloc(UNSUSPICIOUS_BYTES));
    expect((await inflateBounded(small, 'gzip', 2 ** 30)).length).toBe(UNSUSPICIOUS_BYTES);
    const stop = new Error('no room');
    await expect(
      inflateBounded(gzipSync(text), 'gzip', 100, () => {
        throw stop;
      }),
    ).rejects.toBe(stop);
    await expect(inflateBounded(text, 'gzip', 100)).rejects.toMatchObject({ code: 'invalid_request' });
    await expect(inflateBounded(gzipSync(text).subarray(0, 12), 'gzip', 100)).rejects.toThrow(
      /unexpected end/,
    );
    await expect(inflateBounded(new Uint8Array(0), 'gzip', 100)).rejects.toThrow(/cannot be decompressed/);
  });
});
