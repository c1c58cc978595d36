import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Decompressor, FrameReader, frameOf } from './framing.ts';

const SEED = 8001;
const LIMIT = 4 * 1024 * 1024;

function readAll(reader: FrameReader, chunks: readonly Buffer[]): Buffer[] {
  const messages: Buffer[] = [];
  for (const chunk of chunks) {
    reader.push(chunk);
    for (let framed = reader.next(); framed !== undefined; framed = reader.next())
      messages.push(Buffer.from(framed.bytes));
  }
  return messages;
}

describe('frames', () => {
  it('give back the messages however the bytes were cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 2000 }), { maxLength: 6 }),
        fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1, maxLength: 20 }),
        (messages, sizes) => {
          const all = Buffer.concat(messages.map(frameOf));
          const chunks: Buffer[] = [];
          for (let i = 0, at = 0; at < all.length; i++) {
            const size = sizes[i % sizes.length]!;
            // A copy, as the network gives them: nobody may write behind a chunk.
            chunks.push(Buffer.from(all.subarray(at, at + size)));
            at += size;
          }
          const reader = new FrameReader(LIMIT);
          expect(readAll(reader, chunks)).toEqual(messages.map((message) => Buffer.from(message)));
          expect(reader.isInside).toBe(false);
        },
      ),
      { seed: SEED, numRuns: 300 },
    );
  });

  it('of a long message grow with what comes, not with what is announced', () => {
    const message = Buffer.alloc(3 * 1024 * 1024, 7);
    const frame = frameOf(message);
    const chunks = Array.from({ length: Math.ceil(frame.length / 16_384) }, (_, i) =>
      frame.subarray(i * 16_384, (i + 1) * 16_384),
    );
    expect(readAll(new FrameReader(LIMIT), chunks)[0]?.equals(message)).toBe(true);
  });

  it('are refused when announced too long, or begun wrongly', () => {
    const long = new FrameReader(10);
    long.push(Buffer.from([0, 0, 0, 0, 11]));
    expect(() => long.next()).toThrow(/maximum of 10 bytes: it has 11 bytes/);
    const wrong = new FrameReader(10);
    wrong.push(Buffer.from([2, 0, 0, 0, 1]));
    expect(() => wrong.next()).toThrow(/begins with the flag 2/);
  });
});

describe('compression', () => {
  it('is taken off within the limit and not beyond it', async () => {
    const decompressor = new Decompressor();
    const text = Buffer.from('bonsai '.repeat(500));
    expect(Buffer.from(await decompressor.run(gzipSync(text), 'gzip', 10_000)).equals(text)).toBe(true);
    const bomb = gzipSync(Buffer.alloc(1_000_000));
    await expect(decompressor.run(bomb, 'gzip', 10_000)).rejects.toThrow(/larger when decompressed/);
    await expect(decompressor.run(text, 'gzip', 10_000)).rejects.toThrow(/cannot be decompressed/);
    await expect(decompressor.run(text, undefined, 10_000)).rejects.toThrow(/names no compression/);
  });

  it('of many messages is taken off a few at a time, each of them in the end', async () => {
    const decompressor = new Decompressor();
    const bodies = Array.from({ length: 40 }, (_, i) => Buffer.alloc(1000, i));
    const results = await Promise.all(bodies.map((body) => decompressor.run(gzipSync(body), 'gzip', 2000)));
    expect(results.map((bytes) => Buffer.from(bytes))).toEqual(bodies);
  });
});
